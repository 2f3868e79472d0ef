"""`compare`: a sheet from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lora_ext.cli import main

QUICK = ("--device", "cpu", "--width", "64", "--height", "64", "--steps", "1")


def test_a_sheet_is_written(checkpoint: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheets" / "cats.png"
    words = ["compare", str(lora), "--checkpoint", str(checkpoint), "--prompt", "a cat", "--prompt", "a dog", *QUICK]
    assert main([*words, "--strengths", "0, 1", "--output", str(sheet)]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(sheet)
    assert "picture 4/4" in err
    with Image.open(sheet) as picture:
        assert picture.info["comparison"].splitlines()[0].startswith("Columns: cat")
        assert picture.height > 4 * 64


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--strengths", "0,nan,x"], ["strengths: ", "got nan", "got 'x'"]),
        (["--strengths", " , "], ["strengths: no strength is chosen"]),
        (["--prompt", "a <lora:cat:1>"], ["prompts: a prompt of the sheet has no tags"]),
        (["--width", "65", "--pictures", "0"], ["width: ", "pictures: "]),
        (["--output", "sheet.jpg"], ["output: pictures are written as PNG"]),
        (["--strengths", ",".join(str(n / 100) for n in range(1, 402))], ["files: this would be 401 pictures"]),
    ],
)
def test_bad_input_is_one_line_each_and_exit_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: list[str]
) -> None:
    file = tmp_path / "cat.safetensors"
    file.write_bytes(b"")
    base = ["compare", str(file), "--checkpoint", str(checkpoint), "--prompt", "a", "--output", str(tmp_path / "s.png")]
    assert main([*base, *QUICK, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert all(any(part in line for line in lines) for part in told), lines
    assert not (tmp_path / "s.png").exists()


def test_files_that_are_none_are_named(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cat.safetensors"
    file.write_bytes(b"<html>")
    words = ["--checkpoint", str(checkpoint), "--prompt", "a", "--strengths", "1", *QUICK]
    words += ["--output", str(tmp_path / "s.png")]
    assert main(["compare", str(file), *words]) == 2
    assert capsys.readouterr().err.startswith("error: files: the file cat: ")
    assert main(["compare", str(file), str(tmp_path / "no such.safetensors"), str(tmp_path), *words]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("error: files: there is no such file")
    assert told[1].startswith("error: files: is a folder")
    assert not (tmp_path / "s.png").exists()


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 2
    err = capsys.readouterr().err
    assert "checkpoint: " in err
    assert "output: " in err
    assert main(["compare", "--help"]) == 0
