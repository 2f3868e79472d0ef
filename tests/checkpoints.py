"""Tiny random checkpoints for tests: made once per run and family, shared by everyone who asks."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from demo.random_base import make
from lora_ext.layers import Family


@cache
def folder() -> Path:
    """A temporary folder that lives as long as the test run."""
    keep = tempfile.TemporaryDirectory(prefix="lora-ext-checkpoints-")
    _alive.append(keep)
    return Path(keep.name)


@cache
def checkpoint(family: Family, *, inpainting: bool = False, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """Path of a tiny checkpoint with its yaml beside it. Read it, never write it."""
    kind = "-inpainting" if inpainting else ""
    path = folder() / f"{family}{kind}-{str(dtype).removeprefix('torch.')}-{seed}.safetensors"
    return make(family, path, seed=seed, inpainting=inpainting, dtype=dtype, tiny_text=True)


def tensors(family: Family, *, inpainting: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Fresh tensors of a tiny checkpoint: yours to change."""
    return load_file(checkpoint(family, inpainting=inpainting, dtype=dtype))


_alive: list[tempfile.TemporaryDirectory[str]] = []
