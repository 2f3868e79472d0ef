"""One picture of the data set: how it is used, and its pixels ready for the VAE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lora_ext.data.buckets import Size
from lora_ext.data.jitter import Tint
from lora_ext.data.picture_file import bad, decode, read_header, to_rgb
from lora_ext.data.words import Words


@dataclass(frozen=True)
class Picture:
    """One picture of the data set and how it is used.

    `name` is its path below the picture folder with forward slashes, safe to print. Sizes are width, height in pixels;
    `size` is after EXIF rotation. It is scaled to `resized`, then `bucket` is cut out at `crop` (left, top).
    `caption` is what is said of it when nothing is left to chance.
    """

    path: Path
    name: str
    caption: str
    repeats: int
    size: Size
    orientation: int
    bucket: Size
    resized: Size
    crop: tuple[int, int]
    regularisation: bool = False
    """Keeps the model as it is (prior preservation) instead of teaching it something."""
    weight: float = 1.0
    """How much its loss counts."""
    flips: bool = False
    """Is also shown mirrored."""
    words: Words | None = None
    """What its caption is made from each time; None when it is always the same."""
    mask: Path | None = None
    """A picture whose white is what is learnt; its own path: its transparency. None: all of it."""
    variations: int = 1
    """In how many views it is shown; see `view`."""
    wander: bool = False
    """Each view cuts out another part."""
    jitter: float = 0.0
    """How much the colours of each view differ."""
    tint: Tint | None = None

    @property
    def folder(self) -> str:
        """Its folder below the picture folder, with forward slashes; empty at the top."""
        return self.name.rpartition("/")[0]

    def view(self, number: int) -> Picture:
        """The picture as it is in one of its variations: what is cut out, which colours. The same on every machine."""
        if self.variations == 1:
            return self
        dice = Random(f"view {number} of {self.name}")
        crop = self.crop
        if self.wander:
            crop = (
                dice.randint(0, self.resized[0] - self.bucket[0]),
                dice.randint(0, self.resized[1] - self.bucket[1]),
            )
        tint = Tint.draw(self.jitter, dice) if self.jitter else None
        return replace(self, crop=crop, tint=tint, variations=1)

    def views(self) -> tuple[Picture, ...]:
        """All of its variations."""
        return tuple(self.view(number) for number in range(self.variations))

    def said(self, dice: Random, epoch: int) -> str:
        """Its caption this time; `epoch` counts from 0."""
        return self.words.said(dice, epoch) if self.words else self.caption

    def time_ids(self, flipped: bool = False) -> tuple[int, int, int, int, int, int]:
        """SDXL's size conditioning (arXiv 2307.01952, 2.2): original h, w; crop top, left; target h, w.

        A flipped picture was flipped before it was cut, so its left edge is what was cut off on the right.
        """
        left, top = self.crop
        if flipped:
            left = self.resized[0] - self.bucket[0] - left
        return self.size[1], self.size[0], top, left, self.bucket[1], self.bucket[0]


def load_picture(picture: Picture) -> Tensor:
    """The picture's part of its bucket as float32 [3, H, W] in -1..1, antialiased (Lanczos).

    Raises `BadInput` naming the file when it is truncated, damaged, gone or no longer what `scan` saw.
    """
    image = _decoded(picture)
    part = _resample(to_rgb(image), picture, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(part, dtype=np.float32).transpose(2, 0, 1).copy()) / 127.5 - 1.0
    return picture.tint.apply(pixels) if picture.tint else pixels


def load_mask(picture: Picture) -> Tensor | None:
    """Where the picture is learnt: float32 [1, H, W] in 0..1 for its part of its bucket; None: everywhere.

    Raises `BadInput` naming the mask file when it is damaged or of another shape than the picture.
    """
    if picture.mask is None:
        return None
    if picture.mask == picture.path:
        grey = _decoded(picture).convert("RGBA").getchannel("A")
    else:
        grey = to_rgb(decode(picture.mask, read_header(picture.mask).orientation)).convert("L")
        if abs(grey.width * picture.size[1] - grey.height * picture.size[0]) > max(grey.size) * 2:
            raise bad(
                picture.mask, "the mask has another shape than its picture", f"{picture.size[0]}x{picture.size[1]}"
            )
    part = _resample(grey, picture, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(part, dtype=np.float32))[None] / 255.0


def _decoded(picture: Picture) -> Image.Image:
    image = decode(picture.path, picture.orientation)
    if image.size != picture.size:
        raise bad(picture.path, "the file changed since it was scanned")
    return image


def _resample(image: Image.Image, picture: Picture, how: Image.Resampling) -> Image.Image:
    """Scale and cut in one go, so that a picture of 20000 x 20 px is never blown up as a whole."""
    (left, top), (bw, bh) = picture.crop, picture.bucket
    sx, sy = image.width / picture.resized[0], image.height / picture.resized[1]
    box = (left * sx, top * sy, min(image.width, (left + bw) * sx), min(image.height, (top + bh) * sy))
    return image.resize(picture.bucket, how, box=box)
