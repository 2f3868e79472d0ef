"""A layer's W0 in the checkpoint file: proven once, bit for bit, then read again instead of kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.errors import BadInput
from lora_ext.layers import Layer
from lora_ext.patching.weight_file import READ_AT_ONCE, OpenFile

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes whose conversions round to nearest even on every device, so that converting again gives the same bits."""

SAME_SIZE = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Stored:
    """W0 in a file: rows of `row` numbers from byte `begin` on, converted to the live weight's `dtype`."""

    file: OpenFile
    begin: int
    row: int
    stored: torch.dtype
    dtype: torch.dtype
    bytes: int = 0

    def copy_rows(self, start: int, stop: int, out: Tensor) -> None:
        """See `Original`. Straight into `out` where that takes the bytes as they are, else piece by piece."""
        begin = self.begin + start * self.row * self.stored.itemsize
        if out.device.type == "cpu" and out.is_contiguous() and out.dtype == self.stored == self.dtype:
            self.file.read_into(begin, out)
            out[:0].zero_()  # counts as a change for whoever watches the tensor's version
            return
        step = self._rows_at_once()
        for first in range(0, stop - start, step):
            last = min(first + step, stop - start)
            out[first:last].copy_(self._piece(start + first, start + last).view(out[first:last].shape))

    def equals(self, weight: Tensor) -> bool:
        """Whether the file's bits, converted, are those of `weight`."""
        kind = SAME_SIZE[weight.element_size()]
        step = self._rows_at_once()
        for start in range(0, weight.shape[0], step):
            live = weight[start : start + step]
            piece = self._piece(start, start + len(live)).view(live.shape)
            if not torch.equal(piece.view(kind), live.cpu().contiguous().view(kind)):
                return False
        return True

    def _rows_at_once(self) -> int:
        return max(1, READ_AT_ONCE // max(1, self.row * self.stored.itemsize))

    def _piece(self, start: int, stop: int) -> Tensor:
        """Rows as the live dtype, flat, on the CPU."""
        raw = self.file.scratch((stop - start) * self.row * self.stored.itemsize)
        self.file.read_into(self.begin + start * self.row * self.stored.itemsize, raw)
        return raw.view(self.stored).to(self.dtype)


def stored(file: OpenFile, layer: Layer, weight: Tensor) -> Stored | None:
    """Where the file holds exactly what `weight` holds now, or None on any doubt."""
    slot = file.slots.get(layer.key)
    if slot is None or {slot.dtype, weight.dtype} - set(FLOATS):
        return None
    first, last = layer.rows or (0, slot.shape[0] if slot.shape else 0)
    if (last - first, *slot.shape[1:]) != tuple(weight.shape) or last > slot.shape[0]:
        return None
    row = math.prod(slot.shape[1:])
    found = Stored(file, slot.begin + first * row * slot.dtype.itemsize, row, slot.dtype, weight.dtype)
    try:
        return found if found.equals(weight.detach()) and file.intact else None
    except BadInput:  # unreadable is a doubt like any other
        return None
