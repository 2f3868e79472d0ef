"""A file's content as one uint8 tensor, mapped or read; and what kind of file it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem

FileKind = Literal["safetensors", "zip", "pickle"]

IMPOSTORS = {
    b"<": "this is a web page, not a model",
    b"version https://git-lfs": "this is a Git LFS pointer, not the model itself",
    b"Rar!": "this is a RAR archive, not a model",
    b"7z\xbc\xaf": "this is a 7z archive, not a model",
    b"\x89PNG": "this is a picture, not a model",
    b"\xff\xd8\xff": "this is a picture, not a model",
}


def kind_of_file(path: Path) -> FileKind:
    """Tell by content, because extensions lie. Raises `BadInput` for missing, unreadable, empty and foreign files."""
    start, size = _start(path)
    if size == 0:
        raise BadInput(
            Problem(os.fspath(path), "the file is empty", "a model", "0 bytes", "Download or train it again.")
        )
    stripped = start.lstrip()
    for sign, what in IMPOSTORS.items():
        if stripped.startswith(sign):
            raise BadInput(
                Problem(os.fspath(path), what, "a .safetensors or .ckpt file", repr(start[:20]), "Download it again.")
            )
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    # a pickle begins with PROTO 2-5; a safetensors header that long would be read by nobody, and it goes on with "{"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[8:9] != b"{":
        return "pickle"
    return "safetensors"


def whole_file(path: Path, mapped: bool) -> Tensor:
    """The file as uint8 [size]. Mapped: pages are read when used, writes never reach the file."""
    try:
        if mapped:
            return torch.from_file(os.fspath(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        return _read(path)
    except (OSError, RuntimeError) as e:
        raise BadInput(Problem(os.fspath(path), "the file cannot be read", got=str(e)[:200])) from None


def _read(path: Path) -> Tensor:
    """The content in memory that nobody else has, without a second copy on the way.

    The memory is NumPy's, which asks the system for large pages: to be handed small ones takes longer than to read.
    """
    with path.open("rb", buffering=0) as file:
        content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        room = memoryview(content.data)
        done = 0
        while done < len(room) and (count := file.readinto(room[done:])):
            done += count
    return torch.from_numpy(content[:done])


def _start(path: Path) -> tuple[bytes, int]:
    try:
        if not path.is_file():
            raise BadInput(Problem(os.fspath(path), "there is no such file"))
        with path.open("rb") as file:
            return file.read(64), path.stat().st_size
    except (OSError, ValueError) as e:  # ValueError: a NUL in the path
        raise BadInput(Problem(os.fspath(path), "the file cannot be read", got=str(e)[:200])) from None
