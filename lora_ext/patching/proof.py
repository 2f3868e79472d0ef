"""Which live weights the checkpoint file holds bit for bit, asked by several threads: one alone waits for memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lora_ext.patching.stored import Stored

ENOUGH = 4
"""Threads at most: two to four take all that a machine's memory gives."""


def comparable(found: Stored, weight: Tensor) -> bool:
    """Whether the two need only be compared. To convert one or to fetch it from a card, torch has threads of its own,
    and a second set of them would be in the way."""
    return found.tensor.dtype == weight.dtype and weight.device.type == "cpu" and weight.is_contiguous()


def proven(pairs: Sequence[tuple[Stored, Tensor]]) -> list[bool]:
    """Of each pair (what the file has, the live weight), all `comparable`, whether both are the same bit for bit.

    False on any doubt. As many threads as torch may have compare; none is left afterwards.
    """
    answers = [False] * len(pairs)
    left = deque(range(len(pairs)))

    def compare() -> None:
        while True:
            try:
                at = left.popleft()
            except IndexError:  # another thread took the last one
                return
            found, weight = pairs[at]
            answers[at] = found.equals(weight)

    threads = min(ENOUGH, torch.get_num_threads(), len(pairs))
    with ThreadPoolExecutor(max(1, threads), "lora-ext compare") as pool:
        for working in [pool.submit(compare) for _ in range(threads)]:
            working.result()
    return answers
