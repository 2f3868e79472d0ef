from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.data import bucket_sizes, fit

RESOLUTIONS = st.integers(1, 32).map(lambda n: n * 64)
SIDES = st.integers(16, 20_000)


@given(RESOLUTIONS)
def test_buckets_are_steps_of_64_within_the_area(resolution: int) -> None:
    buckets = bucket_sizes(resolution)
    assert (resolution, resolution) in buckets
    for w, h in buckets:
        assert w % 64 == h % 64 == 0
        assert w >= 64 <= h
        assert w * h <= resolution**2
        assert (h, w) in buckets
        assert max(w, h) <= 2 * resolution


@given(RESOLUTIONS)
def test_no_bucket_could_be_taller(resolution: int) -> None:
    widest: dict[int, int] = {}
    for w, h in bucket_sizes(resolution):
        widest[w] = max(h, widest.get(w, 0))
    for w, h in widest.items():
        assert w * (h + 64) > resolution**2 or h == 2 * resolution


@given(SIDES, SIDES, RESOLUTIONS)
def test_a_picture_covers_its_bucket_and_is_cut_in_the_middle(w: int, h: int, resolution: int) -> None:
    got = fit((w, h), bucket_sizes(resolution))
    (bw, bh), (rw, rh), (left, top) = got.bucket, got.resized, got.crop
    assert rw >= bw
    assert rh >= bh
    assert rw == bw or rh == bh, "scaled up more than needed"
    assert abs(rw / w - rh / h) <= max(0.5 / w, 0.5 / h) * (1 + 1e-9), "stretched by more than rounding"
    assert left >= 0 <= top
    assert abs((rw - bw - left) - left) <= 1
    assert abs((rh - bh - top) - top) <= 1


@given(SIDES, SIDES, RESOLUTIONS)
def test_no_other_bucket_has_a_better_aspect(w: int, h: int, resolution: int) -> None:
    buckets = bucket_sizes(resolution)

    def off(b: tuple[int, int]) -> float:
        return abs(math.log(b[0] / b[1]) - math.log(w / h))

    assert off(fit((w, h), buckets).bucket) <= min(map(off, buckets)) + 1e-9


@given(SIDES, SIDES)
def test_turning_the_picture_turns_its_bucket(w: int, h: int) -> None:
    buckets = bucket_sizes(768)
    one, other = fit((w, h), buckets), fit((h, w), buckets)
    if w != h and math.isclose(one.kept, other.kept):
        # a tie between two buckets goes to the wider one, so a tie may not turn along
        assert one.bucket[0] * one.bucket[1] == other.bucket[0] * other.bucket[1]
    else:
        assert one.bucket == other.bucket[::-1]


@given(SIDES, SIDES)
def test_square_cutting(w: int, h: int) -> None:
    got = fit((w, h), ((512, 512),))
    assert got.bucket == (512, 512)
    assert min(got.resized) == 512


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((512, 512), (512, 512)),
        ((1920, 1080), (640, 384)),
        ((1080, 1920), (384, 640)),
        ((600, 400), (640, 384)),
        ((448, 576), (448, 576)),
        ((20_000, 100), (1024, 256)),
    ],
)
def test_known_sizes_at_512(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert fit(size, bucket_sizes(512)).bucket == bucket


def test_share_that_is_kept() -> None:
    assert fit((1024, 512), ((512, 512),)).kept == 0.5


@pytest.mark.parametrize("resolution", [0, -64, 63, 65, 100])
def test_resolution_must_be_in_steps(resolution: int) -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        bucket_sizes(resolution)
