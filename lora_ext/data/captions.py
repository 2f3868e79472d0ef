"""Captions: where they are and how their bytes are read. A caption never stops a run; what is odd is told."""

from __future__ import annotations

import codecs
import locale
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = (".txt", ".caption")
"""In order of preference."""


@dataclass(frozen=True)
class Caption:
    """What a caption file says. `encoding` is set when the file is not Unicode and had to be guessed."""

    text: str
    encoding: str = ""
    lines: tuple[str, ...] = ()
    """Those that are not empty; `text` is all of them in one."""


class CaptionFiles:
    """The caption files of one folder, found by the stem of a picture.

    Extensions match in any case; stems match whether accents are composed (Windows, Linux) or not (macOS).
    """

    def __init__(self, files: Iterable[Path], extensions: Sequence[str] = EXTENSIONS) -> None:
        """`extensions`: best first."""
        self._extensions = extensions
        self._files: Mapping[tuple[str, str], Path] = {_key(f.stem, f.suffix): f for f in files}

    def find(self, picture: Path) -> tuple[Path, ...]:
        """The caption files of a picture, best first: `<stem>.txt`, `<stem>.caption`."""
        keys = [_key(picture.stem, extension) for extension in self._extensions]
        return tuple(self._files[key] for key in keys if key in self._files)


def read_caption(path: Path) -> Caption:
    """Read a caption in whatever encoding it has; lines become one, spaces are tidied. Raises `OSError`."""
    text, encoding = decode_text(path.read_bytes())
    lines = tuple(filter(None, (" ".join(line.split()) for line in text.replace("\0", " ").splitlines())))
    return Caption(" ".join(lines), encoding, lines)


def extensions(text: str) -> tuple[str, ...]:
    """`.txt, caption` -> (".txt", ".caption")."""
    words = (word.strip().lower() for word in text.replace(",", " ").split())
    return tuple(dict.fromkeys("." + word.lstrip(".") for word in words if word.strip(".")))


def _key(stem: str, extension: str) -> tuple[str, str]:
    return unicodedata.normalize("NFC", stem), extension.lower()


def decode_text(data: bytes) -> tuple[str, str]:
    """Text in whatever encoding it has and, when that had to be guessed, which."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), ""
    if b"\0" in data:  # UTF-16 without its mark: the zero halves of Latin letters tell which way round
        encoding = "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
        return data.decode(encoding, errors="replace"), encoding
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return _guess(data)


def _guess(data: bytes) -> tuple[str, str]:
    """The computer's own encoding (Shift-JIS, GBK, …), else that of western Windows."""
    for encoding in (locale.getpreferredencoding(False), "cp1252"):
        try:
            return data.decode(encoding), encoding
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1"), "latin-1"  # knows every byte
