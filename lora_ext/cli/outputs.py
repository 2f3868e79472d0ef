"""Where results go: checked before anything slow begins, written so that no half file is ever seen."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_ext.errors import BadInput, Problem
from lora_ext.formats import write_atomically
from lora_ext.hosts.given_path import given_path
from lora_ext.hosts.lora_name import check_name

UNTYPABLE = frozenset('<>:"|?*')  # cannot stand in a `<lora:name:1>` tag, or in a file name on Windows
PROBE = 4096  # bytes written to see whether a folder takes any


def check_all(*checks: Callable[[], object]) -> None:
    """Run every check; raise one `BadInput` with the problems of all that raised one."""
    problems: list[Problem] = []
    for check in checks:
        try:
            check()
        except BadInput as e:
            problems += e.problems
    if problems:
        raise BadInput(*problems)


def lora_path(text: str) -> Path:
    """The file that `--output` means: a name or path, with or without `.safetensors`. Raises `BadInput` for others."""
    path = given_path("output", text)
    if text.endswith(("/", os.sep)) or path.name in ("", ".."):
        raise BadInput(Problem("output", "this is a folder", "NAME or FOLDER/NAME", text))
    if path.suffix.lower() in (".pt", ".ckpt", ".bin", ".pth"):
        raise BadInput(Problem("output", "a LoRA is saved as .safetensors", "NAME.safetensors", text))
    stem = path.stem if path.suffix.lower() == ".safetensors" else path.name
    return path.with_name(stem + ".safetensors")


def check_lora_output(text: str, overwrite: bool) -> None:
    """Raise `BadInput` unless a LoRA can be written there and named in a prompt."""
    path = lora_path(text)
    bad = sorted(UNTYPABLE & set(path.stem))
    if bad:
        what = f"the name holds {' '.join(bad)}, which cannot be typed in a <lora:name:0.7> tag"
        raise BadInput(Problem("output", what, got=path.stem))
    check_name(path.stem)
    check_writable(path, overwrite)


def check_picture_output(text: str, overwrite: bool) -> None:
    """Raise `BadInput` unless a PNG can be written there."""
    path = given_path("output", text)
    if path.suffix.lower() != ".png":
        raise BadInput(Problem("output", "pictures are written as PNG", "a name that ends in .png", text))
    check_writable(path, overwrite)


def check_writable(path: Path, overwrite: bool) -> None:
    """Raise `BadInput` when the folder is closed, or something is there already and may not be replaced."""
    if path.is_dir():
        raise BadInput(Problem("output", "this is a folder", "a file name", str(path)))
    if path.exists() and not overwrite:
        raise BadInput(Problem("output", f"{path} exists already", fix="Give --overwrite to replace it."))
    folder = next(parent for parent in path.absolute().parents if parent.exists())  # the rest will be made
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:  # permissions alone do not tell: disks are full or read-only
            probe.write(bytes(PROBE))
    except OSError as e:
        what = f"{folder} is no folder that can be written to ({e.strerror})"
        fix = "Choose another folder, or make room in this one."
        raise BadInput(Problem("output", what, got=str(path), fix=fix)) from None


def write_png(path: Path, image: Image.Image, parameters: str) -> None:
    """Write a PNG with the WebUI's `parameters` text, whole or not at all."""
    text = PngInfo()
    text.add_text("parameters", parameters.encode("utf8", "replace").decode("utf8"))  # arguments may not be Unicode
    packed = io.BytesIO()
    image.save(packed, format="PNG", pnginfo=text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [packed.getvalue()])
