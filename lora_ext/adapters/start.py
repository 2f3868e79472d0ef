"""The numbers an adapter starts from, drawn on the CPU from a generator of the caller's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lora_ext.adapters.reading import Shape
from lora_ext.errors import BadInput, Problem


def uniform(shape: Shape, generator: torch.Generator | None) -> Tensor:
    """torch's own `kaiming_uniform_(a=√5)`, which kohya, peft and LyCORIS draw from: uniform in ±1/√fan_in."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def normal(shape: Shape, std: float, generator: torch.Generator | None) -> Tensor:
    """Normally distributed around 0."""
    return torch.empty(shape).normal_(0, std, generator=generator)


def check_rank(rank: int, alpha: float) -> None:
    """Raise `BadInput` for a rank below 1 and an alpha that is 0 or no number."""
    if rank < 1 or not math.isfinite(alpha) or alpha == 0:
        raise BadInput(Problem("rank", "an adapter needs rank and alpha", "rank >= 1, alpha not 0", f"{rank}, {alpha}"))


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """`dimension` as a product m·n with m <= n: `factor` and the rest where it divides, else the most even product
    whose smaller part is at most `factor` (-1: any).

    Gives what LyCORIS' `functional.factorization` gives, so that its modules read what ours write.
    """
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    most = dimension if factor < 0 else factor
    m = max(d for d in range(1, math.isqrt(dimension) + 1) if dimension % d == 0 and (d <= most or d == 1))
    return m, dimension // m
