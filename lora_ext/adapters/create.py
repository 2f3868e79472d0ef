"""Fresh adapters to train, of any kind, by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.dora import DoraAdapter
from lora_ext.adapters.full import B_NORM, DIFF, DIFF_B, W_NORM, FullAdapter
from lora_ext.adapters.ia3 import Ia3Adapter
from lora_ext.adapters.loha import LohaAdapter
from lora_ext.adapters.lokr import LokrAdapter, Sides
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.pissa import PissaAdapter
from lora_ext.adapters.rotation import OftAdapter
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Layer

AdapterKind = Literal["lora", "loha", "lokr", "oft", "ia3", "full", "norm"]
ADAPTER_KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)
DECOMPOSABLE: frozenset[AdapterKind] = frozenset({"lora", "loha", "lokr"})
"""Kinds that DoRA wraps and rsLoRA scales."""


@dataclass(frozen=True)
class CreateOptions:
    """What kinds can be told beside rank and alpha. An option that the kind does not know is refused, not ignored."""

    dora: bool = False
    """Learn a length per input as well (DoRA); needs the layer's weight."""
    rslora: bool = False
    """Scale by alpha / √rank (rsLoRA, arXiv 2312.03732); saved inside alpha."""
    tucker: bool = False
    """Split kernels wider than 1x1 once more (Tucker)."""
    pissa: bool = False
    """LoRA only: start from the weight's strongest directions (PiSSA); needs the layer's weight."""
    lokr_factor: int = -1
    """Size of LoKr's small side; -1 is as even as it goes."""
    lokr_decompose_both: bool = False
    """Split LoKr's small side too."""
    lokr_full: bool = False
    """Keep both of LoKr's sides whole."""
    oft_constraint: float = 0.0
    """Bound on OFT's turns (COFT), 0 for none."""
    oft_rescale: bool = False
    """OFT learns a factor per output as well."""
    ia3_on_input: bool | None = None
    """IA3's factors on the inputs; None: inputs of convolutions, outputs of linear layers."""


def create_adapter(
    kind: AdapterKind,
    layer: Layer,
    rank: int,
    alpha: float,
    options: CreateOptions = CreateOptions(),
    generator: torch.Generator | None = None,
    base: Tensor | None = None,
) -> Adapter:
    """A fresh adapter for `layer` with ΔW = 0 and float32 parameters on the CPU, drawn from `generator`.

    `base` is the layer's weight (any float dtype), for DoRA and PiSSA. Norm fits norms and their biases, full all
    other weights and biases, the others linear layers and convolutions. `rank` is OFT's block size; IA3, full and norm
    have none. Raises `BadInput` for settings that make no sense for the kind or the layer.
    """
    _check(kind, layer, options, base)
    if options.rslora:
        alpha = alpha * math.sqrt(rank) if rank > 0 else alpha
    made = _plain(kind, layer, rank, alpha, options, generator, base)
    if not options.dora:
        return made
    assert base is not None, "checked above"
    return DoraAdapter.wrap(made, base.detach().cpu().reshape(layer.shape))


def _plain(
    kind: AdapterKind,
    layer: Layer,
    rank: int,
    alpha: float,
    options: CreateOptions,
    generator: torch.Generator | None,
    base: Tensor | None,
) -> Adapter:
    shape, tucker = layer.shape, options.tucker
    match kind:
        case "lora" if options.pissa:
            assert base is not None, "checked by the caller"
            made: Adapter = PissaAdapter.of(base, shape, rank, alpha)
        case "lora":
            made = LoraAdapter.create(shape, rank, alpha, generator, tucker=tucker)
        case "loha":
            made = LohaAdapter.create(shape, rank, alpha, generator, tucker=tucker)
        case "lokr":
            sides = Sides(options.lokr_factor, options.lokr_decompose_both, options.lokr_full)
            made = LokrAdapter.create(shape, rank, alpha, generator, sides=sides, tucker=tucker)
        case "oft":
            made = OftAdapter.create(shape, rank, options.oft_constraint, rescale=options.oft_rescale)
        case "ia3":
            made = Ia3Adapter.create(shape, options.ia3_on_input)
        case "full":
            made = FullAdapter.create(shape, DIFF_B if layer.op == "bias" else DIFF)
        case "norm":
            made = FullAdapter.create(shape, B_NORM if layer.op == "bias" else W_NORM)
    return made


def _check(kind: AdapterKind, layer: Layer, options: CreateOptions, base: Tensor | None) -> None:
    problems: list[Problem] = []
    if kind not in ADAPTER_KINDS:
        problems.append(Problem("kind", "is no kind of adapter", ", ".join(ADAPTER_KINDS), str(kind)))
    meant: dict[str, frozenset[str]] = {
        "dora": DECOMPOSABLE,
        "rslora": DECOMPOSABLE,
        "tucker": DECOMPOSABLE,
        "pissa": frozenset({"lora"}),
        "lokr_factor": frozenset({"lokr"}),
        "lokr_decompose_both": frozenset({"lokr"}),
        "lokr_full": frozenset({"lokr"}),
        "oft_constraint": frozenset({"oft"}),
        "oft_rescale": frozenset({"oft"}),
        "ia3_on_input": frozenset({"ia3"}),
    }
    plain = CreateOptions()
    for name, kinds in meant.items():
        if getattr(options, name) != getattr(plain, name) and kind not in kinds:
            problems.append(Problem(name, f"means nothing for {kind}", ", ".join(sorted(kinds))))
    if options.pissa and (options.dora or options.tucker):
        problems.append(Problem("pissa", "does not go with DoRA or Tucker"))
    if (options.dora or options.pissa) and base is None:
        problems.append(Problem("base", "the layer's weight is needed", "a tensor"))
    if kind == "norm" and layer.op not in ("norm", "bias"):
        problems.append(Problem(str(layer.name), "is no norm"))
    if kind == "full" and layer.op == "norm":
        problems.append(Problem(str(layer.name), "is a norm", fix="Use the kind norm, whose names every reader knows."))
    if not math.isfinite(options.oft_constraint) or options.oft_constraint < 0:
        problems.append(Problem("oft_constraint", "is not usable", "0 or more", f"{options.oft_constraint:g}"))
    if options.lokr_factor == 0 or options.lokr_factor < -1:
        problems.append(Problem("lokr_factor", "is not usable", "-1, or 1 and more", str(options.lokr_factor)))
    if problems:
        raise BadInput(*problems)
