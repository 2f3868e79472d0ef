"""The main job in the real WebUI: train, then use what was trained, and leave everything as it was."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from webui_server import Server, apart

CAT = "a photo of a cat"
FAMILIES = ("sd1", "sdxl", "sd2")


@pytest.fixture(scope="session", params=FAMILIES)
def each(request: pytest.FixtureRequest) -> str:
    """For the whole session, so that pytest runs the tests of one family after another: a switch takes time."""
    return request.param


@pytest.fixture
def family(each: str, server: Server) -> str:
    server.load(f"{each}.safetensors")
    return each


@pytest.fixture
def trained(family: str, server: Server, pictures: Path) -> str:
    """Name of a LoRA of this family trained in this server, text encoder too; `<name>2` is another one."""
    for name, seed in ((f"{family} käthe", 0), (f"{family} käthe2", 7)):
        if not (server.loras / f"{name}.safetensors").exists():
            server.train(name, pictures, seed=seed, text_encoder_lr=0.002)
    return f"{family} käthe"


def differences(before: dict, after: dict) -> dict:
    """What of the model's state changed, by name."""
    return {
        key: [n for n in before[key] if before[key][n] != after[key].get(n)][:5]
        if isinstance(before[key], dict)
        else key
        for key in before
        if before[key] != after[key]
    }


def test_training_leaves_the_model_as_it_was(family: str, server: Server, pictures: Path) -> None:
    png, before = server.png(), server.get("/probe/model")
    job = server.train(f"{family} plain", pictures, preview_prompt=CAT, preview_every=10, preview_steps=4,
                       preview_width=64, preview_height=64, text_encoder_lr=0.001)  # fmt: skip
    assert job["step"] == 30 and job["preview"]["id"] == 3
    assert differences(before, server.get("/probe/model")) == {}
    assert server.png() == png, "the PNG without tags is not the same byte for byte"


def test_a_trained_file_is_usable_at_once(trained: str, server: Server) -> None:
    plain = server.png(CAT)
    assert trained in [lora["name"] for lora in server.get("/sdapi/v1/loras")], "no card for the new file"
    one = server.png(f"{CAT}<lora:{trained}:0.7>")
    assert apart(one, plain) > 8, "the LoRA does nothing"
    assert apart(server.png(f"{CAT}<lora:{trained}:0.35>"), one) > 0
    assert server.png(CAT) == plain, "without the tag the picture is not what it was"


def test_two_combine_in_any_order(trained: str, server: Server) -> None:
    one, other = f"<lora:{trained}:0.7>", f"<lora:{trained}2:0.5>"
    both = server.png(CAT + one + other)
    assert apart(both, server.png(CAT + one)) > 0 and apart(both, server.png(CAT + other)) > 0
    assert apart(both, server.png(CAT + other + one)) == 0, "the order changes the picture"


def test_the_same_twice_adds_up_and_lyco_means_lora(trained: str, server: Server) -> None:
    once = server.png(f"{CAT}<lora:{trained}:0.75>")
    assert apart(once, server.png(f"{CAT}<lora:{trained}:0.5><lora:{trained}:0.25>")) == 0
    assert apart(once, server.png(f"{CAT}<lyco:{trained}:0.75>")) == 0


def test_the_builtin_loader_draws_the_same_from_our_file(trained: str, server: Server) -> None:
    plain, ours = server.png(CAT), server.png(f"{CAT}<lora:{trained}:0.7>")
    forwards = server.get("/probe/forwards")
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:{trained}:0.7>"), ours) <= 2
        assert server.get("/probe/forwards")["Linear"] == "networks"
        server.png(f"{CAT}<lora:{trained}:0.7>")  # stays in its weights
    assert server.png(CAT) == plain, "taking over did not empty the builtin's set"
    assert server.get("/probe/forwards") == forwards
    assert not {"networks", "lora_patches"} & set(forwards.values()), "the builtin's Python is still in every layer"


def test_our_modules_give_the_hosts_own_numbers(family: str, server: Server) -> None:
    found = server.get("/probe/parity")
    assert all(value <= 1e-5 for value in found.values()), found


def test_training_while_a_lora_is_on(trained: str, server: Server, pictures: Path) -> None:
    with_tag = server.png(f"{CAT}<lora:{trained}:0.7>")
    before = server.get("/probe/model")  # the LoRA is in the weights
    server.train("while on", pictures, max_steps=3)
    assert differences(before, server.get("/probe/model")) == {}
    assert server.png(f"{CAT}<lora:{trained}:0.7>") == with_tag


