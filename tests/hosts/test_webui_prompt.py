"""What a tag can say, in the real WebUI: ranks, blocks, steps, passes, batches; and exact weights through it all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from network_files import write
from safetensors.torch import load_file, save_file
from webui_server import Server, apart

CAT = "a photo of a cat"
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "steps": 3}


@pytest.fixture(autouse=True)
def sd1(server: Server) -> None:
    server.load("sd1.safetensors")


@pytest.fixture(autouse=True, scope="module")
def files(server: Server, base_checkpoints: list[Path]) -> None:
    """`kind one` and `kind two` for SD 1.x, `big` for SDXL."""
    places = {path.stem: path for path in base_checkpoints}
    write(places["sd1"], "lora", server.loras / "kind one.safetensors", seed=1)
    write(places["sd1"], "locon", server.loras / "kind two.safetensors", seed=2)
    write(places["sdxl"], "lora", server.loras / "big.safetensors", seed=3)


@pytest.fixture(autouse=True)
def no_trace(server: Server, plain: bytes, sd1: None):
    """Whatever a test does: the next picture without tags is byte for byte what it was."""
    yield
    server.load("sd1.safetensors")
    assert server.png(CAT) == plain, "something of the last prompt stayed on"


@pytest.fixture(scope="module")
def plain(server: Server) -> bytes:
    server.load("sd1.safetensors")
    return server.png(CAT)


def same(server: Server, one: str, other: str, **more: object) -> None:
    assert apart(server.png(one, **more), server.png(other, **more)) == 0


@pytest.mark.parametrize("parts", ["0.8:0.8:2", "dyn=2:te=0.8", "0.3:0.9:3"])
def test_dyn_as_the_builtin(parts: str, server: Server, plain: bytes) -> None:
    ours = server.png(f"{CAT}<lora:kind one:{parts}>")
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:kind one:{parts}>"), ours) <= 2
    assert apart(server.png(f"{CAT}<lora:kind one:0.8>"), ours) > 2


def test_block_weights(server: Server, plain: bytes) -> None:
    same(server, f"{CAT}<lora:kind one:1:lbw=NONE>", CAT)
    same(server, f"{CAT}<lora:kind one:1:lbw={','.join('1' * 26)}>", f"{CAT}<lora:kind one:1>")
    base = ",".join(["1"] + ["0"] * 16)
    same(server, f"{CAT}<lora:kind one:0.8:{base}>", f"{CAT}<lora:kind one:te=0.8:unet=0>")
    inside, outside = server.png(f"{CAT}<lora:kind one:1:INALL>"), server.png(f"{CAT}<lora:kind one:1:OUTALL>")
    assert len({inside, outside, plain}) == 3
    assert "no place for IN03, " in server.comments(f"{CAT}<lora:kind two:1:lbw=OUTALL>")


def test_presets_of_the_extension(server: Server) -> None:
    folder = server.data / "extensions" / "sd-webui-lora-block-weight" / "scripts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lbwpresets.txt").write_text(f"MY OWN:{','.join(['X'] * 17)}\n", encoding="utf8")
    same(server, f"{CAT}<lora:kind one:1:MY OWN:0.5>", f"{CAT}<lora:kind one:0.5>")
    assert "Did you mean MY OWN?" in server.comments(f"{CAT}<lora:kind one:lbw=MY OWNN>")


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ SDE", "DDIM"])
def test_steps(sampler: str, server: Server, plain: bytes) -> None:
    how = {"sampler_name": sampler, "steps": 4}
    whole = f"{CAT}<lora:kind one:0:1>"
    same(server, f"{whole[:-1]}:stop=2><lora:kind one:0:1:start=2>", whole, **how)
    same(server, f"{whole[:-1]}:step=4-9>", CAT, **how)
    same(server, f"{whole[:-1]}:step=0-4>", f"{CAT}<lora:kind one:0:1@0,1@1>", **how)
    # DDIM's last step is too small to be seen
    last = server.png(f"{whole[:-1]}:start={2 if sampler == 'DDIM' else 3}>", **how)
    assert apart(last, server.png(CAT, **how)) > 0, "the last step was missed"
    assert apart(last, server.png(whole, **how)) > 0


def test_curves(server: Server) -> None:
    rising = server.png(f"{CAT}<lora:kind one:0:0@0,1@1>")
    assert rising == server.png(f"{CAT}<lora:kind one:0:0@0,1@1>")
    same(server, f"{CAT}<lora:kind one:0:0@0,1@3>", f"{CAT}<lora:kind one:0:0@0,1@1>")  # of four steps
    assert len({rising, server.png(f"{CAT}<lora:kind one:0:1>"), server.png(CAT)}) == 3
    same(server, f"{CAT}<lora:kind one:te=0.5@0,1@1:unet=0>", f"{CAT}<lora:kind one:te=0.5:unet=0>")
    assert "takes the strength of that step; got 0.5" in server.comments(f"{CAT}<lora:kind one:0.5@0,1@1>")


def test_strengths_of_the_second_pass(server: Server) -> None:
    first_only = server.png(f"{CAT}<lora:kind one:0.8>", **HIRES, hr_prompt=CAT)
    assert apart(server.png(f"{CAT}<lora:kind one:0.8:hr=0>", **HIRES), first_only) == 0
    second_only = server.png(CAT, **HIRES, hr_prompt=f"{CAT}<lora:kind one:0.8>")
    assert apart(server.png(f"{CAT}<lora:kind one:0:hr=0.8>", **HIRES), second_only) == 0
    plain, both = server.png(CAT, **HIRES), server.png(f"{CAT}<lora:kind one:0.8>", **HIRES)
    assert len({first_only, second_only, plain, both}) == 4


def test_each_pass_has_its_own_tags_as_with_the_builtin(server: Server) -> None:
    wish = {**HIRES, "hr_prompt": f"{CAT}<lora:kind two:0.7>"}
    ours = server.png(f"{CAT}<lora:kind one:0.7>", **wish)
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:kind one:0.7>", **wish), ours) <= 2


def test_every_picture_of_a_run_has_its_own_tags(server: Server) -> None:
    prompts = [f"{CAT}<lora:kind one:0.8>", CAT, f"{CAT}<lora:kind two:0.8:start=2>"]
    found = server.pictures("|||".join(prompts), n_iter=3)
    for number, prompt in enumerate(prompts):
        assert apart(found[number], server.png(prompt, seed=1 + number)) == 0


def test_mixed_tags_in_one_batch_are_told(server: Server) -> None:
    prompts = [f"{CAT}<lora:kind one:0.8>", CAT]
    found = server.pictures("|||".join(prompts), batch_size=2)
    assert "different tags" in server.get("/probe/comments")["comments"]
    assert apart(found[1], server.png(f"{CAT}<lora:kind one:0.8>", seed=2)) <= 2
    assert "different tags" not in server.comments(f"{CAT}<lora:kind one:0.8>")


@pytest.mark.parametrize("tag", ["<lora:kind one:0.8>", "<lora:kind one:0@0,1@1>"])
def test_an_exception_in_mid_sampling(tag: str, server: Server) -> None:
    good = server.png(CAT + tag)
    server.post("/probe/fail-sampling/2", {})
    with pytest.raises(AssertionError, match="broken on purpose"):
        server.png(CAT + tag)
    assert server.png(CAT + tag) == good


def test_the_refiner_gets_the_tags_too(server: Server) -> None:
    wish = {"refiner_checkpoint": "sd1-other.safetensors", "refiner_switch_at": 0.5}
    tags = f"{CAT}<lora:kind one:0.6><lora:kind two:0.5>"
    ours, plain = server.png(tags, **wish), server.png(CAT, **wish)
    server.png(CAT)  # the first model is there again
    server.set(sd_checkpoints_limit=2)
    try:
        assert apart(server.png(tags, **wish), ours) == 0, "with a second model made in the middle of the picture"
        assert apart(server.png(tags, **wish), ours) == 0, "with both models kept"
        assert apart(server.png(CAT, **wish), plain) == 0
    finally:
        server.set(sd_checkpoints_limit=1)


def test_a_refiner_of_another_family_is_told(server: Server) -> None:
    wish = {"refiner_checkpoint": "sdxl.safetensors", "refiner_switch_at": 0.5}
    tag = f"{CAT}<lora:kind one:0.8:start=3>"
    same(server, tag.replace(":start=3", ":0"), tag, **wish)  # only the text encoder of the first model
    assert "SD 1.x" in server.get("/probe/comments")["comments"]


def test_a_checkpoint_of_its_own_for_the_second_pass(server: Server) -> None:
    wish = {**HIRES, "hr_checkpoint_name": "sd1-other.safetensors"}
    ours = server.png(f"{CAT}<lora:kind one:0.8>", **wish)
    assert apart(ours, server.png(CAT, **wish)) > 0
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:kind one:0.8>", **wish), ours) <= 2


def test_inpainting(server: Server) -> None:
    server.load("sd1-inpainting.safetensors")
    plain, ours = server.png(CAT), server.png(f"{CAT}<lora:kind two:0.8>")
    assert apart(plain, ours) > 0 and server.png(CAT) == plain
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:kind two:0.8>"), ours) <= 2


def test_another_vae_while_a_lora_is_on(server: Server, base_checkpoints: list[Path]) -> None:
    other = next(path for path in base_checkpoints if path.stem == "sd1-other")
    prefix = "first_stage_model."
    vae = {key[len(prefix) :]: t for key, t in load_file(other).items() if key.startswith(prefix)}
    folder = server.data / "models" / "VAE"
    folder.mkdir(exist_ok=True)
    save_file(vae, folder / "other.vae.safetensors")
    ours = server.png(f"{CAT}<lora:kind one:0.8>")
    server.post("/sdapi/v1/refresh-vae", {})
    server.set(sd_vae="other.vae.safetensors")
    try:
        assert apart(server.png(f"{CAT}<lora:kind one:0.8>"), ours) > 0
    finally:
        server.set(sd_vae="Automatic")
    assert server.png(f"{CAT}<lora:kind one:0.8>") == ours


def test_a_checkpoint_without_text_encoder_keeps_the_plain_one(
    server: Server, base_checkpoints: list[Path], plain: bytes
) -> None:
    """The host then leaves the text encoder as it is; LoRAs that were on must not stay in it."""
    other = next(path for path in base_checkpoints if path.stem == "sd1-other")
    models = server.data / "models" / "Stable-diffusion"
    rest = {key: t for key, t in load_file(other).items() if not key.startswith("cond_stage_model.")}
    save_file(rest, models / "sd1-textless.safetensors")
    shutil.copy(models / "sd1.yaml", models / "sd1-textless.yaml")
    server.post("/sdapi/v1/refresh-checkpoints", {})
    server.load("sd1-textless.safetensors")
    expected = server.png(CAT)
    server.load("sd1.safetensors")
    server.png(f"{CAT}<lora:kind one:1>")
    server.load("sd1-textless.safetensors")
    assert server.png(CAT) == expected


def test_weights_that_someone_else_changed(server: Server) -> None:
    good = server.png(f"{CAT}<lora:kind one:0.8>")
    server.post("/probe/disturb", {})
    assert apart(server.png(f"{CAT}<lora:kind one:0.8>"), good) == 0


def test_a_file_removed_and_restored(server: Server, tmp_path: Path) -> None:
    file = server.loras / "coming and going.safetensors"
    shutil.copy(server.loras / "kind one.safetensors", file)
    tag = f"{CAT}<lora:coming and going:0.8:0>"  # the text encoder alone: the host's cache must not be stale
    on = server.png(tag)
    kept = shutil.move(file, tmp_path / "kept")
    assert apart(server.png(tag), server.png(CAT)) == 0
    assert "coming and going: there is no LoRA" in server.comments(tag)
    shutil.copy(server.loras / "kind two.safetensors", file)
    assert apart(server.png(tag), on) > 0
    shutil.move(kept, file)
    assert server.png(tag) == on


def test_bundled_embeddings_come_and_go_with_their_file(server: Server) -> None:
    bundle = load_file(server.loras / "kind one.safetensors")
    g = torch.Generator().manual_seed(0)
    bundle["bundle_emb.zorbo.string_to_param.*"] = torch.randn(2, 128, generator=g)
    save_file(bundle, server.loras / "bundle.safetensors")
    words = "a photo of a zorbo"
    without, ours = server.png(words), server.png(f"{words}<lora:bundle:0>")
    assert apart(ours, without) > 0 and server.get("/probe/embeddings") == ["zorbo"]
    assert server.png(words) == without and server.get("/probe/embeddings") == []
    with server.builtin():
        assert apart(server.png(f"{words}<lora:bundle:0>"), ours) <= 2
    assert server.png(words) == without and server.get("/probe/embeddings") == []


def test_handing_over_and_taking_back(server: Server, plain: bytes) -> None:
    ours = server.png(f"{CAT}<lora:kind one:0.8>")
    with server.builtin():
        assert server.png(CAT) == plain, "ours stayed on for the builtin"
    assert server.png(f"{CAT}<lora:kind one:0.8>") == ours


def test_a_lora_of_another_family_is_told(server: Server) -> None:
    told = server.comments(f"{CAT}<lora:big:1>")
    assert "big" in told and "SDXL" in told and "SD 1.x" in told


def test_another_extension_that_takes_the_tags(server: Server) -> None:
    ours = server.png(f"{CAT}<lora:kind one:0.8>")
    server.post("/probe/rival/true", {})
    try:
        assert apart(server.png(f"{CAT}<lora:kind one:0.8>"), ours) <= 2, "ours is still on, or the builtin asleep"
        assert "Rival) handles these tags" in server.get("/probe/comments")["comments"]
    finally:
        server.post("/probe/rival/false", {})
    assert apart(server.png(f"{CAT}<lora:kind one:0.8>"), ours) == 0
