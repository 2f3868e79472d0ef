"""Bad input: exit code 2, one line per error that names its field, nothing written, nothing slow begun."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_ext.cli import main

HTML = b"<!DOCTYPE html><html><body>Sign in to download</body></html>"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "html.safetensors").write_bytes(HTML)
    (tmp_path / "nothing.safetensors").touch()
    (tmp_path / "short.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    (tmp_path / "pickle.ckpt").write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "there.safetensors").write_bytes(b"there")
    (tmp_path / "there.png").write_bytes(b"there")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    return tmp_path


@pytest.fixture
def refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    def run(*words: str) -> list[str]:
        monkeypatch.chdir(place)
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert main(list(words)) == 2
        after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert after == before, "a refused command wrote something"
        lines = capsys.readouterr().err.splitlines()
        assert "Traceback" not in "".join(lines)
        return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoint", "gone.safetensors"], "checkpoint: there is no such file"),
        (["--images", "gone"], "images: "),
        (["--images", "empty"], "images: "),
        (["--output", "there"], "output: there.safetensors exists already. Give --overwrite to replace it."),
        (["--output", "there.png/new"], "output: "),
        (["--output", "a>b"], "output: the name holds >"),
        (["--output", "new.pt"], "output: a LoRA is saved as .safetensors"),
        (["--output", ""], "output: Name is needed and was not given"),
        (["--output", "folder/"], "output: this is a folder"),
        (["--output", "/"], "output: this is a folder"),
        (["--output", ".."], "output: this is a folder"),
        (["--output", ".hidden"], "output: the name cannot be empty, nor start"),
        (["--output", "CON"], "output: Windows keeps this name"),
        (["--output", "a\nb"], "output: the name holds a character"),
        (["--output", "a\udcffb"], "output: the name holds a character"),
        (["--output", "x" * 200], "output: the name is too long"),
        (["--output", "x" * 300], "output: this path cannot be used (File name too long)"),
        (["--output", "~nobody-of-this-name/x"], "output: this path cannot be used"),
        (["--checkpoint", "x" * 5000], "checkpoint: this path cannot be used"),
        (["--checkpoint", "~nobody-of-this-name/x"], "checkpoint: this path cannot be used"),
        (["--config", "gone.yaml"], "config: gone.yaml cannot be read"),
        (["--config", "run.ini"], "config: this is no settings file"),
        (["--config", "deep.json"], "config: deep.json is nested too deeply"),
        (["--set", "=3"], "set: this is no setting; expected key=value; got '=3'."),
        (["--set", "a\x1b[31m\nb=3"], "a [31m b: there is no such setting"),
        (["two", "--flip"], "two: this word belongs to no flag"),
        (["--rank", "9" * 5000], "rank: Rank cannot be read"),
        (["--resolution", "100"], "resolution: Resolution must be a multiple of 64"),
        (["--set", "leraning_rate=1"], "leraning_rate: there is no such setting. Did you mean learning_rate?"),
        (["--device", "cuda:77"], "device: this card is not there"),
    ],
)
def test_train_refuses_before_loading(
    checkpoint: Path,
    pictures: Path,
    small: list[str],
    refused: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the checkpoint was loaded before the input was checked")

    monkeypatch.setattr("lora_ext.hosts.standalone.StandaloneModel.load", never)
    good = ["--checkpoint", str(checkpoint), "--images", str(pictures), "--output", "new", "--device", "cpu"]
    (line,) = refused("train", *good, *small, *words)
    assert line.startswith(said)
    assert len(line) < 400


@pytest.mark.parametrize("file", ["html.safetensors", "nothing.safetensors", "short.safetensors", "pickle.ckpt"])
def test_files_that_are_no_checkpoint(pictures: Path, refused: Callable[..., list[str]], file: str) -> None:
    (line,) = refused("train", "--checkpoint", file, "--images", str(pictures), "--output", "new", "--device", "cpu")
    assert file in line
    assert not os.path.exists("harmed")


def test_a_file_of_something_else(pictures: Path, refused: Callable[..., list[str]]) -> None:
    lines = refused("train", "--checkpoint", "other.safetensors", "--images", str(pictures), "--output", "new")
    assert len(lines) == 1


def test_all_errors_at_once(refused: Callable[..., list[str]]) -> None:
    lines = refused("train", "--rank", "0", "--flip", "--max-steps", "x")
    assert {line.split(":")[0] for line in lines} == {"checkpoint", "images", "output", "rank", "max_steps"}
    lines = refused("train", "--checkpoint", "gone.ckpt", "--images", "empty", "--output", "there")
    assert [line.split(":")[0] for line in lines] == ["checkpoint", "images", "output"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "64"], "size: the size cannot be read; expected WIDTHxHEIGHT"),
        (
            ["--size", "60x64"],
            "size: a picture cannot have this size; expected multiples of 8 in px, up to 8192; got 60x64.",
        ),
        (["--size", "99992x64"], "size: a picture cannot have this size"),
        (["--size", "0x64"], "size: "),
        (["--steps", "0"], "steps: "),
        (["--output", "there.png"], "output: there.png exists already"),
        (["--output", "new.jpg"], "output: pictures are written as PNG"),
        (["--lora-dir", "gone"], "lora_dir: there is no such folder; got gone."),
        (["--prompt", ""], "prompt: "),
        (["--seed", "-1"], "seed: Seed is out of range; expected 0 to 4294967295; got -1."),
        (["--output", "x" * 300 + ".png"], "output: this path cannot be used"),
        (["--lora-dir", "~nobody-of-this-name"], "lora_dir: this path cannot be used"),
    ],
)
def test_generate_refuses(
    checkpoint: Path, lora: Path, refused: Callable[..., list[str]], words: list[str], said: str
) -> None:
    good = ["--checkpoint", str(checkpoint), "--prompt", "a cat", "--output", "new.png", "--size", "64x64"]
    (line,) = refused("generate", *good, "--lora-dir", str(lora.parent), "--device", "cpu", *words)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("tag", "named"),
    [("<lora:dog:0.7>", "dog"), ("<lora:cat:much>", "much"), ("<lora:cat:nan>", "nan"), ("<lora:../cat:1>", "../cat")],
)
def test_generate_refuses_tags(
    checkpoint: Path, lora: Path, refused: Callable[..., list[str]], tag: str, named: str
) -> None:
    good = ["--checkpoint", str(checkpoint), "--output", "new.png", "--size", "64x64", "--lora-dir", str(lora.parent)]
    (line,) = refused("generate", *good, "--prompt", f"a cat {tag}", "--device", "cpu")
    assert named in line


def test_no_picture_of_nan(checkpoint: Path, place: Path, refused: Callable[..., list[str]]) -> None:
    tensors = load_file(checkpoint)
    key = "model.diffusion_model.out.2.weight"
    save_file(tensors | {key: tensors[key] * torch.nan}, place / "nan.safetensors")
    words = ["--checkpoint", "nan.safetensors", "--prompt", "a cat", "--output", "new.png", "--size", "64x64"]
    (line,) = refused("generate", *words, "--steps", "1", "--device", "cpu")
    assert line.startswith("checkpoint: the model's numbers overflowed and there is no picture")


def test_a_tag_without_a_folder(checkpoint: Path, refused: Callable[..., list[str]]) -> None:
    words = ["--checkpoint", str(checkpoint), "--prompt", "a <lora:cat:1>", "--output", "new.png"]
    (line,) = refused("generate", *words)
    assert line.startswith("lora_dir: the prompt asks for cat")


def test_a_lora_that_cannot_be_read(checkpoint: Path, place: Path, refused: Callable[..., list[str]]) -> None:
    words = ["--checkpoint", str(checkpoint), "--output", "new.png", "--lora-dir", ".", "--size", "64x64"]
    (line,) = refused("generate", *words, "--prompt", "a <lora:html:1>", "--device", "cpu")
    assert "html" in line


def test_ui_refuses(checkpoint: Path, refused: Callable[..., list[str]]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        words = ["--checkpoint", "gone.ckpt", "--device", "cpu", "--output-dir", "there.png", "--port", port]
        lines = refused("ui", *words)
    assert [line.split(":")[0] for line in lines] == ["checkpoint", "output_dir", "port"]


def test_a_missing_package_is_named(refused: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", _missing_gradio)
    (line,) = refused("ui")
    assert line.startswith("ui: the package gradio is not installed. Run: pip install")


def _missing_gradio(_name: str) -> None:
    raise ModuleNotFoundError("No module named 'gradio'", name="gradio")


@pytest.mark.parametrize(
    "file",
    ["gone.safetensors", "html.safetensors", "nothing.safetensors", "short.safetensors", "~nobody-of-this-name/a"],
)
def test_info_refuses(refused: Callable[..., list[str]], file: str) -> None:
    (line,) = refused("info", file)
    assert file in line
