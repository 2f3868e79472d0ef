"""Other ways of starting the real WebUI; each is a server of its own."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from network_files import write
from safetensors.torch import load_file, save_file
from torch import Tensor
from webui_server import Server, apart, webui_folder

CAT = "a photo of a cat"
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "steps": 3}


@pytest.fixture
def serve(
    webui_python: Path, base_checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def started(flags: str = "", **more: object) -> Server:
        data = tmp_path_factory.mktemp("webui")
        running.append(Server(webui_folder(), webui_python, data, base_checkpoints[:1], flags, **more))
        return running[-1]

    yield started
    for server in running:
        server.stop()


def test_medvram_and_a_password(serve: Callable[..., Server], pictures: Path) -> None:
    server = serve("--medvram --api-auth artist:secret", login="artist:secret")
    plain, before = server.png(CAT), server.get("/probe/model")
    wish = {"preview_prompt": CAT, "preview_every": 5, "preview_steps": 1, "preview_width": 64, "preview_height": 64}
    server.train("cat", pictures, max_steps=10, text_encoder_lr=0.001, **wish)
    after = server.get("/probe/model")
    assert {key for key in before if before[key] != after[key]} == set()
    tag = f"{CAT}<lora:cat:1@0,0.5@1:hr=0.3>"
    ours, passes = server.png(f"{CAT}<lora:cat:1>"), server.png(tag, **HIRES)
    assert apart(ours, plain) > 0
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:cat:1>"), ours) <= 2
    assert server.png(tag, **HIRES) == passes
    assert server.png(CAT) == plain

    for login in ("", "artist:wrong", "artist:", "nobody:secret"):
        server.log_in(login)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.job()
        with pytest.raises(AssertionError, match="401"):
            server.start("stolen", pictures)


def test_a_login_for_the_page_guards_our_routes_too(serve: Callable[..., Server]) -> None:
    server = serve("--gradio-auth artist:secret")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        server.job()
    body = b"username=artist&password=secret"
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/login", body)) as answer:
        cookies = "; ".join(c.split(";")[0] for c in answer.headers.get_all("set-cookie"))
    server.headers["cookie"] = cookies
    assert server.job()["state"] == "idle"


def test_lowvram_is_refused_for_training_and_the_builtin_may_be_off(
    serve: Callable[..., Server], server: Server, pictures: Path, base_checkpoints: list[Path]
) -> None:
    usual = server
    usual.load("sd1.safetensors")
    server = serve("--lowvram", disabled_extensions=["Lora"])
    plain = server.png(CAT)
    for one in (usual, server):
        write(base_checkpoints[0], "locon", one.loras / "low.safetensors")
    wish = {**HIRES, "hr_prompt": f"{CAT}<lora:low:0.3@0,0.9@1>"}
    for tag, more in ((f"{CAT}<lora:low:0.8>", {}), (f"{CAT}<lora:low:0.8:hr=0.2>", HIRES), (CAT, wish)):
        assert apart(server.png(tag, **more), usual.png(tag, **more)) == 0
    assert server.png(CAT) == plain
    server.start("cat", pictures, max_steps=2)
    job = server.wait_for_end()
    assert job["state"] == "failed" and "--lowvram" in job["problems"][0]["text"]
    assert "missing: there is no LoRA" in server.comments(f"{CAT}<lora:missing:1>")
    assert server.png(CAT) == plain


@pytest.mark.parametrize("flags", ["", "--medvram"])
def test_weights_in_float16(serve: Callable[..., Server], base_checkpoints: list[Path], flags: str) -> None:
    """`--precision half`, no float32 on the way, see half_on_cpu.py. The host's other ways to float16 weights need
    CUDA's autocast. Pictures of a random model show each rounding, so that weights are compared."""
    server = serve(flags, precision="--precision half")
    before = server.get("/probe/model")
    assert "torch.float16" in before["dtypes"].values()
    plain = server.png(CAT)
    kinds = ("lora", "dora", "lokr")
    for kind in kinds:
        write(base_checkpoints[0], kind, server.loras / f"{kind}.safetensors")
        tagged = f"{CAT}<lora:{kind}:0.8>"
        assert apart(server.png(tagged), plain) > 8
        ours = live(server)
        with server.builtin():
            server.png(tagged)
            theirs = live(server)
        assert max(off(ours[key], theirs[key]) for key in ours) < 2e-3, "more than float16's rounding apart"
    tags = [f"<lora:{kind}:0.3>" for kind in kinds]
    together = server.png(CAT + "".join(tags))
    assert apart(server.png(CAT + "".join(reversed(tags))), together) == 0
    assert apart(server.png(f"{CAT}<lora:lora:0.2@0,0.8@1:hr=0.4>", **HIRES), server.png(CAT, **HIRES)) > 8

    loud = {
        key: t * (1e6 if "lora_up" in key else 1) for key, t in load_file(server.loras / "lora.safetensors").items()
    }
    save_file(loud, server.loras / "loud.safetensors")
    both = f"{CAT}<lora:loud:1>{''.join(tags)}"
    assert "float16" in server.comments(both), "numbers that the weights cannot hold are not told"
    assert apart(server.png(both), together) == 0
    assert server.png(CAT) == plain and server.get("/probe/model")["tensors"] == before["tensors"]


def live(server: Server) -> dict[str, Tensor]:
    """The UNet's weights as they are."""
    place = server.data / "unet.safetensors"
    server.post(f"/probe/save-unet?place={urllib.parse.quote(str(place))}", {})
    return load_file(place)


def off(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-9))


def test_weights_in_fp8(serve: Callable[..., Server], base_checkpoints: list[Path]) -> None:
    """No word of the builtin here: on a CPU it multiplies its factors in bf16, too coarse to compare with."""
    server = serve("", fp8_storage="Enable")
    assert any("float8" in dtype for dtype in server.get("/probe/model")["dtypes"].values()), "the host has no fp8"
    write(base_checkpoints[0], "lora", server.loras / "coarse.safetensors")
    plain, before = server.png(CAT), server.get("/probe/model")["tensors"]
    ours = server.png(f"{CAT}<lora:coarse:0.8>")
    assert apart(ours, plain) > 0
    assert server.png(CAT) == plain and server.get("/probe/model")["tensors"] == before
    assert server.png(f"{CAT}<lora:coarse:0.8>") == ours
    server.set(cache_fp16_weight=True)
    assert "'Cache FP16 weight for LoRA' is the builtin loader's" in server.comments(f"{CAT}<lora:coarse:0.8>")
