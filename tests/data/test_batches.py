from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.data import Batches, DataReport, Picture

BUCKETS = [(512, 512), (640, 384), (384, 640)]


def picture(index: int, bucket: tuple[int, int], repeats: int) -> Picture:
    name = f"{index}.png"
    return Picture(Path(name), name, "", repeats, bucket, 1, bucket, bucket, (0, 0))


@st.composite
def reports(draw) -> DataReport:
    facts = draw(st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(1, 5)), min_size=1, max_size=20))
    return DataReport(tuple(picture(i, b, r) for i, (b, r) in enumerate(facts)), (), ())


@given(reports(), st.integers(1, 7), st.integers(0, 2**40), st.integers(0, 1000), st.booleans())
def test_every_sample_exactly_as_often_as_asked(report, batch_size, seed, epoch, flip) -> None:
    batches = list(Batches(report, batch_size, seed, flip).epoch(epoch))
    seen = Counter(sample.picture_index for batch in batches for sample in batch)
    assert seen == {i: p.repeats for i, p in enumerate(report.pictures)}


@given(reports(), st.integers(1, 7), st.integers(0, 99))
def test_no_batch_mixes_buckets_and_only_the_last_of_a_bucket_is_short(report, batch_size, epoch) -> None:
    batches = Batches(report, batch_size, 0)
    short: Counter[tuple[int, int]] = Counter()
    produced = list(batches.epoch(epoch))
    for batch in produced:
        (bucket,) = {report.pictures[s.picture_index].bucket for s in batch}
        assert 1 <= len(batch) <= batch_size
        short[bucket] += len(batch) < batch_size
    assert all(n <= 1 for n in short.values())
    assert batches.steps_per_epoch == len(produced)
    assert batches.samples_per_epoch == report.samples == sum(map(len, produced))


@given(reports(), st.integers(1, 7), st.integers(0, 99), st.integers(0, 99))
def test_same_seed_same_order(report, batch_size, seed, epoch) -> None:
    one, other = Batches(report, batch_size, seed, True), Batches(report, batch_size, seed, True)
    list(one.epoch(epoch + 1))  # what was drawn before must not matter
    assert list(one.epoch(epoch)) == list(other.epoch(epoch))


MANY = DataReport(tuple(picture(i, BUCKETS[i % 3], 1) for i in range(60)), (), ())


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(Batches(MANY, 2, seed).epoch(n)) for seed in (0, 1) for n in (0, 1)]
    assert len(set(orders)) == 4


def test_buckets_are_shuffled_among_each_other() -> None:
    buckets = [MANY.pictures[batch[0].picture_index].bucket for batch in Batches(MANY, 2, 0).epoch(0)]
    changes = sum(a != b for a, b in itertools.pairwise(buckets))
    assert changes > len(set(buckets))


def test_flips_only_when_asked_and_about_half() -> None:
    assert not any(s.flipped for b in Batches(MANY, 2, 0).epoch(0) for s in b)
    flips = [s.flipped for n in range(20) for b in Batches(MANY, 2, 0, flip=True).epoch(n) for s in b]
    assert 0.45 < sum(flips) / len(flips) < 0.55


def test_the_order_of_today_is_the_order_of_tomorrow() -> None:
    """A resumed run on another machine must go on in the same order."""
    report = DataReport(tuple(picture(i, BUCKETS[0], 1) for i in range(6)), (), ())
    order = [[s.picture_index for s in b] for b in Batches(report, 4, seed=7).epoch(3)]
    assert order == [[0, 3, 5, 4], [1, 2]]


def test_batch_size_is_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Batches(MANY, 0, 0)
