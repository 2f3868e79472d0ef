"""Writing a network file: kohya's names, hosts' metadata and hashes, never half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.formats.atomic import write_atomically
from lora_ext.formats.hashes import network_hashes
from lora_ext.formats.names import NameTable
from lora_ext.formats.safetensors_file import data_bytes, header_bytes


def write_network(
    path: str | os.PathLike[str], network: Network, names: NameTable, metadata: Mapping[str, str], dtype: torch.dtype
) -> None:
    """Save `network` as .safetensors with `metadata` and the hashes hosts look for; the file appears whole or not.

    Factors are stored as `dtype`, alpha as float32 so that the scale is kept exactly, whole numbers as they are. Every
    kind is written under the names that `Adapter.to_tensors` gives it, a bias under its owner's prefix. The same
    network and metadata give the same bytes. Raises `BadInput` for numbers that are not finite in `dtype` and for a
    disk that refuses, and for kinds that other programs have no names for (`Adapter.savable`).
    """
    path = Path(path)
    _check_savable(path, network)
    tensors = _tensors(path, network, names, dtype)
    own = {k: v for k, v in metadata.items() if k.startswith("ss_")}
    hashes = network_hashes(header_bytes(tensors, own), data_bytes(tensors))
    header = header_bytes(tensors, {**metadata, **hashes})
    write_atomically(path, _pieces(header, tensors))


def _check_savable(path: Path, network: Network) -> None:
    strange = [str(name) for name, adapter in network.adapters.items() if not adapter.savable]
    if strange:
        raise BadInput(
            Problem(
                os.fspath(path),
                f"{len(strange)} layers are of a kind that no file can hold so that others read it (peft's OFT and "
                "BOFT keep parameters of the rotation, of which only the rotation is known; IA3's factor on a bias)",
                "LoRA, LoHa, LoKr, GLoRA, OFT on outputs, IA3 on weights, differences",
                strange[0] + (" and others" if len(strange) > 1 else ""),
                "Use the file it came from.",
            )
        )


def _pieces(header: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    yield header
    yield from data_bytes(tensors)


def _tensors(path: Path, network: Network, names: NameTable, dtype: torch.dtype) -> dict[str, Tensor]:
    """By file name; wide numbers first, so that each is aligned to its own size."""
    tensors: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for layer, adapter in network.adapters.items():
        prefix = names.kohya(layer)
        for own, tensor in adapter.to_tensors().items():
            key = f"{prefix}.{own}"
            stored = _stored(tensor.detach().cpu(), dtype)
            if not torch.isfinite(stored.float()).all():
                problems.append(_not_finite(path, key, tensor, dtype))
            tensors[key] = stored
    if problems:
        raise BadInput(*problems[:3])
    if not tensors:
        raise BadInput(Problem(os.fspath(path), "the network is empty", "at least one layer"))
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float32 if tensor.dim() == 0 else dtype)


def _not_finite(path: Path, key: str, tensor: Tensor, dtype: torch.dtype) -> Problem:
    broken = not bool(torch.isfinite(tensor.float()).all())
    kind = str(dtype).removeprefix("torch.")
    return Problem(
        os.fspath(path),
        f"{key} holds NaN or infinity" if broken else f"{key} does not fit {kind}",
        "finite numbers",
        fix="The training run diverged; lower the learning rate." if broken else "Save as bf16 or fp32.",
    )
