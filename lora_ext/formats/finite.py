"""Whether all numbers of a .safetensors file are finite, told by their bits in one pass over the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lora_ext.formats.safetensors_file import Header

AT_ONCE = 1 << 18
"""Numbers looked at together: what the first look read, the second finds in the cache."""


class _Bits(NamedTuple):
    """A dtype's numbers as whole ones, with and without sign, and the bits of infinity; beyond are only NaNs."""

    signed: type[np.signedinteger]
    unsigned: type[np.unsignedinteger]
    infinity: int


BITS = {
    torch.float32: _Bits(np.int32, np.uint32, 0x7F800000),
    torch.float16: _Bits(np.int16, np.uint16, 0x7C00),
    torch.bfloat16: _Bits(np.int16, np.uint16, 0x7F80),
}


def all_finite(header: Header, content: Tensor) -> bool:
    """Whether every number of the file is a finite float32, float16 or bfloat16. False, too, where that is in doubt.

    `content` is the whole file as uint8 [bytes].
    """
    data = content.numpy()
    return all(_finite(data[begin:end], dtype) for dtype, begin, end in _stretches(header))


def _stretches(header: Header) -> Iterator[tuple[torch.dtype, int, int]]:
    """Dtype, begin and end in the file of neighbours of one dtype, together."""
    last: tuple[torch.dtype, int, int] | None = None
    for slot in sorted(header.slots.values(), key=lambda slot: (slot.begin, slot.end)):
        begin, end = header.data_start + slot.begin, header.data_start + slot.end
        if last is not None and last[0] == slot.dtype:
            last = slot.dtype, last[1], end
            continue
        if last is not None:
            yield last
        last = slot.dtype, begin, end
    if last is not None:
        yield last


def _finite(raw: np.ndarray[tuple[int], np.dtype[np.uint8]], dtype: torch.dtype) -> bool:
    bits = BITS.get(dtype)
    if bits is None or raw.ctypes.data % dtype.itemsize:
        return False
    positive, any_sign = raw.view(bits.signed), raw.view(bits.unsigned)
    # seen with a sign the negative numbers are small, seen without one they are the largest
    largest = bits.infinity | 1 << (8 * dtype.itemsize - 1)
    return all(
        positive[at : at + AT_ONCE].max() < bits.infinity and any_sign[at : at + AT_ONCE].max() < largest
        for at in range(0, len(positive), AT_ONCE)
    )
