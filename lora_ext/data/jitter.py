"""Colours that vary a little, so that a LoRA does not learn the light of its pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

HUE = 0.1
"""Part of the colour circle that the full strength turns hues by; skin and sky stay what they are."""

_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""RGB to NTSC's luma and two colour axes (FCC 1953), in which a hue is an angle."""


@dataclass(frozen=True)
class Tint:
    """One change of colours: factors for brightness, contrast and saturation, and a turn of hues in circles."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    @classmethod
    def draw(cls, strength: float, dice: Random) -> Tint:
        """Even odds within 1 ± strength, and ± strength · HUE for hues."""
        brightness, contrast, saturation, hue = (dice.uniform(-strength, strength) for _ in range(4))
        return cls(1 + brightness, 1 + contrast, 1 + saturation, hue * HUE)

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels [3, H, W] in -1..1 with other colours, in the same range."""
        light = (pixels + 1) / 2 * self.brightness
        grey = torch.tensor(_TO_YIQ[0]) @ light.flatten(1)
        light = grey.mean() + (light - grey.mean()) * self.contrast
        return ((self._turn() @ light.flatten(1)).view_as(light).clamp(0, 1) * 2 - 1).contiguous()

    def _turn(self) -> Tensor:
        """The 3x3 matrix that scales and turns the two colour axes and leaves the luma."""
        there = torch.tensor(_TO_YIQ)
        angle = 2 * math.pi * self.hue
        c, s = math.cos(angle) * self.saturation, math.sin(angle) * self.saturation
        turn = torch.tensor(((1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)))
        whole: Tensor = torch.linalg.inv(there) @ turn @ there
        return whole
