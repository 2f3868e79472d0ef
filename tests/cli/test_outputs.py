"""Results are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.cli.outputs import check_lora_output, check_writable, lora_path, write_png
from lora_ext.errors import BadInput


def test_png_carries_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, Image.new("RGB", (8, 8), "red"), "ein Prompt, é 猫\nSteps: 3")
    with Image.open(path) as picture:
        assert picture.info["parameters"] == "ein Prompt, é 猫\nSteps: 3"
        assert picture.getpixel((4, 4)) == (255, 0, 0)
    assert os.listdir(tmp_path) == ["a.png"]


def test_parameters_that_are_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, Image.new("RGB", (8, 8), "red"), "a\udcffb")
    with Image.open(path) as picture:
        assert picture.info["parameters"] == "a?b"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_png(path, Image.new("RGB", (8, 8), "red"), "first")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space"):
        write_png(path, Image.new("RGB", (8, 8), "blue"), "second")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("given", "file"),
    [("cat", "cat.safetensors"), ("cat.v1", "cat.v1.safetensors"), ("a/cat.safetensors", "a/cat.safetensors")],
)
def test_lora_names(given: str, file: str) -> None:
    assert lora_path(given) == Path(file)


@pytest.mark.parametrize("given", ["cat.pt", "cat.ckpt"])
def test_other_endings_are_refused(given: str) -> None:
    with pytest.raises(BadInput, match=r"output: a LoRA is saved as \.safetensors"):
        lora_path(given)


def test_names_that_no_tag_can_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be typed in a <lora:name:0.7> tag"):
        check_lora_output(str(tmp_path / "a:b"), overwrite=False)


def test_a_disk_that_takes_nothing_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(BadInput, match=r"can be written to \(No space left on device\)"):
        check_writable(tmp_path / "new.png", overwrite=False)


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.png", overwrite=False)
    assert not os.listdir(tmp_path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    check_writable(tmp_path / "there.png", overwrite=True)
    check_writable(tmp_path / "new" / "new.png", overwrite=False)
    for path, said in [
        (tmp_path / "there.png", "exists already"),
        (tmp_path, "this is a folder"),
        (tmp_path / "there.png" / "a.png", "no folder that can be written to"),
    ]:
        with pytest.raises(BadInput, match=said):
            check_writable(path, overwrite=False)
