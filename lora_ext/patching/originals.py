"""W0 of the weights that were changed, and only of those: as bit copies, or in the checkpoint's own file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lora_ext.layers import Layer, LayerName
from lora_ext.patching.pool import Pool
from lora_ext.patching.proof import comparable, proven
from lora_ext.patching.stored import Stored, candidate
from lora_ext.patching.weight_file import Identity, MappedFile, WeightFile


class Original(Protocol):
    """W0 of one layer, wherever it is."""

    @property
    def bytes(self) -> int: ...  # memory it takes

    def copy_rows(self, start: int, stop: int, out: Tensor) -> None:
        """Fill `out` [stop − start, …] (any float dtype and device) with W0's rows. Raises `BadInput` if it is lost."""


@dataclass(frozen=True)
class Copied:
    """A copy in memory, the card's or the machine's."""

    tensor: Tensor
    pooled: bool = False
    """Whether the memory goes back to the pool."""

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return self.tensor.numel() * self.tensor.element_size()

    def copy_rows(self, start: int, stop: int, out: Tensor) -> None:
        """See `Original`."""
        # towards the CPU nobody would wait for the end of it
        out.copy_(self.tensor[start:stop], non_blocking=out.device.type != "cpu")


class Originals:
    """W0 by layer, in the weight's own dtype.

    Weights on a card are copied there while it stays half empty. Otherwise, and for weights in main memory, nothing is
    copied where the checkpoint file is proven to hold the same bits: it is read again when they are needed. The last
    resort is a copy in main memory (page-locked for a card's weights); that memory is kept for the next time.
    """

    def __init__(self, file: Callable[[], WeightFile | None]) -> None:
        """`file` is asked for the loaded checkpoint when the first layer is touched."""
        self._find = file
        self._kept: dict[LayerName, Original] = {}
        self._open: MappedFile | None = None
        self._asked = False
        self._refuted: set[LayerName] = set()
        """Layers of which the file was found to hold something else by the last `prove`."""
        self._pool = Pool()
        self.peaks: dict[LayerName, float] = {}
        """What no number of a kept W0 exceeds, where that was found out."""
        self._filed: dict[tuple[LayerName, torch.dtype], float] = {}
        """The same of what the file holds, which stays true of it while nothing is kept."""
        self._filed_in: Identity | None = None

    def __contains__(self, name: LayerName) -> bool:
        return name in self._kept

    def __getitem__(self, name: LayerName) -> Original:
        return self._kept[name]

    def names(self) -> tuple[LayerName, ...]:
        """Layers whose W0 is known."""
        return tuple(self._kept)

    def prove(self, layers: Iterable[tuple[Layer, Tensor]]) -> None:
        """Look these weights up in the file together, where several threads may do so; then `keep` each.

        One thread alone does better in `keep`: what it compared is still in the cache when it is changed.
        """
        self._refuted.clear()
        new = [(layer, weight) for layer, weight in layers if on_cpu(weight) and layer.name not in self._kept]
        file = self._file() if new and torch.get_num_threads() > 1 else None
        if file is None:
            return
        found = [(layer.name, candidate(file, layer, weight), weight) for layer, weight in new]
        plain = [(name, stored, weight) for name, stored, weight in found if stored and comparable(stored, weight)]
        answers = proven([(stored, weight) for _, stored, weight in plain])
        for (name, stored, _), same in zip(plain, answers, strict=True):
            if same:
                self._keep(name, stored)
            else:
                self._refuted.add(name)

    def keep(self, layer: Layer, weight: Tensor) -> Original:
        """Make sure of the W0 that `weight` holds now, unless that is done already."""
        if layer.name not in self._kept:
            self._keep(layer.name, self._kept_now(layer, weight))
        return self._kept[layer.name]

    def put_back(self, name: LayerName, weight: Tensor) -> None:
        """Write W0 into `weight` and forget it. Raises `BadInput` if it is lost."""
        self._kept[name].copy_rows(0, weight.shape[0], weight)
        self.drop(name)

    def drop(self, name: LayerName) -> None:
        """Forget the W0 of a layer that holds it again itself."""
        original, peak = self._kept.pop(name, None), self.peaks.pop(name, None)
        if isinstance(original, Stored) and peak is not None:
            self._filed[name, original.dtype] = peak
        if isinstance(original, Copied) and original.pooled:
            self._pool.give(original.tensor)
        if not self._kept:
            self._close()

    def clear(self) -> None:
        """Forget everything, spare memory included."""
        self._kept.clear()
        self.peaks.clear()
        self._filed.clear()
        self._close()
        self._pool.release()

    def release(self) -> None:
        """Return the spare memory."""
        self._pool.release()

    def check(self) -> None:
        """Raise `BadInput` if the file that holds some of them was written into."""
        if any(isinstance(original, Stored) for original in self._kept.values()) and self._open is not None:
            self._open.check()

    @property
    def bytes(self) -> int:
        """Memory the copies take."""
        return sum(original.bytes for original in self._kept.values())

    @property
    def spare_bytes(self) -> int:
        """Memory kept for the next copies."""
        return self._pool.bytes

    def _keep(self, name: LayerName, original: Original) -> None:
        self._kept[name] = original
        if isinstance(original, Stored) and (name, original.dtype) in self._filed:
            self.peaks[name] = self._filed[name, original.dtype]

    def _kept_now(self, layer: Layer, weight: Tensor) -> Original:
        if fits_on_device(weight):
            return Copied(weight.clone(memory_format=torch.contiguous_format))
        file = None if layer.name in self._refuted else self._file()
        stored = None if file is None else candidate(file, layer, weight)
        return stored if stored is not None and stored.equals(weight) else self._copied(weight)

    def _copied(self, weight: Tensor) -> Copied:
        locked = page_locked(weight) if on_cuda(weight) else None
        if locked is not None:
            return Copied(locked.copy_(weight))
        return Copied(self._pool.take(weight).copy_(weight), pooled=True)

    def _file(self) -> MappedFile | None:
        if not self._asked:
            self._asked = True
            found = self._find()
            self._open = None if found is None else _opened(found)
            if self._open is not None and self._open.identity != self._filed_in:
                self._filed, self._filed_in = {}, self._open.identity
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open, self._asked = None, False


