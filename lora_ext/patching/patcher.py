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
from lora_ext.patching.weight_file import WeightFile

Stamp = tuple[tuple[int, float, tuple[int, ...]], ...]
LOST: Stamp = ()
"""Stamp of a layer whose W0 could not be put back: unlike that of any recipe."""


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
    thread-safe: hosts call it under their lock. `weight_file` is asked for the checkpoint's file, if there is one that
    W0 may be read from again instead of being copied; what it holds is believed only where it is the same bit for bit.
    """

    def __init__(
        self,
        tensors: Callable[[], Mapping[str, Tensor]],
        table: LayerTable,
        weight_file: Callable[[], WeightFile | None] = lambda: None,
    ) -> None:
        self._tensors = tensors
        self._table = table
        self._originals = Originals(weight_file)
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

    @property
    def spare_bytes(self) -> int:
        """Memory of former copies that is kept for the next ones; `release` returns it."""
        return self._originals.spare_bytes

    def apply(self, wanted: Mapping[Network, Strengths]) -> ApplyReport:
        """Make exactly `wanted` be in the weights; `{}` puts every weight back bit for bit.

        Only layers whose recipe changed are written. Raises `BadInput`, with the weights as before the call, when a
        network does not fit this model, a sum leaves the range of the weight's dtype, or the checkpoint file that W0
        is read from was written into meanwhile (then only `forget` helps, after the host has loaded it again). After
        any other exception every weight is W0 again and nothing is applied; where even that failed (a card without any
        memory left), the next call does it.
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
        """Drop all copies without writing, spare memory too: the model they belong to is gone."""
        self._originals.clear()
        self._stamps.clear()
        self._held.clear()
        self._state = {}

    def release(self) -> None:
        """Return spare memory to the system, before something that needs much of it."""
        self._originals.release()

    def _apply(self, wanted: Mapping[Network, Strengths]) -> ApplyReport:
        start = time.perf_counter()
        plan = recipes(wanted)
        stamps = {name: tuple(part.stamp() for part in recipe) for name, recipe in plan.items()}
        weights = self._weights(set(plan) | set(self._stamps))
        changed = [name for name in weights if stamps.get(name) != self._stamps.get(name)]
        if not changed:
            return self._done(wanted, stamps, start)
        self._originals.check()
        with exact_float32():
            try:
                restored = self._write(changed, plan, weights)
            except BaseException:
                self._put_back(weights)
                raise
        return self._done(wanted, stamps, start, len(changed), restored)

    def _done(
        self,
        wanted: Mapping[Network, Strengths],
        stamps: dict[LayerName, Stamp],
        start: float,
        written: int = 0,
        restored: int = 0,
    ) -> ApplyReport:
        self._stamps, self._held, self._state = stamps, list(wanted), dict(wanted)
        return ApplyReport(written, restored, time.perf_counter() - start, self.originals_bytes)

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
        composer = Composer(self._originals.peaks)
        restored = [name for name in changed if name not in plan]
        new = {name for name in changed if name in plan and name not in self._originals}
        self._originals.prove((self._table.layers[name], weights[name]) for name in changed if name in new)
        for name in changed:
            layer, weight = self._table.layers[name], weights[name]
            if name in plan:
                original = self._originals.keep(layer, weight)
                composer.write(layer, weight, original, plan[name], untouched=name in new)
            else:
                self._originals[name].copy_rows(0, weight.shape[0], weight)
        composer.check()
        self._originals.check()
        for name in restored:
            self._originals.drop(name)
        return len(restored)

    def _put_back(self, weights: Mapping[LayerName, Tensor]) -> None:
        """W0 wherever it can be had. What cannot stays marked, so that nothing is ever built upon it."""
        lost: dict[LayerName, Stamp] = {}
        for name in self._originals.names():
            try:
                self._originals.put_back(name, weights[name])
            except Exception:  # a card may be out of memory; what led here is raised, and `clear` tries again
                lost[name] = LOST
        self._stamps, self._held, self._state = lost, [], {}


def _find(layer: Layer | None, tensors: Mapping[str, Tensor]) -> Tensor | None:
    if layer is None or layer.key not in tensors:
        return None
    return layer.view(tensors[layer.key].detach())
