"""Latents: every view of a picture goes through the VAE once, mirrored too when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lora_ext.data.background import ahead
from lora_ext.data.picture import Picture, load_mask, load_picture
from lora_ext.data.report import Skipped, reason
from lora_ext.data.store import Store, content
from lora_ext.errors import BadInput, Problem

Encode = Callable[[Tensor], Tensor]
"""[B, 3, H, W] float32 in -1..1, on the CPU, to scaled latents [B, 4, H/8, W/8]."""

_Entry = dict[str, Tensor]
"""`plain` and perhaps `mirrored` latents [4, h, w], and the `mask` [1, h, w]."""


@dataclass(frozen=True)
class _Read:
    """A picture read in the background: found in the store, or decoded, or neither."""

    picture: Picture
    key: str = ""
    entry: _Entry | None = None
    pixels: Tensor | None = None
    mask: Tensor | None = None
    problem: str = ""


class LatentCache:
    """Latents by view of a picture, on the CPU or on disk, in the dtype the VAE's side gave them."""

    def __init__(self, store: Store | None = None, threads: int = 1) -> None:
        """`store`: kept there instead of in memory. `threads`: pictures decoded at the same time."""
        self.skipped: list[Skipped] = []
        """Pictures whose pixels could not be read; give them to `DataReport.without` before making batches."""
        self._store = store
        self._threads = threads
        self._entries: dict[Picture, _Entry | str] = {}  # a text is the key in the store

    def build(self, pictures: Sequence[Picture], encode: Encode, flip: bool = False, chunk: int = 1) -> Iterator[int]:
        """Fill the cache; yields how many pictures are done (skipped ones count) after each `chunk` of one bucket.

        `pictures`: `DataReport.views()`; they are read in the background, a few ahead. `flip`: mirror all of them, not
        just those that say so. Look at `skipped` afterwards: damaged pixels only show here. Raises `BadInput` when the
        VAE gives values that are not finite.
        """
        groups = list(_chunks(pictures, chunk))
        order = [(picture, flip or picture.flips) for group in groups for picture in group]
        found = ahead(self._read, order, self._threads, room=2 * max(self._threads, chunk))
        done = 0
        try:
            for group in groups:
                self._take([next(found) for _ in group], encode, flip)
                done += len(group)
                yield done
        finally:
            found.close()  # type: ignore[attr-defined]  # a generator

    def __len__(self) -> int:
        return len(self._entries)

    def latents(self, picture: Picture, flipped: bool = False) -> Tensor:
        """Scaled latents [4, h, w] of one view. Raises `KeyError` for what was never cached."""
        entry = self._entry(picture)
        if flipped and "mirrored" not in entry:
            raise KeyError(f"{picture.name} was cached without its mirror image")
        return entry["mirrored" if flipped else "plain"]

    def batch(self, samples: Sequence[tuple[Picture, bool]]) -> Tensor:
        """Latents [B, 4, h, w] of views (flipped or not) of one bucket."""
        return torch.stack([self.latents(picture, flipped) for picture, flipped in samples])

    def masks(self, samples: Sequence[tuple[Picture, bool]]) -> Tensor | None:
        """Where each of these is learnt: [B, 1, h, w] in 0..1 (area averages); None when it is everywhere for all."""
        if all(picture.mask is None for picture, _ in samples):
            return None
        found: list[Tensor] = []
        for picture, flipped in samples:
            entry = self._entry(picture)
            mask = entry.get("mask", torch.ones(1, *entry["plain"].shape[1:]))
            found.append(mask.flip(-1) if flipped else mask)
        return torch.stack(found)

    def _entry(self, picture: Picture) -> _Entry:
        entry = self._entries[_bare(picture)]
        if isinstance(entry, dict):
            return entry
        assert self._store is not None, "keys come only from a store"
        stored = self._store.get(entry)
        if stored is None:
            raise BadInput(Problem("cache_folder", "what was prepared went away during the run", got=picture.name))
        return stored

    def _read(self, wanted: tuple[Picture, bool]) -> _Read:
        """In the background: from the store, else decoded."""
        picture, flip = wanted
        key = ""
        try:
            if self._store:
                key = _key(picture, flip)
                if (entry := self._store.get(key)) is not None and _fits(entry, picture, flip):
                    return _Read(picture, key, entry=entry)
            return _Read(picture, key, pixels=load_picture(picture), mask=load_mask(picture))
        except BadInput as e:
            return _Read(picture, problem=reason(e))
        except OSError as e:
            return _Read(picture, problem=f"the file cannot be read: {e.strerror or type(e).__name__}")

    def _take(self, reads: Sequence[_Read], encode: Encode, flip: bool) -> None:
        for read in reads:
            if read.problem:
                skipped = Skipped(read.picture.name, read.problem)
                self.skipped += [] if skipped in self.skipped else [skipped]
            elif read.entry is not None:
                self._entries[_bare(read.picture)] = read.key
        fresh = [(read, read.pixels) for read in reads if read.pixels is not None]
        for read, entry in zip([read for read, _ in fresh], _encoded(fresh, encode, flip), strict=True):
            stored = bool(self._store and self._store.put(read.key, entry))
            self._entries[_bare(read.picture)] = read.key if stored else entry


