"""One picture: what its header says, and its pixels ready for the VAE."""

from __future__ import annotations

import contextlib
import importlib
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from lora_ext.data.buckets import Size
from lora_ext.errors import BadInput, Problem

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".avif"})

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF", "GIF")
"""What the bytes may be, whatever the extension says; keeps Pillow from starting its riskier readers."""

SMALLEST = 16
"""Pixels; a picture with a shorter side has nothing to learn from."""

LARGEST = 178_956_970
"""Pixels; beyond it a picture would take gigabytes to open. Pillow's own limit, which hosts may have switched off."""

_AT_MOST = f"at most {LARGEST // 1_000_000} megapixels"

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises over broken files."""

_ORIENTATION = 0x0112  # the EXIF tag

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_strict_lock = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What a picture file says about itself. `size` is after EXIF rotation, `orientation` the EXIF number 1-8."""

    size: Size
    orientation: int
    transparent: bool
    animated: bool


@dataclass(frozen=True)
class Picture:
    """One picture of the data set and how it is used.

    `name` is its path below the picture folder with forward slashes, safe to print. Sizes are width, height in pixels;
    `size` is after EXIF rotation. It is scaled to `resized`, then `bucket` is cut out at `crop` (left, top).
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

    @property
    def folder(self) -> str:
        """Its folder below the picture folder, with forward slashes; empty at the top."""
        return self.name.rpartition("/")[0]

    def time_ids(self, flipped: bool = False) -> tuple[int, int, int, int, int, int]:
        """SDXL's size conditioning (arXiv 2307.01952, 2.2): original h, w; crop top, left; target h, w.

        A flipped picture was flipped before it was cut, so its left edge is what was cut off on the right.
        """
        left, top = self.crop
        if flipped:
            left = self.resized[0] - self.bucket[0] - left
        return self.size[1], self.size[0], top, left, self.bucket[1], self.bucket[0]


def readable_extensions() -> frozenset[str]:
    """The extensions of `EXTENSIONS` that this Pillow can open."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_avif")  # a plugin that teaches older Pillows AVIF, by being imported
    return EXTENSIONS & (set(Image.registered_extensions()) | {".jfif"})


def read_header(path: Path) -> Header:
    """Read size, rotation and kind without decoding pixels. Raises `BadInput` naming the file when it is unusable."""
    try:
        header = _header(path)
    except BROKEN as e:
        raise _bad(path, _reason(e)) from e
    if min(header.size) < SMALLEST:
        raise _bad(path, f"{header.size[0]}x{header.size[1]} px is too small", f"at least {SMALLEST} px on each side")
    if header.size[0] * header.size[1] > LARGEST:
        raise _bad(path, f"{header.size[0]}x{header.size[1]} px is too large", _AT_MOST)
    return header


def load_picture(picture: Picture) -> Tensor:
    """The picture's part of its bucket as float32 [3, H, W] in -1..1, antialiased (Lanczos).

    Raises `BadInput` naming the file when it is truncated, damaged, gone or no longer what `scan` saw.
    """
    image = _turn(_decode(picture.path), picture.orientation)
    if image.size != picture.size:
        raise _bad(picture.path, "the file changed since it was scanned")
    pixels = np.asarray(_resample(to_rgb(image), picture), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))) / 127.5 - 1.0


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparent parts become white, 16-bit greys are scaled down, not clipped."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if not _transparent(image):
        return image.convert("RGB")
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def _header(path: Path) -> Header:
    if path.stat().st_size == 0:
        raise OSError("it is empty")
    with _open(path) as image:
        orientation = _orientation(image)
        return Header(
            size=image.size if orientation < 5 else (image.height, image.width),
            orientation=orientation,
            transparent=_transparent(image),
            # Phones store a preview as second frame of a JPEG (MPO): no animation.
            animated=image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
        )


def _open(path: Path) -> Image.Image:
    Image.init()  # every reader Pillow has, so that what it lacks can be left out below
    return Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN])


def _decode(path: Path) -> Image.Image:
    try:
        with _strict(), _open(path) as image:
            image.load()
            return image
    except BROKEN as e:
        raise _bad(path, _reason(e)) from e


def _resample(image: Image.Image, picture: Picture) -> Image.Image:
    """Scale and cut in one go, so that a picture of 20000 x 20 px is never blown up as a whole."""
    (left, top), (bw, bh) = picture.crop, picture.bucket
    sx, sy = image.width / picture.resized[0], image.height / picture.resized[1]
    box = (left * sx, top * sy, min(image.width, (left + bw) * sx), min(image.height, (top + bh) * sy))
    return image.resize(picture.bucket, Image.Resampling.LANCZOS, box=box)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 when there is none or EXIF is damaged (the pixels are still good)."""
    try:
        # The base class's: PNG's own would decode all pixels to look for a late chunk.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if value in _TURNS else 1


def _transparent(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greys of 0..65535 (Pillow opens them as I;16 or I, depending on its age) to 8 bits."""
    values = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8))


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Truncated pictures are errors, even when somebody in the host told Pillow to fill them with grey."""
    with _strict_lock:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"the file cannot be read: it has too many pixels ({_AT_MOST})"
    if isinstance(error, UnidentifiedImageError):
        return "the file cannot be read: it is damaged or no picture"
    said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"the file cannot be read: {printable(said)}"


def _bad(path: Path, what: str, expected: str = "") -> BadInput:
    return BadInput(Problem(printable(path.name), what, expected, fix="Replace or remove it."))


def printable(text: str) -> str:
    """A file name that every terminal, log and JSON can take: bytes that are no Unicode become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
