"""Captions through the text encoders: every different caption once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from torch import Tensor

from lora_ext.data.store import Store

T = TypeVar("T")


class TextCache(Generic[T]):
    """Conditioning by caption; what a conditioning is, only the callables know."""

    def __init__(
        self,
        store: Store | None = None,
        pack: Callable[[T], Mapping[str, Tensor]] | None = None,
        unpack: Callable[[Mapping[str, Tensor]], T] | None = None,
    ) -> None:
        """`store`: what was encoded is also written there, by `pack`, and read again in later runs, by `unpack`.

        `unpack` may raise `KeyError` for an entry that it cannot read. Raises `ValueError` for a store without both.
        """
        if store is not None and not (pack and unpack):
            raise ValueError("a store needs pack and unpack")
        self._entries: dict[str, T] = {}
        self._store, self._pack, self._unpack = store, pack, unpack

    def build(
        self, captions: Iterable[str], encode: Callable[[list[str]], Sequence[T]], chunk: int = 8
    ) -> Iterator[int]:
        """Encode the captions not yet in the cache, `chunk` at a time; yields how many different ones are in it.

        `encode` gives one conditioning per caption, in order. Raises `ValueError` when it does not.
        """
        missing = [c for c in dict.fromkeys(captions) if c not in self._entries and not self._stored(c)]
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            encoded = encode(part)
            if len(encoded) != len(part):
                raise ValueError(f"encode gave {len(encoded)} conditionings for {len(part)} captions")
            for caption, one in zip(part, encoded, strict=True):
                self._entries[caption] = one
                if self._store and self._pack:
                    self._store.put(_key(caption), self._pack(one))
            yield len(self._entries)

    def keep(self, captions: Iterable[str]) -> None:
        """Forget all others: captions that vary would fill the memory."""
        wanted = set(captions)
        self._entries = {caption: one for caption, one in self._entries.items() if caption in wanted}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, caption: object) -> bool:
        return caption in self._entries

    def __getitem__(self, caption: str) -> T:
        return self._entries[caption]

    def _stored(self, caption: str) -> bool:
        """Take a caption from the store if it is there."""
        tensors = self._store.get(_key(caption)) if self._store else None
        if tensors is None or not self._unpack:
            return False
        try:
            self._entries[caption] = self._unpack(tensors)
        except KeyError:
            return False
        return True


def _key(caption: str) -> str:
    return f"text 1\n{caption}"
