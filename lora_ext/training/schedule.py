"""How long a run is, and how the learning rate goes along it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lora_ext.config import OptimConfig


@dataclass(frozen=True)
class Length:
    """Length of a run in optimizer steps. The last step of an epoch may hold fewer batches than `accumulate`."""

    steps_per_epoch: int
    epochs: int
    total: int

    @classmethod
    def of(cls, batches_per_epoch: int, optim: OptimConfig) -> Length:
        """From the number of batches (not steps) in an epoch. `max_steps`, when given, decides alone."""
        per_epoch = math.ceil(batches_per_epoch / optim.accumulate)
        total = optim.max_steps or optim.epochs * per_epoch
        return cls(per_epoch, math.ceil(total / per_epoch), total)

    def until(self, step: int | None) -> Length:
        """The same, ended after `step` at the latest."""
        if step is None or step >= self.total:
            return self
        return Length(self.steps_per_epoch, math.ceil(step / self.steps_per_epoch), step)


def rate_factor(step: int, total: int, optim: OptimConfig) -> float:
    """What the learning rates are multiplied by in `step` (1-based) of `total`.

    Rises linearly over the warm-up; then follows the schedule, which would reach its floor one step after the last.
    """
    warmup = warmup_steps(total, optim)
    if step <= warmup:
        return step / (warmup + 1)
    if optim.schedule == "constant":
        return 1.0
    done = (step - 1 - warmup) / max(1, total - warmup)
    return optim.schedule_floor + (1 - optim.schedule_floor) * _falling(done, optim)


def warmup_steps(total: int, optim: OptimConfig) -> int:
    """Steps of the warm-up: those given or the share of the run, whichever is more."""
    return max(optim.warmup, math.ceil(total * optim.warmup_percent / 100))


def _falling(done: float, optim: OptimConfig) -> float:
    """From 1 at `done` = 0 to 0 at 1.

    cosine: Loshchilov & Hutter 2017, eq. 5, with `schedule_cycles` restarts as in transformers. rex: Chen et al. 2021
    (arXiv 2107.04197), (1 − z) / (1 − z/2).
    """
    left = 1 - done
    if optim.schedule == "linear":
        return left
    if optim.schedule == "polynomial":
        return math.pow(left, optim.schedule_power)
    if optim.schedule == "rex":
        return left / (0.5 + 0.5 * left)
    cycles = optim.schedule_cycles if optim.schedule == "cosine_with_restarts" else 1
    return 0.5 * (1.0 + math.cos(math.pi * ((done * cycles) % 1.0)))


def epoch_ends(length: Length, every: int, last: bool = False) -> range:
    """Steps after which something is due every N epochs; none when `every` is 0. `last`: at the end of the run too."""
    apart = every * length.steps_per_epoch
    return range(apart, length.total + last, apart) if every else range(0)
