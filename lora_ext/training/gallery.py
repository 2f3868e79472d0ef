"""The previews of a run in bounded memory: PNGs, and small ones for a grid."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from lora_ext.training.snapshot import PreviewView

MOST_BYTES = 96 * 2**20  # about two hundred previews of 512 px
MOST_PREVIEWS = 600
SMALL = 256  # px, longer side of a thumbnail


@dataclass(frozen=True)
class Picture:
    """One preview as files: `png` in full size, `small` a JPEG."""

    png: bytes
    small: bytes

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """Compress; takes a while for a large picture."""
        thumb = image.convert("RGB")
        thumb.thumbnail((SMALL, SMALL))
        return cls(_bytes(image, "PNG"), _bytes(thumb, "JPEG"))

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.png) + len(self.small)


class Gallery:
    """Previews by id, from 1. When full, those of every second step go, and from then on only every second one stays,
    beside the newest: what is kept spans the whole run evenly."""

    def __init__(self, most: int = MOST_PREVIEWS, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: dict[int, tuple[PreviewView, Picture]] = {}
        self._turns: dict[int, int] = {}
        """How many-th each kept step is."""
        self._every = 1
        self._steps = 0
        self._last = 0

    def add(self, step: int, prompt: str, picture: Picture) -> PreviewView:
        """Keep one; steps never fall."""
        if step not in self._turns:
            self._sift()
            self._turns[step] = self._steps
            self._steps += 1
        self._last += 1
        seen: PreviewView = {"id": self._last, "step": step, "prompt": prompt}
        self._kept[self._last] = seen, picture
        while self._full() and len(self._turns) > 2:
            self._every *= 2
            self._sift(newest=step)
        while self._full() and len(self._kept) > 1:  # one step with very many pictures
            del self._kept[next(iter(self._kept))]
        return seen

    def list(self) -> list[PreviewView]:
        """All that are kept, in the order they came."""
        return [seen for seen, _ in self._kept.values()]

    def get(self, number: int) -> Picture | None:
        """A preview by its id; None when it is not kept any more."""
        found = self._kept.get(number)
        return found[1] if found else None

    def _full(self) -> bool:
        return len(self._kept) > self._most or sum(p.size for _, p in self._kept.values()) > self._most_bytes

    def _sift(self, newest: int | None = None) -> None:
        going = {step for step, turn in self._turns.items() if turn % self._every and step != newest}
        self._turns = {step: turn for step, turn in self._turns.items() if step not in going}
        self._kept = {n: one for n, one in self._kept.items() if one[0]["step"] not in going}


def _bytes(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()
