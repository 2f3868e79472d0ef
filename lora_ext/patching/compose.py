"""One layer: W = W0 + Σ strength · ΔW(W0), summed in float32, rounded once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lora_ext.adapters import Factors
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Layer
from lora_ext.patching.recipe import Part, Recipe

CPU_BLOCK = 1 << 22
"""Weights summed at a time on a CPU: 16 MiB of float32 scratch. Smaller blocks gain nothing and make the threads meet
more often, which costs dearly on a busy machine."""
GPU_BLOCK = 1 << 26
"""Weights summed at a time elsewhere: 256 MiB of scratch at most."""


class _Written(NamedTuple):
    """A block written on a device that was not waited for, with the least and greatest number in it."""

    layer: Layer
    recipe: Recipe
    weight: Tensor
    base: Tensor
    low: Tensor
    high: Tensor


class Composer:
    """Writes layers; holds the float32 scratch between them so that memory is not asked for again and again."""

    def __init__(self) -> None:
        self._scratch: dict[torch.device, Tensor] = {}
        self._written: list[_Written] = []

    def write(self, layer: Layer, weight: Tensor, base: Tensor, recipe: Recipe) -> None:
        """Write `weight` (live, any float dtype) from `base` (same shape, may be on another device).

        Call `check` afterwards: whether every number fits the dtype is only asked there on a GPU, to not wait for
        the device once per layer. On a CPU the answer is there at once, so `BadInput` comes from here.
        """
        factors, dense = _split(recipe, weight.device)
        if dense:
            whole = base.to(weight.device, torch.float32)
            summed = whole.clone() if whole is base else whole
            for part in dense:
                delta = part.adapter.delta(base.to(part.adapter.device, torch.float32))
                summed.add_(delta.to(weight.device), alpha=part.strength)
            base = summed.reshape(weight.shape)
        self._write_blocks(layer, recipe, weight, base, factors)

    def check(self) -> None:
        """Raise `BadInput` if a number of the layers written since the last call left its dtype's range."""
        pending, self._written = self._written, []
        if not pending:
            return
        bad = torch.stack([~_fits(torch.stack([w.low, w.high]), w.weight.dtype) for w in pending]).any(1).tolist()
        for w, broken in zip(pending, bad, strict=True):
            if broken:
                raise _overflow(w.layer, w.weight, w.base, w.recipe)

    def _write_blocks(
        self, layer: Layer, recipe: Recipe, weight: Tensor, base: Tensor, factors: Factors | None
    ) -> None:
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        step = max(1, (CPU_BLOCK if weight.device.type == "cpu" else GPU_BLOCK) // max(1, columns))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            live = weight[start:stop]
            # a float32 weight is its own scratch; the caller holds its original
            own = weight.dtype == torch.float32 and live.is_contiguous()
            block = live.view(stop - start, columns) if own else self._block(weight.device, stop - start, columns)
            block.view(live.shape).copy_(base[start:stop].to(weight.device))
            if factors is not None:
                block.addmm_(factors.up[start:stop], factors.down)
            low, high = torch.aminmax(block)
            if weight.device.type != "cpu":
                self._written.append(_Written(layer, recipe, weight, base, low, high))
            elif not _fits(torch.stack([low, high]), weight.dtype).all():
                raise _overflow(layer, weight, base, recipe)
            if not own:
                live.copy_(block.view(live.shape))

    def _block(self, device: torch.device, rows: int, columns: int) -> Tensor:
        size = rows * columns
        scratch = self._scratch.get(device)
        if scratch is None or scratch.numel() < size:
            scratch = self._scratch[device] = torch.empty(size, dtype=torch.float32, device=device)
        return scratch[:size].view(rows, columns)


def _split(recipe: Recipe, device: torch.device) -> tuple[Factors | None, list[Part]]:
    """All low-rank parts as one product (ranks side by side, strengths in `up`), and the parts that have none."""
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    dense: list[Part] = []
    for part in recipe:
        factors = part.adapter.factors() if part.adapter.linear_in_strength else None
        if factors is None:
            dense.append(part)
            continue
        ups.append(factors.up.to(device, torch.float32) * part.strength)
        downs.append(factors.down.to(device, torch.float32))
    if not ups:
        return None, dense
    if len(ups) == 1:
        return Factors(ups[0], downs[0]), dense
    return Factors(torch.cat(ups, 1), torch.cat(downs, 0)), dense


def _fits(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Which float32 values are finite after rounding to `dtype`. NaN is not."""
    return torch.isfinite(values.to(dtype).float())


def _overflow(layer: Layer, weight: Tensor, base: Tensor, recipe: Recipe) -> BadInput:
    kind = str(weight.dtype).removeprefix("torch.")
    if not torch.isfinite(base.float()).all():
        return BadInput(
            Problem(str(layer.name), "the model's own weight holds NaN or infinity", fix="Use another model.")
        )
    loudest = max(recipe, key=lambda part: _loudness(part, weight))
    return BadInput(
        Problem(
            loudest.network.name,
            f"layer {layer.name} leaves the range of {kind} at strength {loudest.strength:g}",
            f"numbers up to {torch.finfo(weight.dtype).max:g}",
            fix="Use a smaller strength, or run the model in bf16 or fp32. Its weights are as before.",
        )
    )


def _loudness(part: Part, weight: Tensor) -> float:
    base = torch.zeros(weight.shape, dtype=torch.float32, device=part.adapter.device)
    peak = float(part.adapter.delta(base).abs().max()) * abs(part.strength)
    return math.inf if math.isnan(peak) else peak
