"""Opening any model file, whatever it is called."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.formats.file_bytes import kind_of_file, whole_file
from lora_ext.formats.pickle_file import PickleFile, open_legacy, open_zip
from lora_ext.formats.safetensors_file import Header, read_header, tensors_of

AGAIN = "The file is damaged: download or make it again."
"""What to do where nothing better is known."""
Layout = Header | PickleFile
"""A file's table of contents."""


def open_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by key and the metadata of a .safetensors, .ckpt or .pt file, told apart by content.

    The tensors are views of the mapped file: memory is used as they are touched, and writing to them never reaches
    the file. Raises `BadInput` naming the file for anything that is not a whole, honest file of tensors.
    """
    path = Path(path)
    layout = open_layout(path)
    return tensors_in(path, layout, whole_file(path, mapped=True)), metadata_of(layout)


def tensors_in(path: Path, layout: Layout, content: Tensor) -> dict[str, Tensor]:
    """The tensors that `layout` describes, as views of the file's `content`. Raises `BadInput`."""
    if isinstance(layout, Header):
        if content.numel() != layout.data_start + layout.data_bytes:
            raise BadInput(Problem(os.fspath(path), "the file changed while it was read", fix="Try again."))
        return tensors_of(layout, content)
    tensors = layout.tensors(content)
    _check_amplification(path, tensors, content.numel())
    return tensors


def outline(layout: Layout) -> dict[str, Tensor]:
    """Tensors without numbers (on the meta device) in place of those in the file."""
    if isinstance(layout, Header):
        return {key: torch.empty(slot.shape, dtype=slot.dtype, device="meta") for key, slot in layout.slots.items()}
    plans = {key: torch.empty(plan.size, dtype=plan.dtype, device="meta") for key, plan in layout.plans.items()}
    return plans | {key: torch.empty((), device="meta") for key in layout.numbers}


def metadata_of(layout: Layout) -> dict[str, str]:
    """A .safetensors file's metadata; pickles have none."""
    return dict(layout.metadata) if isinstance(layout, Header) else {}


def open_layout(path: Path) -> Layout:
    """The names, shapes and places of a file's tensors, without their numbers."""
    kind = kind_of_file(path)
    try:
        if kind == "zip":
            return open_zip(path)
        return open_legacy(path) if kind == "pickle" else read_header(path)
    except BadInput as e:
        raise BadInput(*(replace(problem, fix=problem.fix or AGAIN) for problem in e.problems)) from None
    except OSError as e:
        raise BadInput(Problem(os.fspath(path), "the file cannot be read", got=str(e)[:200])) from None


def _check_amplification(path: Path, tensors: dict[str, Tensor], size: int) -> None:
    """Many tensors over one storage are small on disk and huge once copied; tied weights share at most a few times."""
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    if total > 4 * size:
        raise BadInput(
            Problem(os.fspath(path), "its tensors share storages suspiciously", f"about {size} bytes", f"{total} bytes")
        )
