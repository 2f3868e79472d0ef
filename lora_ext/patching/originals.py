"""Bit copies of the weights that were changed, and only of those."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_ext.layers import LayerName


class Originals:
    """W0 by layer, in the weight's own dtype.

    A copy stays on the weight's device, except on a CUDA card whose memory it would fill more than half: then it goes
    to main memory, where it costs a transfer per use but takes nothing from the pictures.
    """

    def __init__(self) -> None:
        self._kept: dict[LayerName, Tensor] = {}

    def __contains__(self, name: LayerName) -> bool:
        return name in self._kept

    def __getitem__(self, name: LayerName) -> Tensor:
        return self._kept[name]

    def names(self) -> tuple[LayerName, ...]:
        """Layers with a copy."""
        return tuple(self._kept)

    def keep(self, name: LayerName, weight: Tensor) -> Tensor:
        """Copy `weight` unless there is a copy already; returns the copy."""
        if name not in self._kept:
            roomy = weight.device.type != "cuda" or _has_room(weight)
            self._kept[name] = weight.detach().to(weight.device if roomy else "cpu", copy=True)
        return self._kept[name]

    def drop(self, name: LayerName) -> None:
        """Forget the copy of a layer that holds its own weight again."""
        self._kept.pop(name, None)

    def clear(self) -> None:
        """Forget every copy."""
        self._kept.clear()

    @property
    def bytes(self) -> int:
        """Memory the copies take."""
        return sum(t.numel() * t.element_size() for t in self._kept.values())


def _has_room(weight: Tensor) -> bool:
    free, total = torch.cuda.mem_get_info(weight.device)
    # what torch has reserved and not handed out is free for us too
    spare = torch.cuda.memory_reserved(weight.device) - torch.cuda.memory_allocated(weight.device)
    return free + spare - weight.numel() * weight.element_size() > total // 2
