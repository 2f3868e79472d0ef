"""How fast this machine trains, guessed from one multiplication, for as long as no run has been timed."""

from __future__ import annotations

import math
import time
from functools import lru_cache

import torch

from lora_ext.layers import Family

SHARE = {"sd1": 0.12, "sd2": 0.12, "sdxl": 0.14}
"""Of what a large multiplication reaches, a step at batch 1 gets about this on a card: published runs get 11 % (SDXL,
batch 1) to 30 % (SD 1.5, batch 8) of the chip's peak, and a large multiplication some 80 %."""

MOST = 0.38
ON_PROCESSOR = 0.5


def reached(device: torch.device, dtype: torch.dtype, family: Family, batch: int) -> float | None:
    """FLOP per second that a training step is likely to reach. A guess that may be wrong by half.

    None where the card is too full to try.
    """
    try:
        peak = _multiplied(device, dtype)
    except torch.cuda.OutOfMemoryError:
        return None
    if device.type != "cuda":
        return peak * ON_PROCESSOR
    return peak * min(MOST, SHARE[family] * math.sqrt(batch))


@lru_cache(maxsize=8)
def _multiplied(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of a matrix multiplication; takes a few hundredths of a second, once."""
    side, rounds = (4096, 8) if device.type == "cuda" else (768, 2)
    left = torch.ones(side, side, device=device, dtype=dtype)
    torch.mm(left, left)  # the first one prepares
    _wait(device)
    start = time.perf_counter()
    for _ in range(rounds):
        torch.mm(left, left)
    _wait(device)
    seconds = max(1e-9, time.perf_counter() - start)
    return float(2 * side**3 * rounds) / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
