"""PNG files, chunk by chunk: what stands after the pixels is found without decoding them."""

from __future__ import annotations

import struct
from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_LONGEST = 1 << 20
"""Bytes; EXIF data beyond it is not for turning a picture."""


def late_exif(path: Path) -> bytes:
    """The contents of the eXIf chunk, wherever it stands (PNG 3rd edition, 11.3.4.5); empty when there is none.

    Pillow looks behind the pixels only after decoding them. Raises `OSError`, and `struct.error` for a file cut off.
    """
    with path.open("rb") as file:
        if file.read(8) != _SIGNATURE:
            return b""
        while head := file.read(8):
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf" and length <= _LONGEST:
                return file.read(length)
            if kind == b"IEND":
                break
            file.seek(length + 4, 1)  # and its checksum
    return b""
