"""Small pictures: made once, kept in a folder of bounded size, in the right way up."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import threading
from pathlib import Path

from PIL import Image

from lora_ext.data.picture_file import decode, to_rgb

SIDE = 256
"""Pixels of the longer side."""

MOST_BYTES = 128 * 2**20
"""Of the folder; about ten thousand thumbnails."""

AT_ONCE = 2
"""Pictures decoded at the same time: a large one takes hundreds of megabytes."""

_decoding = threading.BoundedSemaphore(AT_ONCE)


class Thumbnails:
    """Thumbnails by picture file, made anew when the file changes. A folder that cannot be used is done without."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            _prune(folder, most_bytes)

    def get(self, path: Path, orientation: int) -> bytes:
        """JPEG of at most `SIDE` x `SIDE`, turned as EXIF says. Raises `BadInput` when the picture is damaged."""
        kept = self._folder / f"{_sign(path, orientation)}.jpg"
        with contextlib.suppress(OSError):
            return kept.read_bytes()
        made = small(path, orientation, SIDE)
        with contextlib.suppress(OSError):
            _write(kept, made)
        return made


def small(path: Path, orientation: int, side: int, quality: int = 82) -> bytes:
    """JPEG whose longer side is at most `side`. Raises `BadInput` when the picture is damaged."""
    with _decoding:
        image = decode(path, orientation, about=(side, side))
        if image.mode in ("RGB", "L"):
            image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        image = to_rgb(image)
        image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return jpeg(image, quality)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """An RGB picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _sign(path: Path, orientation: int) -> str:
    """What tells one state of a file from another."""
    try:
        stat = path.stat()
        state = f"{stat.st_size} {stat.st_mtime_ns}"
    except OSError:
        state = "gone"
    return hashlib.blake2b(os.fsencode(path) + f"\n{state} {orientation} {SIDE}".encode(), digest_size=16).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def _prune(folder: Path, most_bytes: int) -> None:
    """Forget the oldest until three quarters of the room are used."""
    with os.scandir(folder) as entries:
        files = [(e.stat().st_mtime_ns, e.stat().st_size, e.path) for e in entries if e.is_file()]
    total = sum(size for _, size, _ in files)
    if total <= most_bytes:
        return
    for _, size, path in sorted(files):
        if total <= most_bytes * 3 // 4:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size
