"""The order of an epoch and what is said of each picture in it: same seed, same data, same batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lora_ext.data.buckets import Size
from lora_ext.data.picture import Picture
from lora_ext.data.report import DataReport


class Sample(NamedTuple):
    """One picture as seen once. `picture_index` points into `DataReport.pictures`."""

    picture_index: int
    flipped: bool
    caption: str = ""
    variation: int = 0
    """Which of the picture's views; `Batches.picture` gives it."""


class Batches:
    """Every picture `repeats` times per epoch, shuffled, in batches of one bucket; short last batches are kept."""

    def __init__(self, report: DataReport, batch_size: int, seed: int, flip: bool = False) -> None:
        """`flip`: mirror every picture with even odds, not just those that say so.

        Raises `ValueError` for a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._pictures = report.pictures
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
        """The batches of epoch `n` (from 0); depends on the seed, `n` and the data, on nothing else."""
        rng = random.Random(f"batches, seed {self._seed}, epoch {n}")
        batches: list[tuple[Sample, ...]] = []
        for indices in self._buckets.values():
            shuffled = rng.sample(indices, len(indices))
            flips = [self._flips(index) and rng.random() < 0.5 for index in shuffled]
            samples = self._described(shuffled, flips, n)
            batches += [tuple(samples[i : i + self._batch_size]) for i in range(0, len(samples), self._batch_size)]
        rng.shuffle(batches)
        return iter(batches)

    def picture(self, sample: Sample) -> Picture:
        """The picture of a sample as it is seen this time: cut and coloured."""
        return self._pictures[sample.picture_index].view(sample.variation)

    def captions(self, n: int) -> tuple[str, ...]:
        """Every different caption of epoch `n`, in order of first use."""
        return tuple(dict.fromkeys(sample.caption for batch in self.epoch(n) for sample in batch))

    def all_captions(self, epochs: Iterable[int]) -> tuple[str, ...]:
        """Every different caption of these epochs."""
        return tuple(dict.fromkeys(caption for n in epochs for caption in self.captions(n)))

    def _flips(self, index: int) -> bool:
        return self._flip or self._pictures[index].flips

    def _described(self, indices: list[int], flips: list[bool], epoch: int) -> list[Sample]:
        """Captions and views by dice of their own: each picture's do not hang on which others there are."""
        times: dict[int, int] = {}
        samples: list[Sample] = []
        for index, flipped in zip(indices, flips, strict=True):
            picture = self._pictures[index]
            if picture.words is None and picture.variations == 1:
                samples.append(Sample(index, flipped, picture.caption))
                continue
            times[index] = time = times.get(index, 0) + 1
            dice = random.Random(f"{picture.name}, time {time}, epoch {epoch}, seed {self._seed}")
            variation = dice.randrange(picture.variations)
            samples.append(Sample(index, flipped, picture.said(dice, epoch), variation))
        return samples