def _opened(file: WeightFile) -> MappedFile | None:
    try:
        opened = MappedFile(file)
    except (OSError, ValueError):  # ValueError: nothing in it to map
        return None
    if opened.intact and opened.settled:
        return opened
    opened.close()
    return None


def fits_on_device(weight: Tensor) -> bool:
    """Whether a copy may stay where the weight is: on a card, unless that would fill more than half of its memory."""
    if on_cpu(weight):
        return False
    if weight.device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(weight.device)
    # what torch has reserved and not handed out is free for us too
    spare = torch.cuda.memory_reserved(weight.device) - torch.cuda.memory_allocated(weight.device)
    return roomy(weight.numel() * weight.element_size(), free + spare, total)


def on_cpu(weight: Tensor) -> bool:
    """Whether main memory holds the weight."""
    return weight.device.type == "cpu"


def on_cuda(weight: Tensor) -> bool:
    """Whether a card that reads page-locked memory by itself holds the weight."""
    return weight.device.type == "cuda"


def roomy(wanted: int, free: int, total: int) -> bool:
    """Whether half of a card's `total` bytes stay free for pictures after `wanted` of the `free` ones are taken."""
    return free - wanted > total // 2


def page_locked(weight: Tensor) -> Tensor | None:
    """Main memory that a card reads by itself, of the weight's shape and dtype; None when the system gives none."""
    try:
        return torch.empty(weight.shape, dtype=weight.dtype, pin_memory=True)
    except RuntimeError:
        return None
