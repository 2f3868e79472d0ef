"""What lies in the LoRA folders: files, their previews and notes, sub-folders. No file is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from lora_ext.errors import Problem

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")
BESIDE = (".json", ".txt", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")
"""Endings of what may stand beside a LoRA file: notes, descriptions, previews."""


class Stamp(NamedTuple):
    """What tells a file from another one of the same name: size in bytes, time of the last change in ns."""

    size: int
    mtime_ns: int


class Listed(NamedTuple):
    """One LoRA file: its whole path, the LoRA folder it was found in, and its path below that, with `/`."""

    path: str
    folder: str
    inside: str
    stamp: Stamp
    created: float
    """Seconds since 1970, as the system tells it."""

    @property
    def stem(self) -> str:
        """Path below the folder, without the ending."""
        return self.inside[: self.inside.rindex(".")]


@dataclass(frozen=True)
class Listing:
    """A look at the folders, files sorted by path. `beside`: folder -> name -> stamp of notes and pictures there.

    `subfolders`: LoRA folder -> paths below it, with `/`, sorted. `problems`: folders that could not be read.
    """

    files: tuple[Listed, ...]
    beside: Mapping[str, Mapping[str, Stamp]]
    subfolders: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...]


def look(folders: Sequence[Path]) -> Listing:
    """List the folders and everything below. Links are followed, but no folder is entered twice; never raises."""
    walk = _Walk()
    for folder in folders:
        walk.all_below(str(folder))
    return Listing(tuple(walk.files), walk.beside, walk.subfolders, tuple(walk.problems))


class _Walk:
    def __init__(self) -> None:
        self.files: list[Listed] = []
        self.beside: dict[str, dict[str, Stamp]] = {}
        self.subfolders: dict[str, tuple[str, ...]] = {}
        self.problems: list[Problem] = []
        self._entered: set[tuple[int, int] | str] = set()

    def all_below(self, root: str) -> None:
        """Real folders first: what also a link leads to is known by the path it really has."""
        first, found = len(self.files), [""]
        linked = self._below(root, "", found)
        while linked:
            linked += self._below(root, linked.pop(0), found)
        self.files[first:] = sorted(self.files[first:])
        if len(found) > 1:
            self.subfolders[root] = tuple(sorted(found[1:]))

    def _below(self, root: str, inside: str, found: list[str]) -> list[str]:
        """Enter a folder and the real ones below it; the links among them are left for later and returned."""
        linked: list[str] = []
        waiting = [inside]
        while waiting:
            here = waiting.pop()
            place = os.path.join(root, *here.split("/")) if here else root
            if not self._new(place):
                continue
            if here:
                found.append(here)
            for entry in self._entries(place):
                name = f"{here}/{entry.name}" if here else entry.name
                try:
                    if entry.is_dir():
                        (linked if entry.is_symlink() else waiting).append(name)
                    else:
                        self._take(entry, root, place, name)
                except OSError:
                    continue  # gone meanwhile, or a link to nowhere
        return linked

    def _take(self, entry: os.DirEntry[str], root: str, place: str, inside: str) -> None:
        lower = entry.name.lower()
        if lower.startswith("."):
            return
        if lower.endswith(SUFFIXES):
            stat = entry.stat()
            if not S_ISREG(stat.st_mode):
                return  # a pipe would be waited for
            stamp = Stamp(stat.st_size, stat.st_mtime_ns)
            self.files.append(Listed(entry.path, root, inside, stamp, stat.st_ctime))
        elif lower.endswith(BESIDE):
            stat = entry.stat()
            self.beside.setdefault(place, {})[entry.name] = Stamp(stat.st_size, stat.st_mtime_ns)

    def _new(self, place: str) -> bool:
        try:
            stat = os.stat(place)
        except OSError:
            return False
        # some file systems number nothing
        key = (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(place)
        if key in self._entered:
            return False
        self._entered.add(key)
        return True

    def _entries(self, place: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(place) as entries:
                return list(entries)
        except OSError as e:
            self.problems.append(Problem(place, "the folder cannot be read", got=e.strerror or str(e)))
            return []
