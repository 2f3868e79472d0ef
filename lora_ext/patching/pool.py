"""Memory that is used again: fresh pages cost more than what is written into them."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

POOL_LIMIT = 3 << 29
"""Bytes kept for the next time at most: 1.5 GiB, what a rank-any LoRA of all of SD1.5 touches in float32."""


class Pool:
    """Blocks of main memory that were given back, by size. A card's memory needs none: torch keeps one there."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)
        self.bytes = 0

    def take(self, like: Tensor) -> Tensor:
        """A contiguous CPU tensor of the shape and dtype of `like`; its numbers are anything."""
        size = like.numel() * like.element_size()
        if not self._free[size]:
            return torch.empty(like.shape, dtype=like.dtype)
        self.bytes -= size
        return self._free[size].pop().view(like.dtype).view(like.shape)

    def give(self, tensor: Tensor) -> None:
        """Take back a tensor that came from `take` and that nobody uses any more."""
        size = tensor.numel() * tensor.element_size()
        if self.bytes + size <= POOL_LIMIT:
            self._free[size].append(tensor.reshape(-1).view(torch.uint8))
            self.bytes += size

    def release(self) -> None:
        """Return everything to the system."""
        self._free.clear()
        self.bytes = 0
