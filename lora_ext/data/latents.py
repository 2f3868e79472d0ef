"""Latents: every picture goes through the VAE once, mirrored too when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.data.picture import Picture, load_picture
from lora_ext.data.scan import Skipped, reason
from lora_ext.errors import BadInput, Problem

Encode = Callable[[Tensor], Tensor]
"""[B, 3, H, W] float32 in -1..1, on the CPU, to scaled latents [B, 4, H/8, W/8]."""


@dataclass(frozen=True)
class _Entry:
    plain: Tensor
    mirrored: Tensor | None


class LatentCache:
    """Latents by picture, on the CPU, in the dtype the VAE's side gave them."""

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []
        """Pictures whose pixels could not be read; give them to `DataReport.without` before making batches."""
        self._entries: dict[Path, _Entry] = {}

    def build(self, pictures: Sequence[Picture], encode: Encode, flip: bool, chunk: int = 1) -> Iterator[int]:
        """Fill the cache; yields how many pictures are done (skipped ones count) after each `chunk` of one bucket.

        Look at `skipped` afterwards: damaged pixels only show here. Raises `BadInput` when the VAE gives values that
        are not finite.
        """
        done = 0
        for group in _chunks(pictures, chunk):
            loaded = [(p, pixels) for p in group if (pixels := self._load(p)) is not None]
            if loaded:
                self._encode([p for p, _ in loaded], torch.stack([pixels for _, pixels in loaded]), encode, flip)
            done += len(group)
            yield done

    def __len__(self) -> int:
        return len(self._entries)

    def latents(self, picture: Picture, flipped: bool = False) -> Tensor:
        """Scaled latents [4, h, w] of one picture. Raises `KeyError` for what was never cached."""
        entry = self._entries[picture.path]
        if not flipped:
            return entry.plain
        if entry.mirrored is None:
            raise KeyError(f"{picture.name} was cached without its mirror image")
        return entry.mirrored

    def batch(self, samples: Sequence[tuple[Picture, bool]]) -> Tensor:
        """Latents [B, 4, h, w] of pictures (flipped or not) of one bucket."""
        return torch.stack([self.latents(picture, flipped) for picture, flipped in samples])

    def _load(self, picture: Picture) -> Tensor | None:
        try:
            return load_picture(picture)
        except BadInput as e:
            self.skipped.append(Skipped(picture.name, reason(e)))
            return None

    def _encode(self, pictures: Sequence[Picture], pixels: Tensor, encode: Encode, flip: bool) -> None:
        plain = _checked(pictures, encode(pixels))
        mirrored: Sequence[Tensor | None] = [None] * len(pictures)
        if flip:  # mirrored pixels, not mirrored latents: the VAE is not symmetric
            mirrored = _checked(pictures, encode(pixels.flip(-1)))
        for picture, one, other in zip(pictures, plain, mirrored, strict=True):
            self._entries[picture.path] = _Entry(one, other)


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
