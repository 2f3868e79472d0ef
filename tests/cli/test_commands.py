"""From pictures to a LoRA to a picture, by the command line alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.cli import main

ROOT = Path(__file__).parents[2]


def generate(checkpoint: Path, loras: Path, output: Path, prompt: str) -> bytes:
    words = ["generate", "--checkpoint", str(checkpoint), "--device", "cpu", "--lora-dir", str(loras)]
    words += ["--prompt", prompt, "--seed", "3", "--steps", "3", "--size", "64x64", "--output", str(output)]
    assert main(words) == 0
    with Image.open(output) as picture:
        return picture.tobytes()


def test_strengths_differ_and_zero_is_no_tag(checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    prompts = {
        "none": "a cat",
        "zero": "a cat <lora:cat:0>",
        "some": "a cat <lora:cat:0.7>",
        "full": "a cat <lora:cat:1>",
    }
    seen = {name: generate(checkpoint, lora.parent, tmp_path / f"{name}.png", text) for name, text in prompts.items()}
    assert seen["zero"] == seen["none"]
    assert len({seen["none"], seen["some"], seen["full"]}) == 3
    with Image.open(tmp_path / "some.png") as picture:
        assert picture.info["parameters"].startswith("a cat <lora:cat:0.7>\nSteps: 3, Sampler: Euler, CFG scale: 7")


def test_the_end_is_told(checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[data]\nresolution = 64\n[optim]\nmax_steps = 2\nepochs = 1\n[network]\nrank = 2\n")
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--output", str(tmp_path / "new")]
    assert main([*words, "--device", "cpu", "--config", str(config)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / "new.safetensors"), "<lora:new:1>"]
    assert "2/2" in err
    assert "loss" in err
    assert sorted(os.listdir(tmp_path)) == ["new.config.toml", "new.log.csv", "new.safetensors", "run.toml"]


def test_previews_are_files(checkpoint: Path, pictures: Path, small: list[str], tmp_path: Path) -> None:
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--device", "cpu", *small]
    previews = ["--preview-prompt", "a cat\na dog --w 128", "--preview-every", "6", "--preview-steps", "1"]
    sizes = ["--preview-width", "64", "--preview-height", "64"]
    assert main([*words, *previews, *sizes, "--output", str(tmp_path / "seen")]) == 0
    shown = sorted((tmp_path / "seen.previews").iterdir())
    assert [path.name for path in shown] == ["step000006-1.png", "step000006-2.png"]
    with Image.open(shown[1]) as picture:
        assert (picture.size, picture.info["parameters"]) == ((128, 64), "a dog")


def test_a_dry_run_says_what_a_run_would_see_and_take(
    checkpoint: Path, pictures: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--device", "cpu", *small]
    assert main([*words, "--output", str(tmp_path / "none"), "--dry-run", "--alpha", "9"]) == 0
    out, _ = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "2 pictures, 2 seen per epoch, 1 different captions"
    assert any("64 x 64" in line for line in lines)
    assert any("Alpha is larger than the rank" in line for line in lines)
    predicted = [line for line in lines if line.startswith("Predicted: ")]
    assert "UNet" in predicted[0]
    assert "Adapters" in predicted[0]
    assert "a file of" in predicted[1]
    assert not list(tmp_path.iterdir())
    assert main([*words, "--output", str(tmp_path / "none"), "--dry-run", "--clip-skip", "12"]) == 2
    assert "clip_skip" in capsys.readouterr().err


def test_overwrite_replaces(checkpoint: Path, pictures: Path, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "old.safetensors").write_bytes(b"old")
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--device", "cpu", *small]
    assert main([*words, "--output", str(tmp_path / "old"), "--overwrite"]) == 0
    assert (tmp_path / "old.safetensors").stat().st_size > 1000


def test_info(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(lora)]) == 0
    table = capsys.readouterr().out
    assert "SD 1.x" in table
    assert "ss_network_dim" in table
    assert main(["info", str(lora), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metadata"]["ss_network_dim"] == "4"
    assert told["made_for"] == "SD 1.x"


@pytest.mark.filterwarnings("error:TypedStorage is deprecated")
def test_a_run_is_made_longer_under_its_own_name(
    checkpoint: Path, pictures: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--output", str(tmp_path / "cat")]
    words += [*small, "--device", "cpu", "--state-every", "1"]
    assert main([*words, "--max-steps", "1"]) == 0
    assert main([*words, "--max-steps", "2"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--max-steps", "2", "--resume"]) == 0
    assert "Going on after step 1" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one child")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_was_learnt(
    checkpoint: Path, pictures: Path, small: list[str], tmp_path: Path, which: signal.Signals
) -> None:
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--device", "cpu", *small]
    words += ["--output", str(tmp_path / "cut"), "--max-steps", "100000"]
    with subprocess.Popen(
        [sys.executable, "-m", "lora_ext", *words], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        assert any("Training" in line for line in run.stderr)
        time.sleep(1)
        run.send_signal(which)
        out, err = run.communicate(timeout=600)
    assert run.returncode == 130, err
    assert "stopped" in err
    assert out.splitlines()[-1] == "<lora:cut:1>"
    assert main(["info", str(tmp_path / "cut.safetensors")]) == 0


def test_a_fault_of_ours_is_shown_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_words: list[str]) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr("lora_ext.cli._run", broken)
    assert main(["info", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err
