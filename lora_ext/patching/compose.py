"""One layer: W = W0 + Σ strength · ΔW(W0), summed in float32, rounded once."""

from __future__ import annotations

import math
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from lora_ext.adapters import Factors
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Layer, LayerName
from lora_ext.patching.originals import Copied, Original
from lora_ext.patching.recipe import Part, Recipe

CPU_BLOCK = 1 << 20
"""Weights that a thread sums at a time on a CPU: 4 MiB of float32, so that what one step leaves the next finds in the
cache. Smaller blocks make the threads meet more often, which costs a tenth, and dearly on a busy machine."""
CPU_LIMIT = 1 << 22
"""Weights summed at a time on a CPU by however many threads."""
GPU_BLOCK = 1 << 26
"""Weights summed at a time elsewhere: 256 MiB of scratch at most."""


class _Written(NamedTuple):
    """A layer that was written, each block's squared length, and how far a number of it may be from W0's."""

    layer: Layer
    recipe: Recipe
    weight: Tensor
    original: Original
    squares: list[Tensor]
    reach: float


class Composer:
    """Writes layers; holds the float32 scratch between them so that memory is not asked for again and again."""

    def __init__(self, peaks: dict[LayerName, float]) -> None:
        """`peaks`: what no number of a layer's W0 exceeds, as far as it was seen; kept here for the next time."""
        self._peaks = peaks
        self._scratch: dict[tuple[torch.device, str, torch.dtype], Tensor] = {}
        self._written: list[_Written] = []

    def write(self, layer: Layer, weight: Tensor, original: Original, recipe: Recipe, *, untouched: bool) -> None:
        """Write `weight` (live, any float dtype) from `original`.

        `untouched` says that `weight` itself still holds W0, which then need not be fetched. Call `check` afterwards:
        whether every number fits the dtype is only asked there, to not wait for a card once per layer.
        """
        product, dense = self._split(recipe, weight.device)
        source = original
        if dense:
            source, untouched = Copied(_with_dense(original, weight, dense)), False
        reach = _reach(product) if product is not None and not dense else math.inf
        sure = self._peaks.get(layer.name, math.inf) + reach < torch.finfo(weight.dtype).max / 2
        rows, columns = weight.shape[0], math.prod(weight.shape[1:])
        step = _rows_at_once(weight.device, rows, columns)
        squares: list[Tensor] = []
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            live = weight[start:stop]
            # a float32 weight is its own scratch; the caller holds its original
            own = weight.dtype == torch.float32 and live.is_contiguous()
            block = live if own else self._room(weight.device, "block", stop - start, columns).view(live.shape)
            if not untouched:
                source.copy_rows(start, stop, block)
            elif not own:
                block.copy_(live)
            flat = block.view(stop - start, columns)
            if product is not None:
                flat.addmm_(product.up[start:stop], product.down)
            if not sure:
                squares.append(_square(flat))
            if not own:
                live.copy_(block)
        if squares:
            self._written.append(_Written(layer, recipe, weight, original, squares, reach))

    def check(self) -> None:
        """Raise `BadInput` if a number of the layers written since the last call left its dtype's range.

        No number is larger than the length of all of them together, which costs the least to know; only where that is
        large, or none, every number is asked.
        """
        pending, self._written = self._written, []
        squares = iter(_numbers([square for w in pending for square in w.squares]))
        for w in pending:
            length = math.sqrt(max(islice(squares, len(w.squares)), key=_nan_last))
            if not length < torch.finfo(w.weight.dtype).max / 2:
                numbers = w.weight.float()  # fp8 cannot be asked
                if not torch.isfinite(numbers).all():
                    raise _overflow(w)
                length = float(numbers.abs().max())
            self._peaks[w.layer.name] = max(self._peaks.get(w.layer.name, 0.0), length + w.reach)

    def _split(self, recipe: Recipe, device: torch.device) -> tuple[Factors | None, list[Part]]:
        """All low-rank parts as one product (ranks side by side), and the parts that have none."""
        low_rank: list[Factors] = []
        dense: list[Part] = []
        for part in recipe:
            factors = part.adapter.factors() if part.adapter.linear_in_strength else None
            if factors is None:
                dense.append(part)
            else:
                up, down, scale = factors
                if up.device != device:
                    up, down = up.to(device), down.to(device)
                low_rank.append(Factors(up, down, scale * part.strength))
        return (self._joined(low_rank, device) if low_rank else None), dense

    def _joined(self, parts: list[Factors], device: torch.device) -> Factors:
        """Their sum as one product of scale 1, float32."""
        rank = sum(len(part.down) for part in parts)
        rows, columns = parts[0].up.shape[0], parts[0].down.shape[1]
        up, down = self._room(device, "up", rows, rank), self._room(device, "down", rank, columns)
        kinds = {part.up.dtype for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else torch.float32
        # in their own precision first: to convert rows of one factor's width takes longer than all of them at once
        rowwise = up if kind == torch.float32 else self._room(device, "rowwise", rows, rank, kind)
        torch.cat([part.up for part in parts], 1, out=rowwise)
        if rowwise is not up:
            up.copy_(rowwise)
        first = 0
        for part in parts:
            last = first + len(part.down)
            down[first:last].copy_(part.down).mul_(_float32(part.scale))
            first = last
        return Factors(up, down)

    def _room(
        self, device: torch.device, use: str, rows: int, columns: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """[rows, columns] of undefined numbers; the same memory for every call with the same `use` and `dtype`."""
        numbers = rows * columns
        room = self._scratch.get((device, use, dtype))
        if room is None or room.numel() < numbers:
            room = self._scratch[device, use, dtype] = torch.empty(numbers, dtype=dtype, device=device)
        return room[:numbers].view(rows, columns)


def _rows_at_once(device: torch.device, rows: int, columns: int) -> int:
    """Rows of a block; all blocks of a weight are alike but for the last."""
    most = min(CPU_LIMIT, CPU_BLOCK * torch.get_num_threads()) if device.type == "cpu" else GPU_BLOCK
    blocks = math.ceil(rows * columns / most)
    return max(1, math.ceil(rows / max(1, blocks)))


def _square(numbers: Tensor) -> Tensor:
    """The squared length of them all, float32; infinity or NaN where a number is, or where it leaves float32."""
    flat = numbers.reshape(-1)
    return torch.dot(flat, flat)


def _numbers(scalars: list[Tensor]) -> list[float]:
    """Their values, in one piece: a card is waited for once. A host may keep parts of a model on a card, parts not."""
    if not scalars:
        return []
    home = next((scalar.device for scalar in scalars if scalar.device.type != "cpu"), scalars[0].device)
    values: list[float] = torch.stack([scalar.to(home) for scalar in scalars]).tolist()
    return values


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _reach(product: Factors) -> float:
    """What no number of up · down exceeds: by Cauchy and Schwarz, ‖up‖ ‖down‖. A card would have to be waited for."""
    if product.up.device.type != "cpu":
        return math.inf
    return math.sqrt(float(_square(product.up))) * math.sqrt(float(_square(product.down)))


def _whole(original: Original, weight: Tensor) -> Tensor:
    """W0 as float32 on the weight's device, in memory of its own."""
    whole = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    original.copy_rows(0, weight.shape[0], whole)
    return whole


def _with_dense(original: Original, weight: Tensor, parts: list[Part]) -> Tensor:
    """W0 + Σ strength · ΔW(W0) of the kinds that are no low-rank product."""
    base = _whole(original, weight)
    summed = base.clone()
    for part in parts:
        delta = part.adapter.delta(base.to(part.adapter.device))
        summed.add_(delta.to(weight.device), alpha=_float32(part.strength))
    return summed


def _float32(strength: float) -> float:
    """What float32 makes of a strength beyond its range, which `alpha=` would refuse."""
    return strength if abs(strength) <= torch.finfo(torch.float32).max else math.copysign(math.inf, strength)


def _overflow(written: _Written) -> BadInput:
    layer, weight = written.layer, written.weight
    kind = str(weight.dtype).removeprefix("torch.")
    if not torch.isfinite(_whole(written.original, weight)).all():
        return BadInput(
            Problem(str(layer.name), "the model's own weight holds NaN or infinity", fix="Use another model.")
        )
    loudest = max(written.recipe, key=lambda part: _loudness(part, weight))
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
