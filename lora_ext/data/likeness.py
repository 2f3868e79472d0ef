"""Pictures that look alike: the same one saved twice, resized or compressed anew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image

ALIKE = 3
"""Bits of 64 that may differ; other photographs of the same thing differ in twenty or more."""

_BANDS = ALIKE + 1
"""Hashes that differ in 3 bits agree in at least one of 4 bands, so only those within a band are compared."""


def look(image: Image.Image) -> int:
    """The 64-bit difference hash (dHash: is each cell lighter than its left neighbour) of any picture."""
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def groups_alike(looks: Sequence[int]) -> list[list[int]]:
    """Positions of looks that differ in at most `ALIKE` bits, in groups of two or more, each position in one."""
    parent = list(range(len(looks)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first = {look: i for i, look in reversed(list(enumerate(looks)))}
    for i, one in enumerate(looks):
        parent[root(i)] = root(first[one])
    for a, b in _candidates(list(first)):
        if (a ^ b).bit_count() <= ALIKE:
            parent[root(first[b])] = root(first[a])
    groups: dict[int, list[int]] = {}
    for i in range(len(looks)):
        groups.setdefault(root(i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _candidates(looks: list[int]) -> set[tuple[int, int]]:
    width = 64 // _BANDS
    found: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        near: dict[int, list[int]] = {}
        for one in looks:
            near.setdefault(one >> (band * width) & ((1 << width) - 1), []).append(one)
        for group in near.values():
            found.update(combinations(sorted(group), 2))
    return found
