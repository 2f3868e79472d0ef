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


def rate_factor(step: int, total: int, optim: OptimConfig) -> float:
    """What the learning rates are multiplied by in `step` (1-based) of `total`.

    Rises linearly over the first `warmup` steps; then stays, or follows half a cosine that would reach 0 one step after
    the last (Loshchilov & Hutter 2017, eq. 5 without restarts).
    """
    if step <= optim.warmup:
        return step / (optim.warmup + 1)
    if optim.schedule == "constant":
        return 1.0
    done = (step - 1 - optim.warmup) / max(1, total - optim.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def epoch_ends(length: Length, every: int) -> range:
    """Steps after which an "every N epochs" file is due, without the end of the run; none when `every` is 0."""
    apart = every * length.steps_per_epoch
    return range(apart, length.total, apart) if every else range(0)
