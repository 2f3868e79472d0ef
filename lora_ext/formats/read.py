"""Reading a network file for one model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, Network, adapter_for, kind_of
from lora_ext.errors import BadInput, Problem
from lora_ext.formats.checkpoint import open_file
from lora_ext.formats.names import NameTable
from lora_ext.formats.peft_config import PeftAlphas, peft_alphas
from lora_ext.formats.tensor_names import HCP_SCALE, canonical, family_of, foreign_model, kind_title, split_blindly
from lora_ext.layers import FAMILY_TITLES, Family, Layer, LayerName

SHOWN = 8
"""Problems and names listed in one message; the rest is counted."""


@dataclass(frozen=True)
class ReadResult:
    """A network and what of its file was not used: every tensor that found no layer or no kind, by its name."""

    network: Network
    unmatched: tuple[str, ...]
    family_of_file: Family | None


@dataclass
class _Found:
    """One layer's tensors: canonical name -> tensor, and the names they have in the file."""

    layer: Layer
    prefix: str
    tensors: dict[str, Tensor]
    keys: dict[str, str]


def read_network(path: str | os.PathLike[str], names: NameTable, name: str | None = None) -> ReadResult:
    """Read a .safetensors or .pt network for the model of `names`; numbers become float32, bit for bit from the file.

    Raises `BadInput`, one line per problem, when the file is damaged, was made for another model, fits no layer, or a
    layer's tensors do not fit.
    """
    path = Path(path)
    tensors, metadata = open_file(path, mapped=False)
    shapes = {key: tuple(t.shape) for key, t in tensors.items()}
    family = family_of(shapes, metadata)
    layers, unmatched = _sort(path, tensors, names)
    known: list[_Found] = []
    for found in layers:
        if kind_of(set(found.tensors) - {HCP_SCALE} | {"alpha"}) is None:
            unmatched += found.keys.values()
        else:
            known.append(found)
    _refuse_other_models(path, names, family, known, tuple(unmatched), tensors)
    alphas = peft_alphas(path, metadata)
    adapters = _build(path, known, alphas, names, family)
    network = Network(name or path.stem, adapters, metadata, _identity(known, adapters))
    return ReadResult(network, tuple(sorted(unmatched)), family)


def _sort(path: Path, tensors: Mapping[str, Tensor], names: NameTable) -> tuple[list[_Found], list[str]]:
    """Tensors by layer in file order, and the keys that name no layer."""
    found: dict[LayerName, _Found] = {}
    unmatched: list[str] = []
    problems: list[Problem] = []
    for key, tensor in tensors.items():
        split = names.split(key.removeprefix("lora:"))  # HCP-Diffusion's safetensors fold a level into the name
        if split is None:
            unmatched.append(key)
            continue
        layer, rest = split
        own = canonical(rest)
        entry = found.setdefault(layer.name, _Found(layer, key[: -len(rest) - 1], {}, {}))
        if own in entry.tensors:
            problems.append(Problem(os.fspath(path), f"{key} and {entry.keys[own]} name the same tensor"))
        entry.tensors[own], entry.keys[own] = tensor, key
    if problems:
        raise _several(problems)
    return list(found.values()), unmatched


def _build(
    path: Path, layers: Iterable[_Found], alphas: PeftAlphas, names: NameTable, family: Family | None
) -> dict[LayerName, Adapter]:
    adapters: dict[LayerName, Adapter] = {}
    problems: list[Problem] = []
    for found in layers:
        try:
            adapters[found.layer.name] = adapter_for(_with_alpha(found, alphas), found.layer.shape)
        except BadInput as e:
            problems += [_placed(path, found, p) for p in e.problems]
    if problems:
        if family not in (None, names.table.family):
            raise _wrong_family(path, names, FAMILY_TITLES[family])
        raise _several(problems)
    return adapters


