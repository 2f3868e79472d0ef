"""Tags in the real WebUI's prompts: the bad ones, and what the host does behind our back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from webui_server import Server, apart

CAT = "a photo of a cat"


@pytest.fixture(autouse=True)
def sd1(server: Server) -> None:
    server.load("sd1.safetensors")


@pytest.fixture
def lora(server: Server, pictures: Path) -> Path:
    """A LoRA that changes the text encoder as well."""
    path = server.loras / "tagged.safetensors"
    if not path.exists():
        server.train("tagged", pictures, text_encoder_lr=0.01)
    return path


@pytest.mark.parametrize("tag", ["<lora:tagged:abc>", "<lora:tagged:nan>", "<lora:tagged:1e9>", "<lora:tagged:>"])
def test_a_bad_strength_is_told_and_left_out(tag: str, lora: Path, server: Server) -> None:
    good = server.png(f"{CAT}<lora:tagged:0.7>")
    assert apart(server.png(f"{CAT}{tag}<lora:tagged:0.7>"), good) == 0, "a bad tag hindered the good one"
    assert f"{tag}: the strength cannot be used" in server.comments(f"{CAT}{tag}")


def test_an_unknown_name_is_told_and_the_others_apply(lora: Path, server: Server) -> None:
    good = server.png(f"{CAT}<lora:tagged:0.7>")
    assert apart(server.png(f"{CAT}<lora:taged:1><lora:tagged:0.7>"), good) == 0
    assert "taged: there is no LoRA of this name. Did you mean tagged?" in server.comments(f"{CAT}<lora:taged:1>")


def test_a_damaged_file_is_told_and_the_others_apply(lora: Path, server: Server) -> None:
    (server.loras / "damaged.safetensors").write_bytes(lora.read_bytes()[:5000])
    good = server.png(f"{CAT}<lora:tagged:0.7>")
    assert apart(server.png(f"{CAT}<lora:damaged:1><lora:tagged:0.7>"), good) == 0
    assert "damaged.safetensors" in server.comments(f"{CAT}<lora:damaged:1>")


def test_a_bad_tag_does_not_leave_the_last_loras_on(lora: Path, server: Server) -> None:
    plain = server.png(CAT)
    server.png(f"{CAT}<lora:tagged:0.7>")
    assert apart(server.png(f"{CAT}<lora:tagged:abc>"), plain) == 0


def test_parts_can_have_strengths_of_their_own(lora: Path, server: Server) -> None:
    both, unet, text = (server.png(f"{CAT}<lora:tagged:{s}>") for s in ("1", "0:1", "te=1:unet=0"))
    assert len({both, unet, text, server.png(CAT)}) == 4
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:tagged:0:1>"), unet) <= 2


def test_hashes_stand_in_the_pictures_text(lora: Path, server: Server) -> None:
    ours = re.search(r'Lora hashes: "([^"]+)"', server.infotext(f"{CAT}<lora:tagged:0.7>"))
    with server.builtin():
        theirs = re.search(r'Lora hashes: "([^"]+)"', server.infotext(f"{CAT}<lora:tagged:0.7>"))
    assert ours and theirs and ours[1] == theirs[1]
    assert "Lora hashes" not in server.infotext(CAT)


def test_a_file_overwritten_under_its_name_counts_at_once(lora: Path, server: Server, pictures: Path) -> None:
    tag = f"{CAT}<lora:changing:1:0>"  # the text encoder alone: the host's cache of conditionings must not be stale
    shutil.copy(lora, server.loras / "changing.safetensors")
    first = server.png(tag)
    server.train("changing", pictures, text_encoder_lr=0.01, seed=5)
    second = server.png(tag)
    assert apart(first, second) > 0
    shutil.copy(lora, server.loras / "changing.safetensors")
    assert server.png(tag) == first


def test_a_file_that_appears_needs_no_refresh(lora: Path, server: Server) -> None:
    sub = server.loras / "süb"
    sub.mkdir(exist_ok=True)
    plain = server.png(f"{CAT}<lora:fresh one:1>")
    shutil.copy(lora, sub / "fresh one.safetensors")
    assert apart(server.png(f"{CAT}<lora:fresh one:1>"), plain) > 0
    by_path = server.png(f"{CAT}<lora:süb/fresh one:1>")
    assert apart(by_path, server.png(f"{CAT}<lora:fresh one:1>")) == 0


def test_another_checkpoint_while_a_lora_is_on(lora: Path, server: Server) -> None:
    plain, tagged = server.png(CAT), server.png(f"{CAT}<lora:tagged:0.7>")
    server.load("sdxl.safetensors")
    assert "SD 1.x" in server.comments(f"{CAT}<lora:tagged:0.7>"), "a file of another family was not told"
    server.load("sd1.safetensors")
    assert server.png(CAT) == plain
    assert server.png(f"{CAT}<lora:tagged:0.7>") == tagged


def test_a_checkpoint_of_the_same_build_while_a_lora_is_on(lora: Path, server: Server) -> None:
    tag = f"{CAT}<lora:tagged:0.7>"
    drawn = {}
    for name in ("sd1", "sd1-other"):
        server.load(f"{name}.safetensors")
        drawn[name] = server.png(tag), server.png(CAT)  # ends without LoRAs
    assert "sd1-other.safetensors" in server.text().split("Weights loaded in")[-2], "not loaded into the same tensors"
    for name in ("sd1", "sd1-other", "sd1"):
        server.load(f"{name}.safetensors")  # with a LoRA on from the second time
        assert server.png(tag) == drawn[name][0], name
    server.load("sd1-other.safetensors")
    assert server.png(CAT) == drawn["sd1-other"][1]


def test_the_same_weights_loaded_again_while_a_lora_is_on(lora: Path, server: Server) -> None:
    plain, tagged = server.png(CAT), server.png(f"{CAT}<lora:tagged:0.7>")
    server.get("/probe/reload-weights")  # into the same tensors
    assert server.png(f"{CAT}<lora:tagged:0.7>") == tagged
    assert server.png(CAT) == plain


def test_high_resolution_pass_with_a_lora(lora: Path, server: Server) -> None:
    wish = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    plain, tagged = server.png(CAT, **wish), server.png(f"{CAT}<lora:tagged:0.7>", **wish)
    assert apart(plain, tagged) > 0
    with server.builtin():
        assert apart(server.png(f"{CAT}<lora:tagged:0.7>", **wish), tagged) <= 2


def test_reload_ui_keeps_working(lora: Path, server: Server) -> None:
    plain, tagged = server.png(CAT), server.png(f"{CAT}<lora:tagged:0.7>")
    name = server.job()["name"]
    before = len(server.text())
    server.reload_ui()
    assert server.png(f"{CAT}<lora:tagged:0.7>") == tagged
    assert server.png(CAT) == plain
    assert server.job()["name"] == name, "the job was lost"
    assert "Traceback" not in server.text()[before:]
    assert server.get("/probe/forwards")["Linear"] not in ("networks", "lora_patches")
