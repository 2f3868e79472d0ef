"""The noise of a training step, plain or dressed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class NoiseRecipe:
    """What is done to plain noise; everything is off by default."""

    offset: float = 0.0
    offset_random: bool = False
    adaptive_offset: float = 0.0
    pyramid_levels: int = 0
    pyramid_discount: float = 0.3
    perturbation: float = 0.0
    perturbation_random: bool = False


@dataclass(frozen=True)
class Noise:
    """`asked` [B, C, h, w] is what the model has to find, `given` what the latents are mixed with (often the same)."""

    asked: Tensor
    given: Tensor

    def __getitem__(self, which: slice) -> Noise:
        """The noise of some of the samples."""
        return Noise(self.asked[which], self.given[which])


def draw_noise(latents: Tensor, recipe: NoiseRecipe, source: torch.Generator, dice: torch.Generator) -> Noise:
    """Fresh noise for `latents` [B, C, h, w], float32 on their device, from `source`, a generator of that device.

    `dice` lives on the CPU and decides shapes and strengths, so that no answer from the device is waited for. In
    sd-scripts' order: noise offset, then pyramid noise, then input perturbation.
    """
    asked = _randn(latents.shape, latents, source)
    if recipe.offset or recipe.adaptive_offset:
        asked = asked + _offset(latents, recipe, source, dice)
    if recipe.pyramid_levels:
        asked = pyramid(asked, recipe.pyramid_levels, recipe.pyramid_discount, source, dice)
    if not recipe.perturbation:
        return Noise(asked, asked)
    strength = recipe.perturbation * (_roll(dice) if recipe.perturbation_random else 1.0)
    return Noise(asked, asked + strength * _randn(latents.shape, latents, source))


def pyramid(noise: Tensor, levels: int, discount: float, source: torch.Generator, dice: torch.Generator) -> Tensor:
    """Multi-resolution noise (J. Whitaker 2023; sd-scripts' `pyramid_noise_like`): each level is coarser by a random
    factor of 2 to 4 and weaker by `discount`; the sum has a standard deviation of 1 again.
    """
    height, width = noise.shape[2:]
    for level in range(levels):
        factor = (2 + 2 * _roll(dice)) ** level
        size = max(1, int(height / factor)), max(1, int(width / factor))
        coarse = _randn((*noise.shape[:2], *size), noise, source)
        noise = noise + functional.interpolate(coarse, (height, width), mode="bilinear") * discount**level
        if 1 in size:
            break
    return noise / noise.std()


def _offset(latents: Tensor, recipe: NoiseRecipe, source: torch.Generator, dice: torch.Generator) -> Tensor:
    """One number per channel of each sample (Crosslabs 2023), [B, C, 1, 1]."""
    strength: float | Tensor = recipe.offset * (_roll(dice) if recipe.offset_random else 1.0)
    if recipe.adaptive_offset:
        mean = latents.float().mean(dim=(2, 3), keepdim=True).abs()
        strength = (strength + recipe.adaptive_offset * mean).clamp(min=0.0)
    return strength * _randn((*latents.shape[:2], 1, 1), latents, source)


def _randn(shape: tuple[int, ...], like: Tensor, source: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=source, device=like.device)


def _roll(dice: torch.Generator) -> float:
    return float(torch.rand((), generator=dice))
