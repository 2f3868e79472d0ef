"""Textual inversion embeddings that travel in a network's file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem

PREFIX = "bundle_emb."
CLONEOFSIMO_FLAG = "<embed>"
WHOLE = "string_to_param.*"
"""How the one tensor of an embedding is called in hosts' own embedding files."""

Embeddings = dict[str, dict[str, Tensor]]


def embedding_names(keys: Iterable[str], metadata: Mapping[str, str]) -> dict[str, None]:
    """The words of the embeddings in a file with these tensor names, in file order."""
    return {place[0]: None for place in (_place(key, metadata) for key in keys) if place}


def is_embedding(key: str, metadata: Mapping[str, str]) -> bool:
    """Whether a tensor of this name is (part of) an embedding."""
    return _place(key, metadata) is not None


def read_embeddings(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Embeddings:
    """The embeddings among the tensors, by name.

    An embedding is {`string_to_param.*`: [vectors, width]} (SD 1.x, SD 2.x) or {`clip_l`: …, `clip_g`: …} (SDXL), as
    hosts' embedding files have them; float32. kohya and OneTrainer name them `bundle_emb.<name>.<tensor>`,
    cloneofsimo's trainer by the bare word, marked in the metadata. Raises `BadInput` for what no embedding can be.
    """
    embeddings: Embeddings = {}
    for key, tensor in tensors.items():
        place = _place(key, metadata)
        if place is not None:
            embeddings.setdefault(place[0], {})[place[1]] = _checked(path, key, tensor)
    return embeddings


def _place(key: str, metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Word and tensor name of an embedding's key, or None for other keys."""
    name, _, own = key.removeprefix(PREFIX).partition(".")
    if key.startswith(PREFIX) and name and own:
        return name, own
    return (key, WHOLE) if metadata.get(key) == CLONEOFSIMO_FLAG else None


def _checked(path: Path, key: str, tensor: Tensor) -> Tensor:
    what = ""
    if not tensor.is_floating_point() or tensor.dim() not in (1, 2) or tensor.numel() == 0:
        what = f"{key} is no embedding"
    elif not torch.isfinite(tensor.float()).all():
        what = f"{key} holds NaN or infinity"
    if what:
        got = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        fix = "Make the file again without this embedding."
        raise BadInput(Problem(os.fspath(path), what, "finite numbers, [vectors, width]", got, fix))
    return tensor.to(torch.float32, copy=True).reshape(-1, tensor.shape[-1])
