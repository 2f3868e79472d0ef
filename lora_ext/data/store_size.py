"""A cache folder does not grow for ever: what was not used for longest goes first."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ENTRY, UNFINISHED = ".safetensors", ".part"
HOUR, DAY = 3600.0, 24 * 3600.0


class _Found(NamedTuple):
    used: float
    size: int
    path: str


def touch(path: Path) -> None:
    """Note that an entry was used; once an hour is enough."""
    with contextlib.suppress(OSError):  # it may be gone, or the folder be read-only
        if time.time() - path.stat().st_mtime > HOUR:
            os.utime(path)


def prune(folder: Path, limit: float) -> int:
    """Delete entries until the folder holds at most `limit` bytes (0: no limit); gives the bytes that became free.

    Entries used within a day stay, so that no other run loses what it works with, nor this one. Files that a killed
    run left unfinished go after a day. Several processes may do this at the same time.
    """
    now = time.time()
    freed = sum(_delete(f) for f in _files(folder, UNFINISHED) if now - f.used > DAY)
    entries = sorted(_files(folder, ENTRY))
    total = sum(f.size for f in entries)
    for entry in entries:
        if not limit or total <= limit or now - entry.used <= DAY:
            break
        total -= entry.size
        freed += _delete(entry)
    return freed


def _files(folder: Path, suffix: str) -> Iterator[_Found]:
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for file in found:
            with contextlib.suppress(OSError):
                if file.name.endswith(suffix):
                    facts = file.stat()
                    yield _Found(facts.st_mtime, facts.st_size, file.path)


def _delete(file: _Found) -> int:
    try:
        os.unlink(file.path)
    except OSError:  # another process was faster, or has it open
        return 0
    return file.size
