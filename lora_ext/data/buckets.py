"""Aspect-ratio buckets: which size a picture is brought to, and which part of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

STEP = 64
"""Sides of buckets are multiples of this many pixels: 8 (the VAE) times 8 (the UNet's three halvings)."""

LONGEST = 2
"""No side of a bucket is longer than this times the resolution, so no bucket is longer than about 4:1."""

Size = tuple[int, int]
"""Width, height in pixels."""


@dataclass(frozen=True)
class Fit:
    """How a picture gets into its bucket: scaled to `resized` (covers `bucket`), then cut at `crop` (left, top)."""

    bucket: Size
    resized: Size
    crop: tuple[int, int]

    @property
    def kept(self) -> float:
        """Share of the picture's area that is left after cutting."""
        return self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])


@lru_cache(maxsize=64)
def bucket_sizes(resolution: int) -> tuple[Size, ...]:
    """Every bucket (width, height): for each width in 64s the tallest with area <= resolution², and the reverse.

    Raises `ValueError` when the resolution is no multiple of 64.
    """
    if resolution < STEP or resolution % STEP:
        raise ValueError(f"resolution must be a multiple of {STEP}, not {resolution}")
    shortest = max(STEP, resolution // LONGEST // STEP * STEP)
    found: set[Size] = set()
    for side in range(shortest, resolution * LONGEST + 1, STEP):
        other = min(resolution * LONGEST, resolution**2 // side // STEP * STEP)
        if other >= shortest:
            found |= {(side, other), (other, side)}
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def fit(size: Size, buckets: tuple[Size, ...]) -> Fit:
    """Scale to cover the bucket that keeps most of the picture, then cut the middle out.

    Equally good buckets: the larger, then the wider. Compared as fractions, so every machine chooses alike.
    """
    bucket = max(buckets, key=lambda b: (_kept(size, b), b[0] * b[1], b[0]))
    resized = _cover(size, bucket)
    return Fit(bucket, resized, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2))


def fit_limited(size: Size, resolution: int, limit: float, square: bool = False) -> Fit | None:
    """`fit`, at the largest resolution at which the picture is scaled up by at most `limit`; 0: no limit.

    `square`: into squares instead of buckets of all shapes. None when even the smallest is too large.
    """
    for smaller in range(resolution, STEP - 1, -STEP):
        found = fit(size, ((smaller, smaller),) if square else bucket_sizes(smaller))
        # A pixel of rounding is no scaling up.
        if not limit or (found.resized[0] <= size[0] * limit + 1 and found.resized[1] <= size[1] * limit + 1):
            return found
    return None


def stretched(found: Fit) -> Fit:
    """The same bucket with nothing cut off: the picture is squeezed into its shape."""
    return Fit(found.bucket, found.bucket, (0, 0))


def _kept(size: Size, bucket: Size) -> Fraction:
    """Share of the picture inside the bucket's shape: 1 when the aspects are equal."""
    a, b = size[0] * bucket[1], size[1] * bucket[0]
    return Fraction(min(a, b), max(a, b))


def _cover(size: Size, bucket: Size) -> Size:
    """The picture's size scaled by the smallest factor that covers the bucket; one side is exactly the bucket's."""
    (w, h), (bw, bh) = size, bucket
    if w * bh > h * bw:  # wider than the bucket
        return max(bw, round(Fraction(w * bh, h))), bh
    return bw, max(bh, round(Fraction(h * bw, w)))
