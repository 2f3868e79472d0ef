"""A network file's tensors by the layer that they change."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lora_ext.errors import Problem
from lora_ext.formats import cloneofsimo
from lora_ext.formats.names import NameTable
from lora_ext.formats.refusal import several
from lora_ext.formats.tensor_names import canonical
from lora_ext.layers import Layer, LayerName

SECTION = re.compile(r"(lora|base|plugin)(_ema)?:")
"""HCP-Diffusion's safetensors fold a level of their dictionary into the name."""
ASIDE = ("weight", "bias", "base_layer.weight", "base_layer.bias")
"""Tensors of the base model that some trainers save along. They say nothing about the adapter beside them."""


@dataclass
class Found:
    """One layer's tensors: canonical name -> tensor, and the names they have in the file.

    `prefix` is what the file calls the layer.
    """

    layer: Layer
    prefix: str
    tensors: dict[str, Tensor]
    keys: dict[str, str]


def sort_by_layer(path: Path, tensors: Mapping[str, Tensor], names: NameTable) -> tuple[list[Found], list[str]]:
    """The layers in file order, and the keys that name none. Raises `BadInput` for tensors that come twice."""
    if cloneofsimo.is_positional(tensors):
        return list(_by_position(path, tensors, names).values()), []
    found: dict[LayerName, Found] = {}
    unmatched: list[str] = []
    problems: list[Problem] = []
    averages_too = any(_is_average(key) is False for key in tensors)
    for key, tensor in tensors.items():
        section = SECTION.match(key)
        # averages (ema) beside the weights themselves would be a second network
        spare = averages_too and _is_average(key)
        split = None if spare else names.split(key[section.end() :] if section else key)
        if split is None:
            unmatched.append(key)
            continue
        layer, rest = split
        own = canonical(rest)
        entry = found.setdefault(layer.name, Found(layer, key[: -len(rest) - 1], {}, {}))
        if own in entry.tensors:
            problems.append(Problem(os.fspath(path), f"{key} and {entry.keys[own]} name the same tensor"))
        entry.tensors[own], entry.keys[own] = tensor, key
    if problems:
        raise several(problems)
    for entry in found.values():
        unmatched += _put_aside(entry)
    return [entry for entry in found.values() if entry.tensors], unmatched


def _is_average(key: str) -> bool | None:
    """None for keys outside the sections of HCP-Diffusion."""
    section = SECTION.match(key)
    return None if section is None else bool(section[2])


def _put_aside(found: Found) -> list[str]:
    """Take out tensors of the base model and return their keys; IA3 has a `weight` of its own."""
    aside = [name for name in ASIDE if name in found.tensors and not (name == "weight" and "on_input" in found.tensors)]
    for name in aside:
        del found.tensors[name]
    return [found.keys.pop(name) for name in aside]


def _by_position(path: Path, tensors: Mapping[str, Tensor], names: NameTable) -> dict[LayerName, Found]:
    found: dict[LayerName, Found] = {}
    for layer, up, down in cloneofsimo.places(path, tensors, names.table):
        keys = {"lora_up.weight": up, "lora_down.weight": down}
        own = {name: tensors[key] for name, key in keys.items()}
        found[layer.name] = Found(layer, up.removesuffix(":up"), own, keys)
    return found
