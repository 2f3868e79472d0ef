"""The order of an epoch: same seed, same data, same batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from lora_ext.data.buckets import Size
from lora_ext.data.scan import DataReport


class Sample(NamedTuple):
    """One picture as seen once. `picture_index` points into `DataReport.pictures`."""

    picture_index: int
    flipped: bool


class Batches:
    """Every picture `repeats` times per epoch, shuffled, in batches of one bucket; short last batches are kept."""

    def __init__(self, report: DataReport, batch_size: int, seed: int, flip: bool = False) -> None:
        """`flip`: mirror each sample with even odds. Raises `ValueError` for a batch size below 1."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._batch_size = batch_size
        self._seed = seed
        self._flip = flip
        self._buckets: dict[Size, list[int]] = {}
        for index, picture in enumerate(report.pictures):
            self._buckets.setdefault(picture.bucket, []).extend([index] * picture.repeats)

    @property
    def samples_per_epoch(self) -> int:
        """Pictures times repeats."""
        return sum(map(len, self._buckets.values()))

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, exactly."""
        return sum(-(-len(indices) // self._batch_size) for indices in self._buckets.values())

    def epoch(self, n: int) -> Iterator[tuple[Sample, ...]]:
        """The batches of epoch `n`; depends on the seed, `n` and the data, on nothing else."""
        rng = random.Random(f"batches, seed {self._seed}, epoch {n}")
        batches: list[tuple[Sample, ...]] = []
        for indices in self._buckets.values():
            shuffled = rng.sample(indices, len(indices))
            samples = [Sample(index, self._flip and rng.random() < 0.5) for index in shuffled]
            batches += [tuple(samples[i : i + self._batch_size]) for i in range(0, len(samples), self._batch_size)]
        rng.shuffle(batches)
        return iter(batches)
