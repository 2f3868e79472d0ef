"""Whether one side of the learning bench is worse than the other by more than chance.

Both are asked the same questions, and both train with the same data, noise and first weights; what is left is rounding
that grew, and it moves a picture or two either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

LEAST = 0.05
"""Probability under which chance is not believed."""


def chance_of(mine: Sequence[int], theirs: Sequence[int]) -> float:
    """How likely chance makes `mine` as much worse than `theirs`, or more: 0..1, more is better in each pair.

    The one-sided sign test: of the pairs that differ each is a fair coin (Dixon and Mood, 1946).
    """
    worse = sum(a < b for a, b in zip(mine, theirs, strict=True))
    differing = worse + sum(a > b for a, b in zip(mine, theirs, strict=True))
    ways = sum(comb(differing, k) for k in range(worse, differing + 1))
    return ways / float(2**differing)
