"""How fast a kind of adapter changes the model, beside a LoRA at the same learning rate.

Optimizers of Adam's family move every number by about the learning rate in a step, whatever it does. A LoHa's number
does far more than a LoRA's, and one of IA³ far less, so a learning rate that suits one kind ruins the model with
another or teaches it nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, AdapterKind, CreateOptions, create_adapter
from lora_ext.config import TrainConfig
from lora_ext.layers import Layer, LayerTable
from lora_ext.training.creation import create_options
from lora_ext.training.targets import Target, plan

USUAL_RATE, USUAL_RANK, USUAL_ALPHA = 1e-4, 32, 16.0
"""Of a LoRA."""
FASTEST, SLOWEST = 10 * USUAL_RATE, USUAL_RATE / 4
"""What a learning rate may come to for a LoRA; beyond it is hardly meant."""
WIDE = 5
"""Up to so many times what is as fast as the usual LoRA is worth a try."""
STEADY = ("adamw", "adamw8bit", "paged_adamw8bit", "adamw_schedulefree", "lion")
"""Optimizers whose steps are as long as the learning rate says."""
TRIES = 3


def pace_remark(table: LayerTable, config: TrainConfig) -> Iterator[str]:
    """A sentence or two where the kind, with its rank, alpha and learning rate, learns far too fast or too slowly."""
    network, optim = config.network, config.optim
    if network.kind in ("lora", "norm") or network.start_from.strip() or optim.optimizer not in STEADY:
        return
    rate = optim.learning_rate or max(optim.text_encoder_lr, optim.text_encoder_2_lr)
    typical = _typical(plan(table, config))
    if typical is None or rate <= 0:
        return
    times = pace(typical.layer, cast(AdapterKind, network.kind), typical.rank, typical.alpha, create_options(network))
    acts = rate * times
    if SLOWEST <= acts <= FASTEST or not times:
        return
    same = USUAL_RATE / times
    tip = f"{same:.0e} to {WIDE * same:.0e}" if acts > FASTEST else f"{same:.0e} or more"
    yield (
        f"{network.kind} at a learning rate of {rate:g} learns about as fast as a LoRA at {acts:.1g}, where "
        f"{USUAL_RATE:g} is usual: try {tip}."
    )
    if network.kind == "loha" and typical.alpha > 1 and acts > FASTEST:
        yield "A LoHa with alpha 1 learns about as fast as a LoRA."


def pace(layer: Layer, kind: AdapterKind, rank: int, alpha: float, options: CreateOptions) -> float:
    """How far the loss falls in the first step over how far it falls with the usual LoRA, for this layer."""
    plain = CreateOptions()
    ours = statistics.mean(_fall(layer, kind, rank, alpha, options, seed) for seed in range(TRIES))
    usual = statistics.mean(_fall(layer, "lora", USUAL_RANK, USUAL_ALPHA, plain, seed) for seed in range(TRIES))
    return ours / usual


def _fall(layer: Layer, kind: AdapterKind, rank: int, alpha: float, options: CreateOptions, seed: int) -> float:
    """Of the loss ⟨slope, ΔW⟩ per learning rate, where every number takes a step of the learning rate downhill: the sum
    of all gradients' sizes. `slope` is that of one random input and output, over random weights of a layer's size."""
    dice = torch.Generator().manual_seed(seed)
    wide = math.prod(layer.shape[1:])
    base = torch.randn(layer.shape, generator=dice) * wide**-0.5
    slope = torch.outer(torch.randn(layer.shape[0], generator=dice), torch.randn(wide, generator=dice))
    adapter = create_adapter(kind, layer, rank, alpha, options, dice, base)
    with torch.enable_grad():
        loss = (adapter.delta(base) * slope.reshape(layer.shape)).sum()
        found = torch.autograd.grad(loss, _learnt(adapter), allow_unused=True)
    return sum(float(gradient.abs().sum()) for gradient in found if gradient is not None)


def _learnt(adapter: Adapter) -> list[Tensor]:
    return [parameter for parameter in adapter.parameters() if parameter.requires_grad]


def _typical(targets: Sequence[Target]) -> Target | None:
    """The linear layer of middle size among those that learn."""
    linear = [t for t in targets if t.layer.op == "linear" and not t.extra]
    return sorted(linear, key=lambda t: math.prod(t.layer.shape))[len(linear) // 2] if linear else None
