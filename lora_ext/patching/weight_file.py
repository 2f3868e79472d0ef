"""The checkpoint file as the place to read W0 from again."""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem

SETTLED = 2.0
"""Seconds a file must have been left alone: clocks of file systems are coarse, a second write may show no new time."""


class Identity(NamedTuple):
    """What tells that a file is the same, unchanged one."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int


class Slot(NamedTuple):
    """One tensor's place in the file: contiguous and little-endian, from byte `begin` of the file on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class WeightFile:
    """A checkpoint whose tensors lie open in one file. `identity` is that of the file the slots were read from."""

    path: Path
    identity: Identity
    slots: Mapping[str, Slot]


class MappedFile:
    """An open `WeightFile`, mapped: its pages are the system's cache of the file, not memory of ours.

    Kept open it stays readable when it is deleted or another one is put in its place; only someone who writes into it
    can spoil it, which `intact` tells. Ask before each use: who touches what was cut off the file is killed.
    """

    def __init__(self, file: WeightFile) -> None:
        """Raises `OSError` or `ValueError`. `intact` is False at once when it is not the file of the slots."""
        self.path, self.slots, self.identity = file.path, file.slots, file.identity
        self._file = FileIO(file.path)
        try:
            # a private mapping may be handed to torch as writable; nothing here writes to it
            self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        except BaseException:
            self._file.close()
            raise

    @property
    def intact(self) -> bool:
        """Whether nobody has written into it."""
        try:
            return identity_of(os.fstat(self._file.fileno())) == self.identity
        except OSError:
            return False

    @property
    def settled(self) -> bool:
        """Whether its last change is long enough ago for a further one to show."""
        return time.time() - self.identity.mtime_ns / 1e9 > SETTLED

    def tensor(self, key: str) -> Tensor | None:
        """The tensor's bytes where they lie in the file, or None if it has none that can be used there."""
        slot = self.slots.get(key)
        count = math.prod(slot.shape) if slot else 0
        if slot is None or not count or slot.begin % slot.dtype.itemsize:
            return None
        if slot.begin + count * slot.dtype.itemsize > len(self._bytes):
            return None
        return torch.frombuffer(self._bytes, dtype=slot.dtype, count=count, offset=slot.begin).view(slot.shape)

    def check(self) -> None:
        """Raise `BadInput` unless `intact`."""
        if not self.intact:
            what = "the checkpoint file was written to while LoRAs were on, so they cannot be taken out of the weights"
            raise BadInput(Problem(os.fspath(self.path), what, "the file as it was", fix="Load the checkpoint again."))

    def close(self) -> None:
        """Let go of the file. The mapping goes with the last tensor over it."""
        self._file.close()


def identity_of(found: os.stat_result) -> Identity:
    """The identity of a file that `os.stat` or `os.fstat` looked at."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