def _encoded(reads: Sequence[tuple[_Read, Tensor]], encode: Encode, flip: bool) -> list[_Entry]:
    if not reads:
        return []
    pictures, pixels = [read.picture for read, _ in reads], torch.stack([pixels for _, pixels in reads])
    entries: list[_Entry] = [{"plain": row} for row in _checked(pictures, encode(pixels))]
    turned = [i for i, picture in enumerate(pictures) if flip or picture.flips]
    if turned:  # mirrored pixels, not mirrored latents: the VAE is not symmetric
        rows = _checked([pictures[i] for i in turned], encode(pixels[turned].flip(-1)))
        for i, row in zip(turned, rows, strict=True):
            entries[i]["mirrored"] = row
    for entry, (read, _) in zip(entries, reads, strict=True):
        if read.mask is not None:
            h, w = entry["plain"].shape[-2:]
            entry["mask"] = adaptive_avg_pool2d(read.mask, (h, w))
    return entries


def _bare(picture: Picture) -> Picture:
    """What of a picture its latents depend on, as a key."""
    return Picture(
        path=picture.path,
        name="",
        caption="",
        repeats=0,
        size=picture.size,
        orientation=picture.orientation,
        bucket=picture.bucket,
        resized=picture.resized,
        crop=picture.crop,
        mask=picture.mask,
        tint=picture.tint,
    )


def _key(picture: Picture, flip: bool) -> str:
    """All that an entry depends on but the VAE; files by their contents. Raises `OSError`."""
    mask = "alpha" if picture.mask == picture.path else content(picture.mask) if picture.mask else ""
    how = (picture.orientation, picture.bucket, picture.resized, picture.crop, picture.tint)
    return repr(("latents 1", content(picture.path), mask, how, flip))


def _fits(entry: _Entry, picture: Picture, flip: bool) -> bool:
    """Whether an entry holds what is asked for; its bits were checked by the store."""
    wanted = {"plain"} | ({"mirrored"} if flip else set()) | ({"mask"} if picture.mask else set())
    return entry.keys() == wanted and all(bool(torch.isfinite(t).all()) for t in entry.values())


def _checked(pictures: Sequence[Picture], latents: Tensor) -> list[Tensor]:
    """Latents by picture, on the CPU, each in a storage of its own."""
    if len(latents) != len(pictures):
        raise ValueError(f"encode gave {len(latents)} latents for {len(pictures)} pictures")
    rows = [row.clone() for row in latents.detach().to("cpu")]
    bad = [p.name for p, row in zip(pictures, rows, strict=True) if not bool(torch.isfinite(row).all())]
    if bad:
        fix = "Run the VAE in fp32 or bf16, or use a VAE that is safe in fp16."
        raise BadInput(*(Problem(name, "the VAE gave values that are not finite", fix=fix) for name in bad))
    return rows


def _chunks(pictures: Sequence[Picture], size: int) -> Iterator[list[Picture]]:
    """Up to `size` pictures of one bucket at a time; buckets in order of their first picture."""
    buckets: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        buckets.setdefault(picture.bucket, []).append(picture)
    for group in buckets.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]