def _with_alpha(found: _Found, alphas: PeftAlphas) -> dict[str, Tensor]:
    """The layer's tensors with alpha in kohya's meaning, where the file keeps it elsewhere or otherwise."""
    tensors = dict(found.tensors)
    scale, down = tensors.pop(HCP_SCALE, None), tensors.get("lora_down.weight")
    if "alpha" in tensors or down is None or down.dim() == 0:
        return tensors
    rank = down.shape[0]
    if scale is not None:
        tensors["alpha"] = scale.float() * rank
    elif (alpha := alphas.alpha(found.prefix, rank)) is not None:
        tensors["alpha"] = torch.tensor(alpha)
    return tensors


def _placed(path: Path, found: _Found, problem: Problem) -> Problem:
    """Name the file and the tensor as the file spells it."""
    place = found.keys.get(problem.field, f"{found.prefix}.{problem.field}")
    return dataclasses.replace(problem, field=f"{os.fspath(path)}: {place}")


def _refuse_other_models(
    path: Path,
    names: NameTable,
    family: Family | None,
    known: list[_Found],
    unmatched: tuple[str, ...],
    tensors: Mapping[str, Tensor],
) -> None:
    foreign = foreign_model(tensors)
    if foreign is not None and len(unmatched) > len(known):
        raise _wrong_family(path, names, foreign)
    if family not in (None, names.table.family) and (not known or _some_layers_missing(unmatched)):
        raise _wrong_family(path, names, FAMILY_TITLES[family])
    if known:
        return
    kinds = sorted(_kinds(tensors) - {"unknown"})
    what = f"{', '.join(kinds)}, which cannot be read yet" if _readable_prefixes(tensors, names) and kinds else ""
    raise BadInput(
        Problem(
            os.fspath(path),
            f"the file is a {what}" if what else f"no tensor fits the loaded {FAMILY_TITLES[names.table.family]} model",
            "a LoRA or LoCon for it",
            _few(sorted(tensors)) or "no tensors",
            "Use a network made for this model.",
        )
    )


def _some_layers_missing(unmatched: Iterable[str]) -> bool:
    """True when adapter tensors (not some stray extra) found no layer."""
    return any(split_blindly(key) is not None for key in unmatched)


def _readable_prefixes(tensors: Mapping[str, Tensor], names: NameTable) -> bool:
    return any(names.split(key) is not None for key in tensors)


def _kinds(tensors: Iterable[str]) -> set[str]:
    groups: dict[str, set[str]] = {}
    for key in tensors:
        split = split_blindly(key)
        if split is not None:
            groups.setdefault(split[0], set()).add(split[1])
    return {kind_title(group) for group in groups.values()}


def _wrong_family(path: Path, names: NameTable, made_for: str) -> BadInput:
    loaded = FAMILY_TITLES[names.table.family]
    return BadInput(
        Problem(os.fspath(path), f"this network is for {made_for}", f"one for {loaded}, the loaded model", made_for,
                f"Load a {made_for} checkpoint or use another network.")
    )  # fmt: skip


def _several(problems: list[Problem]) -> BadInput:
    if len(problems) <= SHOWN:
        return BadInput(*problems)
    rest = Problem(problems[0].field.split(": ")[0], f"and {len(problems) - SHOWN} more problems of this sort")
    return BadInput(*problems[:SHOWN], rest)


def _few(keys: list[str]) -> str:
    shown = ", ".join(key[:80] for key in keys[:3])
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _identity(layers: Iterable[_Found], adapters: Mapping[LayerName, Adapter]) -> str:
    """sha256 over names and bits of what is applied: the same for a renamed copy or one with other metadata."""
    digest = hashlib.sha256()
    for found in sorted(layers, key=lambda f: f.layer.name):
        # alpha may come from elsewhere than the tensors; nothing else does
        digest.update(f"{found.layer.name} {getattr(adapters[found.layer.name], 'alpha', None)}".encode())
        for own, tensor in sorted(found.tensors.items()):
            digest.update(f"{own}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
