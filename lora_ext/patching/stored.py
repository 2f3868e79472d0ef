"""A layer's W0 in the checkpoint file: proven once, bit for bit, then read again instead of kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lora_ext.layers import Layer
from lora_ext.patching.weight_file import MappedFile

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes whose conversions round to nearest even on every device, so that converting again gives the same bits."""

AT_ONCE = 1 << 20
"""Weights compared or converted at a time."""


@dataclass(frozen=True)
class Stored:
    """W0 as the file's `tensor`, converted to the live weight's `dtype`."""

    file: MappedFile
    tensor: Tensor
    dtype: torch.dtype
    bytes: int = 0

    def copy_rows(self, start: int, stop: int, out: Tensor) -> None:
        """See `Original`."""
        self.file.check()
        if self.dtype in {self.tensor.dtype, torch.float32}:
            out.copy_(self.tensor[start:stop])
            return
        step = self._rows_at_once()
        for first in range(start, stop, step):
            rows = self.tensor[first : min(first + step, stop)].to(self.dtype)
            out[first - start : first - start + len(rows)].copy_(rows)

    def equals(self, weight: Tensor) -> bool:
        """Whether the file's bits, converted, are those of `weight`. False too if the file is written to meanwhile."""
        step = self._rows_at_once()
        starts = range(0, weight.shape[0], step)
        return all(self._equal_rows(weight, start, start + step) for start in starts) and self.file.intact

    def _equal_rows(self, weight: Tensor, start: int, stop: int) -> bool:
        if not self.file.intact:
            return False
        return _same_bits(self.tensor[start:stop].to(self.dtype), weight[start:stop].cpu().contiguous())

    def _rows_at_once(self) -> int:
        return max(1, AT_ONCE // math.prod(self.tensor.shape[1:]))


def candidate(file: MappedFile, layer: Layer, weight: Tensor) -> Stored | None:
    """Where the file may hold what `weight` holds now, which `equals` can tell; None where it cannot."""
    whole = file.tensor(layer.key)
    if whole is None or not {whole.dtype, weight.dtype} <= set(FLOATS):
        return None
    tensor = layer.view(whole)
    return Stored(file, tensor, weight.dtype) if tensor.shape == weight.shape else None


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Bitwise, so that -0 is not 0 and a NaN is itself. Eight bytes at a time, and by numpy, are compared fastest."""
    a, b = a.reshape(-1), b.reshape(-1)
    wide = a.numel() * a.element_size() % 8 == 0 and a.data_ptr() % 8 == 0 and b.data_ptr() % 8 == 0
    kind = torch.int64 if wide else torch.uint8
    return np.array_equal(a.view(kind).numpy(), b.view(kind).numpy())
