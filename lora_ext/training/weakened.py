"""Adapters that learn at less than full strength, so that they also show when they are used so."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_ext.layers import ConvGeometry
from lora_ext.training.dropping import StandIn


def draw_strength(lowest: float, dice: torch.Generator) -> float:
    """A strength of `lowest`..1, each as likely, from a random source on the CPU; 1 asks it for nothing."""
    return 1.0 if lowest >= 1 else 1 - (1 - lowest) * float(torch.rand((), generator=dice))


class Weakened(StandIn):
    """Weakens an adapter while it learns: strength · ΔW, as a host applies it to every kind.

    The strength is that of the pass (`Roll.strength`), the same for all layers of all parts; 1 where the pass measures.
    """

    def delta(self, base: Tensor) -> Tensor:
        """ΔW at the strength of this pass."""
        return self.adapter.delta(base) * self._strength

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """That on the layer's input."""
        return self.adapter.forward_delta(x, base, geometry) * self._strength

    @property
    def _strength(self) -> float:
        return 1.0 if self.roll.resting else self.roll.strength
