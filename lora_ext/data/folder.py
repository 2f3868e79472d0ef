"""Walking the picture folder: the same files in the same order on every system."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lora_ext.data.picture_file import EXTENSIONS, printable

MOST_REPEATS = 1000
"""A larger number in front of a folder's name is a year or a date, not repeats."""

_LEFT_OUT = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})

_LOOK_LIKE_PICTURES = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg"})

_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Folder:
    """One folder with its files. `repeats` and `concept` come from the nearest `N_concept` name; else None, empty."""

    name: str
    repeats: int | None
    concept: str
    files: tuple[Path, ...]

    def pictures(self) -> tuple[Path, ...]:
        """Files whose extension says that they are pictures we read."""
        return tuple(f for f in self.files if f.suffix.lower() in EXTENSIONS)

    def other_pictures(self) -> tuple[Path, ...]:
        """Files that look like pictures but are of a kind we do not read."""
        return tuple(f for f in self.files if f.suffix.lower() in _LOOK_LIKE_PICTURES)


@dataclass
class Walk:
    """A walk in progress or done; `unreadable` are sub-folders that could not be opened, with the reason."""

    root: Path
    unreadable: dict[str, str] = field(default_factory=dict)
    dates: list[str] = field(default_factory=list)
    """Folders whose number is too large for repeats."""
    _seen: set[str] = field(default_factory=set)

    def folders(self) -> Iterator[Folder]:
        """Every folder from the root down, naturally sorted, each once.

        Raises `OSError` when the root cannot be read.
        """
        yield from self._visit(self.root, None, "")

    def name_of(self, path: Path) -> str:
        """Path below the root with forward slashes, safe to print."""
        return printable(path.relative_to(self.root).as_posix())

    def _visit(self, path: Path, repeats: int | None, concept: str) -> Iterator[Folder]:
        real = os.path.realpath(path)
        if real in self._seen:  # a link that leads back
            return
        self._seen.add(real)
        files, below = _listing(path)
        repeats, concept = self._numbered(path, repeats, concept)
        yield Folder(self.name_of(path).removeprefix("."), repeats, concept, tuple(files))
        for child in below:
            try:
                yield from self._visit(child, repeats, concept)
            except OSError as e:
                self.unreadable[self.name_of(child)] = e.strerror or type(e).__name__

    def _numbered(self, path: Path, repeats: int | None, concept: str) -> tuple[int | None, str]:
        match = _NUMBERED.fullmatch(path.name)
        if not match:
            return repeats, concept
        if int(match[1]) > MOST_REPEATS:
            self.dates.append(printable(path.name))
            return repeats, concept
        return int(match[1]), printable(match[2].strip()) or concept


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key: `2.png` before `10.png`, in any case, the same on every system."""
    parts = re.split(r"(\d+)", unicodedata.normalize("NFC", name).casefold())
    return tuple(int(p) if i % 2 else p for i, p in enumerate(parts)), name


def _listing(path: Path) -> tuple[list[Path], list[Path]]:
    """Files and sub-folders that are not hidden, sorted. Raises `OSError`."""
    with os.scandir(path) as entries:
        visible = [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _LEFT_OUT]
    visible.sort(key=lambda e: natural(e.name))
    folders = {e.name for e in visible if _is_folder(e)}
    files = [Path(e.path) for e in visible if e.name not in folders and _is_file(e)]
    return files, [Path(e.path) for e in visible if e.name in folders]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """The listing itself knows it of everything but links, which may lead nowhere or in a circle."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_file(entry: os.DirEntry[str]) -> bool:
    """True for files, and for links that lead nowhere or in a circle: reading them will tell."""
    return entry.is_symlink() or entry.is_file()
