"""Captions through the text encoders: every different caption once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class TextCache(Generic[T]):
    """Conditioning by caption; what a conditioning is, only the encode callable knows."""

    def __init__(self) -> None:
        self._entries: dict[str, T] = {}

    def build(
        self, captions: Iterable[str], encode: Callable[[list[str]], Sequence[T]], chunk: int = 8
    ) -> Iterator[int]:
        """Encode the captions not yet in the cache, `chunk` at a time; yields how many different ones are in it.

        `encode` gives one conditioning per caption, in order. Raises `ValueError` when it does not.
        """
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._entries]
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            encoded = encode(part)
            if len(encoded) != len(part):
                raise ValueError(f"encode gave {len(encoded)} conditionings for {len(part)} captions")
            self._entries.update(zip(part, encoded, strict=True))
            yield len(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, caption: str) -> T:
        return self._entries[caption]
