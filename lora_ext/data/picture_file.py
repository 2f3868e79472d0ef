"""A picture file: what its header says, and its pixels as Pillow gives them; whatever is broken is named."""

from __future__ import annotations

import contextlib
import importlib
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from lora_ext.data.buckets import Size
from lora_ext.data.colour_profile import Profile, profile_of, to_srgb
from lora_ext.data.png_chunks import late_exif
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


class _Strict:
    """While anybody is inside, truncated pictures are errors, even when the host told Pillow to fill them with grey."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._before


_STRICT = _Strict()


@dataclass(frozen=True)
class Header:
    """What a picture file says about itself. `size` is after EXIF rotation, `orientation` the EXIF number 1-8."""

    size: Size
    orientation: int
    transparent: bool
    animated: bool
    profile: Profile


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
        raise bad(path, _reason(e)) from e
    if min(header.size) < SMALLEST:
        raise bad(path, f"{header.size[0]}x{header.size[1]} px is too small", f"at least {SMALLEST} px on each side")
    if header.size[0] * header.size[1] > LARGEST:
        raise bad(path, f"{header.size[0]}x{header.size[1]} px is too large", _AT_MOST)
    return header


def decode(path: Path, orientation: int, about: Size | None = None) -> Image.Image:
    """The pixels in sRGB, turned as EXIF says. Raises `BadInput` naming the file when it is truncated or damaged.

    `about`: a size that is enough, which JPEGs are then decoded near to, quickly.
    """
    try:
        with _STRICT, _open(path) as image:
            if about:
                image.draft(None, about)
            profile = profile_of(image)
            image.load()
            return _turn(to_srgb(image, profile), orientation)
    except BROKEN as e:
        raise bad(path, _reason(e)) from e


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparent parts become white, 16-bit greys are scaled down, not clipped."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if not transparent(image):
        return image.convert("RGB")
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def _header(path: Path) -> Header:
    if path.stat().st_size == 0:
        raise OSError("it is empty")
    with _open(path) as image:
        orientation = _orientation(image, path)
        return Header(
            size=image.size if orientation < 5 else (image.height, image.width),
            orientation=orientation,
            transparent=transparent(image),
            # Phones store a preview as second frame of a JPEG (MPO): no animation.
            animated=image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
            profile=profile_of(image),
        )


def _open(path: Path) -> Image.Image:
    Image.init()  # every reader Pillow has, so that what it lacks can be left out below
    return Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN])


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(image: Image.Image, path: Path) -> int:
    """The EXIF orientation, 1 when there is none or EXIF is damaged (the pixels are still good)."""
    try:
        # The base class's: PNG's own would decode all pixels to look for a late chunk.
        exif = Image.Image.getexif(image)
        if image.format == "PNG" and _ORIENTATION not in exif and (late := late_exif(path)):
            exif.load(late)
        value = exif.get(_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if value in _TURNS else 1


def transparent(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greys of 0..65535 (Pillow opens them as I;16 or I, depending on its age) to 8 bits."""
    values = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"the file cannot be read: it has too many pixels ({_AT_MOST})"
    if isinstance(error, UnidentifiedImageError):
        return "the file cannot be read: it is damaged or no picture"
    said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"the file cannot be read: {printable(said)}"


def bad(path: Path, what: str, expected: str = "") -> BadInput:
    """What is wrong with a picture, naming it."""
    return BadInput(Problem(printable(path.name), what, expected, fix="Replace or remove it."))


def printable(text: str) -> str:
    """A file name that every terminal, log and JSON can take: bytes that are no Unicode become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
