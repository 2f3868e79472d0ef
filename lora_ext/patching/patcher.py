"""WeightPatcher: desired state in, exact weights out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Layer, LayerName, LayerTable
from lora_ext.patching.compose import Composer
from lora_ext.patching.originals import Originals
from lora_ext.patching.precision import exact_float32
from lora_ext.patching.recipe import Recipe, Strengths, recipes

Stamp = tuple[tuple[int, float, tuple[int, ...]], ...]


@dataclass(frozen=True)
class ApplyReport:
    """What one `apply` did. `layers_written` counts restored layers too."""

    layers_written: int
    layers_restored: int
    seconds: float
    originals_bytes: int


class WeightPatcher:
    """Keeps the live weights at W = W0 + Σ strength · ΔW(W0) for the networks that are wanted now.

    `tensors` is asked at every call for checkpoint key -> live tensor, because hosts move and swap them. Not
    thread-safe: hosts call it under their lock.
    """

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]], table: LayerTable) -> None:
        self._tensors = tensors
        self._table = table
        self._originals = Originals()
        self._stamps: dict[LayerName, Stamp] = {}
        self._held: list[Network] = []  # keeps ids in stamps from being reused
        self._state: dict[Network, Strengths] = {}

    @property
    def state(self) -> Mapping[Network, Strengths]:
        """The networks that are in the weights now."""
        return dict(self._state)

    @property
    def originals_bytes(self) -> int:
        """Memory taken by the copies of touched weights; 0 when nothing is applied."""
        return self._originals.bytes

    def apply(self, wanted: Mapping[Network, Strengths]) -> ApplyReport:
        """Make exactly `wanted` be in the weights; `{}` puts every weight back bit for bit.

        Only layers whose recipe changed are written. Raises `BadInput`, with the weights as before the call, when a
        network does not fit this model or a sum leaves the range of the weight's dtype. After any other exception
        every weight is W0 again and nothing is applied.
        """
        before = self._state
        try:
            return self._apply(wanted)
        except BadInput:
            if before and not self._state:
                self._apply(before)
            raise

    def clear(self) -> ApplyReport:
        """`apply({})`."""
        return self.apply({})

    def forget(self) -> None:
        """Drop all copies without writing: the model they belong to is gone."""
        self._originals.clear()
        self._stamps.clear()
        self._held.clear()
        self._state = {}

    def _apply(self, wanted: Mapping[Network, Strengths]) -> ApplyReport:
        start = time.perf_counter()
        plan = recipes(wanted)
        stamps = {name: tuple(part.stamp() for part in recipe) for name, recipe in plan.items()}
        weights = self._weights(set(plan) | set(self._stamps))
        changed = [name for name in weights if stamps.get(name) != self._stamps.get(name)]
        with exact_float32():
            try:
                restored = self._write(changed, plan, weights)
            except BaseException:
                self._put_back(weights)
                raise
        self._stamps, self._held, self._state = stamps, list(wanted), dict(wanted)
        return ApplyReport(len(changed), restored, time.perf_counter() - start, self.originals_bytes)

    def _weights(self, names: Iterable[LayerName]) -> dict[LayerName, Tensor]:
        """Live weights of `names`, in an order that does not vary. Raises `BadInput` before anything is written."""
        tensors = self._tensors()
        problems: list[Problem] = []
        weights: dict[LayerName, Tensor] = {}
        for name in sorted(names):
            layer = self._table.layers.get(name)
            found = _find(layer, tensors)
            if layer is None or found is None:
                problems.append(
                    Problem(str(name), "the loaded model has no such layer", fix="Load the model it was made for.")
                )
            elif tuple(found.shape) != layer.shape:
                problems.append(
                    Problem(
                        str(name),
                        "the loaded model's weight has another shape",
                        str(layer.shape),
                        str(tuple(found.shape)),
                    )
                )
            else:
                weights[name] = found
        if problems:
            raise BadInput(*problems)
        return weights

    def _write(
        self, changed: list[LayerName], plan: Mapping[LayerName, Recipe], weights: Mapping[LayerName, Tensor]
    ) -> int:
        composer = Composer()
        restored = [name for name in changed if name not in plan]
        for name in changed:
            if name in plan:
                base = self._originals.keep(name, weights[name])
                composer.write(self._table.layers[name], weights[name], base, plan[name])
            else:
                weights[name].copy_(self._originals[name])
        composer.check()
        for name in restored:
            self._originals.drop(name)
        return len(restored)

    def _put_back(self, weights: Mapping[LayerName, Tensor]) -> None:
        for name in self._originals.names():
            weights[name].copy_(self._originals[name])
        self.forget()


def _find(layer: Layer | None, tensors: Mapping[str, Tensor]) -> Tensor | None:
    if layer is None or layer.key not in tensors:
        return None
    return layer.view(tensors[layer.key].detach())
