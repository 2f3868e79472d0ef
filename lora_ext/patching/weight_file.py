"""The checkpoint file as the place to read W0 from again."""

from __future__ import annotations

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

READ_AT_ONCE = 1 << 20
"""Bytes read at a time where they are converted or compared: what a core's own cache holds."""


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


class OpenFile:
    """An open `WeightFile`.

    Kept open it stays readable when it is deleted or another one is put in its place; only someone who writes into it
    can spoil it, which `intact` tells.
    """

    def __init__(self, file: WeightFile) -> None:
        """Raises `OSError`. `intact` is False at once when it is not the file the slots were read from."""
        self.path, self.slots = file.path, file.slots
        self._identity = file.identity
        self._file = FileIO(file.path)
        self._scratch = torch.empty(READ_AT_ONCE, dtype=torch.uint8)

    @property
    def intact(self) -> bool:
        """Whether nobody has written into it."""
        try:
            return identity_of(os.fstat(self._file.fileno())) == self._identity
        except OSError:
            return False

    @property
    def settled(self) -> bool:
        """Whether its last change is long enough ago for a further one to show."""
        return time.time() - self._identity.mtime_ns / 1e9 > SETTLED

    def read_into(self, begin: int, out: Tensor) -> None:
        """Fill `out` (contiguous, on the CPU) with the bytes from `begin` on. Raises `BadInput` if they are gone."""
        target = out.detach().reshape(-1).view(torch.uint8).numpy().data
        try:
            self._file.seek(begin)
            while target:
                count = self._file.readinto(target)
                if not count:
                    raise self.lost("it ends too early")
                target = target[count:]
        except OSError as e:
            raise self.lost(str(e)[:200]) from None

    def scratch(self, bytes_: int) -> Tensor:
        """uint8 [bytes_], overwritten by the next caller."""
        if self._scratch.numel() < bytes_:
            self._scratch = torch.empty(bytes_, dtype=torch.uint8)
        return self._scratch[:bytes_]

    def lost(self, why: str) -> BadInput:
        """What to say when weights cannot be put back."""
        what = "the checkpoint file was changed or cannot be read while LoRAs were on, so they cannot be taken out"
        return BadInput(Problem(os.fspath(self.path), what, "the file as it was", why, "Load the checkpoint again."))

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def identity_of(found: os.stat_result) -> Identity:
    """The identity of a file that `os.stat` or `os.fstat` looked at."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
