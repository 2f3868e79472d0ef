"""A network file's tensors by the layer that they change."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lora_ext.adapters.kept_module import KEPT, KEPT_B
from lora_ext.errors import Problem
from lora_ext.formats import cloneofsimo
from lora_ext.formats.fitting import could_fit
from lora_ext.formats.found import Found
from lora_ext.formats.names import NameTable
from lora_ext.formats.peft_config import PeftSettings
from lora_ext.formats.refusal import several
from lora_ext.formats.tensor_names import canonical
from lora_ext.layers import LayerName

SECTION = re.compile(r"(lora|base|plugin)(_ema)?:")
"""HCP-Diffusion's safetensors fold a level of their dictionary into the name."""
ASIDE = ("weight", "bias", "base_layer.weight", "base_layer.bias")
"""Tensors of the base model that some trainers save along. They say nothing about the adapter beside them."""
NO_SETTINGS = PeftSettings({}, "")


SECOND_ENCODER, FIRST_ENCODER = re.compile(r"(text_encoder|te)_?2", re.I), re.compile(r"text_encoder|(?i:te)_?1")


Sorted = tuple[list[Found], list[str]]


def sort_by_layer(
    path: Path,
    tensors: Mapping[str, Tensor],
    names: NameTable,
    guess: bool = True,
    settings: PeftSettings = NO_SETTINGS,
) -> Sorted:
    """The layers in file order, and the keys that name none. Raises `BadInput` for tensors that come twice.

    `guess`: the file may be for this family, so that names of either of two text encoders mean the one that fits.
    `settings` are PEFT's: they tell which modules were saved whole.
    """
    if cloneofsimo.is_positional(tensors):
        return list(_by_position(path, tensors, names).values()), []
    found = _by_name(path, tensors, names, settings)
    return _of_one_encoder(path, tensors, names, settings, found) if found[1] and guess else found


def _of_one_encoder(
    path: Path, tensors: Mapping[str, Tensor], names: NameTable, settings: PeftSettings, found: Sorted
) -> Sorted:
    """A text encoder's file that does not say of which of SDXL's two, in the meaning that its tensors' sizes allow.

    Where they allow both, the file's own name or its folder's may tell (`text_encoder_2`); else it stays as `found`.
    """
    known = {entry.prefix for entry in found[0]}
    possible: list[Sorted] = []
    for meant in names.meanings():
        sorted_, left = _by_name(path, tensors, meant, settings)
        new = [entry for entry in sorted_ if entry.prefix not in known]
        if new and all(could_fit(entry) for entry in new):
            possible.append((sorted_, left))
    fewest = min((len(left) for _, left in possible), default=0)
    possible = [one for one in possible if len(one[1]) == fewest]
    if len(possible) == 2:
        second = SECOND_ENCODER.search(f"{path.parent.name}/{path.stem}")
        first = FIRST_ENCODER.search(f"{path.parent.name}/{path.stem}")
        possible = possible[1:] if second else possible[:1] if first else []
    return possible[0] if possible else found


def _by_name(path: Path, tensors: Mapping[str, Tensor], names: NameTable, settings: PeftSettings) -> Sorted:
    found: dict[LayerName, Found] = {}
    unmatched: list[str] = []
    problems: list[Problem] = []
    sections = any(SECTION.match(key) for key in tensors)
    averages_too = sections and any(_is_average(key) is False for key in tensors)
    for key, tensor in tensors.items():
        section = SECTION.match(key) if sections else None
        # averages (ema) beside the weights themselves would be a second network
        spare = averages_too and _is_average(key)
        split = None if spare else names.split(key[section.end() :] if section else key)
        if split is None:
            unmatched.append(key)
            continue
        layer, rest = split
        own = canonical(rest)
        entry = found.get(layer.name)
        if entry is None:
            entry = found[layer.name] = Found(layer, key[: -len(rest) - 1], {}, {})
        if own in entry.tensors:
            what = f"{key} and {entry.keys[own]} name the same tensor"
            fix = "Which of them counts cannot be told: convert or download it again."
            problems.append(Problem(os.fspath(path), what, "one spelling of a name", "two", fix))
        entry.tensors[own], entry.keys[own] = tensor, key
    if problems:
        raise several(problems)
    for entry in found.values():
        if settings.keeps(entry.prefix):
            _take_whole(entry)
        unmatched += _put_aside(entry)
    return [entry for entry in found.values() if entry.tensors], unmatched


def _is_average(key: str) -> bool | None:
    """None for keys outside the sections of HCP-Diffusion."""
    section = SECTION.match(key)
    return None if section is None else bool(section[2])


def _take_whole(found: Found) -> None:
    """The module's own tensors, trained, under names that say so."""
    for own, name in (("weight", KEPT), ("bias", KEPT_B)):
        if own in found.tensors:
            found.tensors[name], found.keys[name] = found.tensors.pop(own), found.keys.pop(own)


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
