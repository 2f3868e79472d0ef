"""Tensors that other tools lay out otherwise, in the layout that adapters read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.formats.peft_config import PeftSettings
from lora_ext.layers import Layer

Tensors = dict[str, Tensor]

DOWN, UP = "lora_down.weight", "lora_up.weight"
INPAINTING_CHANNELS = (4, 9)


def as_adapters_read(prefix: str, layer: Layer, found: Mapping[str, Tensor], settings: PeftSettings) -> Tensors:
    """One layer's tensors by canonical name, as `adapter_for` takes them. Raises `BadInput`, fields being tensor names.

    `prefix` is what the file calls the layer, `settings` are PEFT's. What needs no translation comes back as it is.
    """
    tensors = dict(found)
    if "rank_groups" in tensors:
        tensors = _hcp_groups(tensors)
    if "ia3_l" in tensors:
        tensors = _peft_ia3(tensors, layer, settings.feeds_forward(prefix))
    if "oft_r" in tensors:
        tensors = _peft_oft(tensors, layer)
    if "oft_R" in tensors:
        tensors = _peft_input_oft(tensors, layer, settings.neumann_terms(prefix))
    if "boft_R" in tensors:
        tensors = _peft_boft(tensors)
    if layer.shape[1:2] == INPAINTING_CHANNELS[1:] and len(layer.shape) == 4:
        tensors = _widened(tensors)
    return _scaled(tensors, prefix, settings)


def _hcp_groups(tensors: Tensors) -> Tensors:
    """HCP-Diffusion's LoHa: ΔW = scale · Π_g W_up[g] W_down[g]; two groups are LoHa's halves, one is a LoRA.

    `W_down` [g, r, in], `W_up` [g, out, r]. More groups are left as they are: no adapter reads them.
    """
    down, up = tensors.get(DOWN), tensors.get(UP)
    if down is None or up is None or down.dim() not in (3, 5) or up.dim() != down.dim() or len(down) != len(up):
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name not in {DOWN, UP, "rank_groups"}}
    if len(down) == 1:
        return {**rest, DOWN: down[0], UP: up[0]}
    if len(down) != 2:
        return tensors
    halves = {"hada_w1_a": up[0], "hada_w1_b": down[0], "hada_w2_a": up[1], "hada_w2_b": down[1]}
    return {**rest, **{name: half.flatten(1) for name, half in halves.items()}}


def _peft_ia3(tensors: Tensors, layer: Layer, on_input: bool | None) -> Tensors:
    """PEFT's IA3 keeps the factor itself, LyCORIS the factor less one.

    Linear: [1, in] or [out, 1]. Convolution: [1, n, 1, 1] for both, so that without PEFT's settings a layer as wide as
    high is taken to be scaled at its output, which is what PEFT does to layers that it is not told of.
    """
    factor = tensors.pop("ia3_l")
    inputs = on_input
    if factor.dim() == 2:
        inputs = factor.shape[0] == 1 and factor.shape[1] == layer.shape[1]
    elif inputs is None:
        inputs = factor.numel() == layer.shape[1] != layer.shape[0]
    change = factor.float().flatten() - 1
    bias = {} if inputs else {"bias_factor": change}  # peft scales the whole output
    return {**tensors, "weight": change, "on_input": torch.tensor(int(inputs)), **bias}


def _peft_oft(tensors: Tensors, layer: Layer) -> Tensors:
    """OFT of PEFT before 0.16: W = Qᵀ W0, Q = (I − S)(I + S)⁻¹, S = (r − rᵀ) / 2; ours has the sign of S the other way.

    `oft_r` [n, s, s], or [1, s, s] when all blocks share it. A last block that hangs over the rows cannot be read.
    """
    given = tensors.pop("oft_r")
    many = layer.shape[0] // max(1, given.shape[-1]) if given.dim() == 3 else 0
    if many == 0 or tuple(given.shape) not in {(n, given.shape[-1], layer.shape[0] // many) for n in (1, many)}:
        raise BadInput(
            Problem(
                "oft_r",
                f"has blocks that do not fill the {layer.shape[0]} rows of the layer",
                "[blocks, rows, rows]",
                str(list(given.shape)),
            )
        )
    blocks = (given.float().transpose(1, 2) - given.float()) / 4
    return {**tensors, "oft_blocks": blocks.expand(many, -1, -1)}


def _peft_input_oft(tensors: Tensors, layer: Layer, terms: int | None) -> Tensors:
    """OFT of PEFT since 0.16: x -> x R per block of inputs, R the Cayley transform of a skew matrix, or its series.

    `oft_R` [n, s·(s − 1) / 2] holds the matrices' upper triangles row by row; [1, …] when all blocks share one.
    """
    given = tensors.pop("oft_R")
    columns = math.prod(layer.shape[1:])
    wide = (1 + math.isqrt(1 + 8 * given.shape[-1])) // 2 if given.dim() == 2 else 0
    many = columns // wide if wide else 0
    if wide < 2 or many * wide != columns or tuple(given.shape) not in {(n, wide * (wide - 1) // 2) for n in (1, many)}:
        what = f"has blocks that do not fill the {columns} columns of the layer"
        raise BadInput(Problem("oft_R", what, "[blocks, columns·(columns − 1) / 2]", str(list(given.shape))))
    skew = torch.zeros(len(given), wide, wide)
    rows, places = torch.triu_indices(wide, wide, 1)
    skew[:, rows, places] = given.float()
    turn = _cayley_less_one(skew - skew.transpose(1, 2), terms)
    return {**tensors, "input_turn": turn.transpose(1, 2).expand(many, -1, -1)}


def _cayley_less_one(skew: Tensor, terms: int | None) -> Tensor:
    """(I − S)(I + S)⁻¹ − I = −2 S (I + S)⁻¹ of skew S [n, s, s], or peft's series of so many terms.

    The series, I + 2 S + 2 S² + … + S^(terms − 1), is the transform of −S cut off: its first terms have the other sign.
    """
    if terms is None:
        solved: Tensor = torch.linalg.solve(torch.eye(skew.shape[-1]) + skew, skew)
        return -2 * solved
    total, power = torch.zeros_like(skew), skew
    for i in range(1, min(terms, 64)):
        total = total + power * (1 if i == terms - 1 and i > 1 else 2)
        power = power @ skew
    return total


def _peft_boft(tensors: Tensors) -> Tensors:
    """PEFT's BOFT: W = s · W0 Mᵀ, M block-diagonal with the Cayley transforms of `boft_R` [1, n, s, s]; `boft_s` [out].

    More than one butterfly factor needs a CUDA extension that hardly anybody builds; such files are left as they are.
    """
    given = tensors["boft_R"]
    if given.dim() != 4 or given.shape[0] != 1 or given.shape[-1] != given.shape[-2]:
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name not in {"boft_R", "boft_s"}}
    skew = (given[0].float() - given[0].float().transpose(1, 2)) / 2
    factor = {"output_factor": tensors["boft_s"].float().flatten()} if "boft_s" in tensors else {}
    return {**rest, "input_turn": _cayley_less_one(skew, None).transpose(1, 2), **factor}


def _widened(tensors: Tensors) -> Tensors:
    """A network made for four latent channels, on the nine of an inpainting model: mask and picture get nothing."""
    four, nine = INPAINTING_CHANNELS
    for name in ("lora_down.weight", "diff"):
        tensor = tensors.get(name)
        if tensor is not None and tensor.dim() == 4 and tensor.shape[1] == four:
            tensors[name] = torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, nine - four))
    return tensors


def _scaled(tensors: Tensors, prefix: str, settings: PeftSettings) -> Tensors:
    """The factor from PEFT's settings, where the tensors themselves bring none."""
    if "alpha" in tensors or "scale" in tensors:
        return tensors
    kind, rank = _kind_and_rank(tensors)
    scale = settings.scale(prefix, kind, rank) if kind and rank != 0 else None
    return tensors if scale is None else {**tensors, "scale": torch.tensor(scale, dtype=torch.float64)}


def _kind_and_rank(tensors: Tensors) -> tuple[str, int | None]:
    """PEFT's name of the kind, and the rank by the tensors' shapes; None where both of LoKr's factors are whole."""
    for kind, name, axis in (
        ("lora", DOWN, 0),
        ("lora", "lora_embedding_A", 0),
        ("loha", "hada_w1_b", 0),
        ("lokr", "lokr_w2_b", 0),
        ("lokr", "lokr_w1_b", 0),
    ):
        tensor = tensors.get(name)
        if tensor is not None and tensor.dim() > axis:
            return kind, tensor.shape[axis]
    return ("lokr", None) if "lokr_w2" in tensors else ("", None)