@pytest.mark.parametrize("loader", ["ours", "builtin"])
def test_training_starts_from_the_plain_weights(loader: str, server: Server, pictures: Path) -> None:
    server.load("sd1.safetensors")
    server.train("clean", pictures, max_steps=2)
    clean = (server.loras / "clean.safetensors").read_bytes()
    if loader == "builtin":
        with server.builtin():
            server.png(f"{CAT}<lora:clean:100>")
            server.train("clean", pictures, max_steps=2)
    else:
        server.png(f"{CAT}<lora:clean:100>")
        server.train("clean", pictures, max_steps=2)
    again = (server.loras / "clean.safetensors").read_bytes()
    assert tensors(again) == tensors(clean), "networks that were on leaked into the training"


def tensors(file: bytes) -> bytes:
    """The numbers of a safetensors file."""
    return file[8 + int.from_bytes(file[:8], "little") :]


def test_stop_keeps_what_was_learnt_and_gives_everything_back(server: Server, pictures: Path) -> None:
    server.load("sd1.safetensors")
    png, before = server.png(), server.get("/probe/model")
    server.start("stopped", pictures, max_steps=100000)
    server.wait_for_step(3)
    server.post("/lora-ext/v1/job/stop", {})
    job = server.wait_for_end()
    assert (job["state"], job["saved"][-1]["final"]) == ("stopped", True)
    assert (server.loras / "stopped.safetensors").exists()
    assert differences(before, server.get("/probe/model")) == {}
    assert server.png() == png


def test_the_hosts_interrupt_button_stops_too(server: Server, pictures: Path) -> None:
    server.start("interrupted", pictures, max_steps=100000)
    server.wait_for_step(2)
    server.post("/sdapi/v1/interrupt", {})
    assert server.wait_for_end()["state"] == "stopped"


def test_an_exception_in_mid_run_gives_everything_back(server: Server, pictures: Path) -> None:
    server.load("sd1.safetensors")
    png, before = server.png(), server.get("/probe/model")
    server.post("/probe/fail/4", {})
    server.start("broken", pictures)
    job = server.wait_for_end()
    assert job["state"] == "failed" and "broken on purpose" in job["problems"][0]["text"]
    assert differences(before, server.get("/probe/model")) == {}
    assert server.png() == png
    assert server.train("mended", pictures, max_steps=2)["step"] == 2


def test_the_host_stays_responsive_and_a_picture_waits_its_turn(server: Server, pictures: Path) -> None:
    server.load("sd1.safetensors")
    plain = server.png()
    server.start("long", pictures, max_steps=100000)
    server.wait_for_step(1)
    drawn: list[bytes] = []
    thread = threading.Thread(target=lambda: drawn.append(server.png()))
    thread.start()
    for path in ("/sdapi/v1/progress", "/sdapi/v1/options", "/lora-ext/v1/job"):
        began = time.monotonic()
        server.get(path, timeout=10)
        assert time.monotonic() - began < 5
    server.wait_for_step(server.job()["step"] + 2)
    assert not drawn, "the picture did not wait for the training"
    server.post("/lora-ext/v1/job/stop", {})
    thread.join(120)
    assert drawn == [plain]


def test_a_second_start_is_refused(server: Server, pictures: Path) -> None:
    server.start("first", pictures, max_steps=100000)
    with pytest.raises(AssertionError, match="already running"):
        server.start("second", pictures)
    server.post("/lora-ext/v1/job/stop", {})
    server.wait_for_end()


def test_previews_are_what_txt2img_draws_afterwards(server: Server, pictures: Path) -> None:
    import urllib.request

    server.load("sd1.safetensors")
    wish = {"preview_prompt": CAT, "preview_every": 5, "preview_steps": 4, "preview_seed": 1,
            "preview_width": 64, "preview_height": 64}  # fmt: skip
    server.png(CAT)  # the host keeps this prompt's conditioning, which the text encoder will outgrow
    job = server.train("seen", pictures, max_steps=5, save_precision="fp32", text_encoder_lr=0.01, **wish)
    with urllib.request.urlopen(f"{server.url}/lora-ext/v1/preview/{job['preview']['id']}") as answer:
        preview = answer.read()
    assert apart(preview, server.png(f"{CAT}<lora:seen:1>", sampler_name="DPM++ 2M")) == 0


def test_a_preview_does_not_touch_the_users_last_prompt(server: Server, pictures: Path) -> None:
    server.load("sd1.safetensors")
    server.png("my own prompt")
    before = (server.data / "params.txt").read_text(encoding="utf8")
    server.train("quiet", pictures, max_steps=2, preview_prompt="not mine", preview_every=1, preview_steps=1,
                 preview_width=64, preview_height=64)  # fmt: skip
    assert (server.data / "params.txt").read_text(encoding="utf8") == before


def test_bad_settings_come_back_by_field(server: Server, pictures: Path) -> None:
    with pytest.raises(AssertionError, match="422") as refused:
        server.start("x", pictures / "nowhere", rank="many")
    problems = json.loads(str(refused.value).split("422 ", 1)[1])["problems"]
    assert {p["field"] for p in problems} >= {"rank"}
