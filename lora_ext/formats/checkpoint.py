"""Opening any model file, whatever it is called."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.formats.file_bytes import kind_of_file, whole_file
from lora_ext.formats.pickle_file import PickleFile, open_legacy, open_zip
from lora_ext.formats.safetensors_file import Header, read_header, tensors_of


def open_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by key and the metadata of a .safetensors, .ckpt or .pt file, told apart by content.

    The tensors are views of the mapped file: memory is used as they are touched, and writing to them never reaches
    the file. Raises `BadInput` naming the file for anything that is not a whole, honest file of tensors.
    """
    return open_file(Path(path), mapped=True)


def open_file(path: Path, mapped: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `open_checkpoint`; not mapped, the file may be overwritten afterwards without harm."""
    layout = open_layout(path)
    content = whole_file(path, mapped)
    if isinstance(layout, Header):
        if content.numel() != layout.data_start + layout.data_bytes:
            raise BadInput(Problem(os.fspath(path), "the file changed while it was read", fix="Try again."))
        return tensors_of(layout, content), dict(layout.metadata)
    tensors = layout.tensors(content)
    _check_amplification(path, tensors, content.numel())
    return tensors, {}


def open_layout(path: Path) -> Header | PickleFile:
    """The names, shapes and places of a file's tensors, without their numbers."""
    kind = kind_of_file(path)
    try:
        if kind == "zip":
            return open_zip(path)
        return open_legacy(path) if kind == "pickle" else read_header(path)
    except OSError as e:
        raise BadInput(Problem(os.fspath(path), "the file cannot be read", got=str(e)[:200])) from None


def _check_amplification(path: Path, tensors: dict[str, Tensor], size: int) -> None:
    """Many tensors over one storage are small on disk and huge once copied; tied weights share at most a few times."""
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    if total > 4 * size:
        raise BadInput(
            Problem(os.fspath(path), "its tensors share storages suspiciously", f"about {size} bytes", f"{total} bytes")
        )
