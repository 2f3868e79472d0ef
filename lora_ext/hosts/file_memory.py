"""What was once found out about files, kept on disk by path, size and time of change, so that no start finds it again.

A memory that cannot be read or written is no error: then everything is found out anew.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lora_ext.hosts.glance import Facts
from lora_ext.hosts.listing import Listed, Stamp

VERSION = 1
"""Raise it when `Facts` are found out in another way: then what older versions kept is thrown away."""

COLUMNS = "path BLOB PRIMARY KEY, size INT, mtime_ns INT, facts TEXT, file TEXT, data TEXT"

log = logging.getLogger("lora_ext")


@dataclass(frozen=True)
class Hashes:
    """sha256 in hex. `file`: of the whole file (Civitai's SHA256, AutoV2 is its first 10 digits); `data`: of what
    follows a .safetensors header (AutoV3 and A1111's hash are its first 12 digits), of a .pt the same as `file`."""

    file: str
    data: str


@dataclass
class _Row:
    stamp: Stamp
    facts: Facts | None = None
    hashes: Hashes | None = None


class FileMemory:
    """Facts and hashes by file. Safe from any thread; without a place it forgets at the end of the process."""

    def __init__(self, place: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._place = place
        self.changes = 0
        """Grows with everything that is kept."""
        if place is not None:
            self._read()

    def facts(self, path: str, stamp: Stamp) -> Facts | None:
        """Facts of the file as it is now, if they were kept."""
        row = self._rows.get(path)
        return row.facts if row is not None and row.stamp == stamp else None

    def hashes(self, path: str, stamp: Stamp) -> Hashes | None:
        """Hashes of the file as it is now, if they were kept."""
        row = self._rows.get(path)
        return row.hashes if row is not None and row.stamp == stamp else None

    def keep_facts(self, found: Iterable[tuple[Listed, Facts]]) -> None:
        """Remember facts."""
        with self._lock:
            changed = []
            for file, facts in found:
                self._row(file.path, file.stamp).facts = facts
                changed.append(file.path)
            self._write(changed)

    def keep_hashes(self, path: str, stamp: Stamp, hashes: Hashes) -> None:
        """Remember hashes."""
        with self._lock:
            self._row(path, stamp).hashes = hashes
            self._write([path])

    def forget_all_but(self, paths: set[str]) -> None:
        """Drop files that are gone, once they outnumber those that are there."""
        with self._lock:
            gone = [path for path in self._rows if path not in paths]
            if len(gone) > len(paths) + 1000:
                for path in gone:
                    del self._rows[path]
                self._do("DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in gone])

    def _row(self, path: str, stamp: Stamp) -> _Row:
        row = self._rows.get(path)
        if row is None or row.stamp != stamp:
            row = self._rows[path] = _Row(stamp)
        return row

    def _read(self) -> None:
        try:
            with closing(self._open()) as base:
                for path, size, mtime, facts, file, data in base.execute("SELECT * FROM files"):
                    row = _Row(Stamp(size, mtime), _facts(facts), Hashes(file, data) if data else None)
                    self._rows[os.fsdecode(path)] = row
        except (sqlite3.Error, OSError, ValueError, TypeError) as e:
            self._rows.clear()
            self._give_up(e)

    def _write(self, paths: Sequence[str]) -> None:
        self.changes += bool(paths)
        self._do("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", [self._values(path) for path in paths])

    def _values(self, path: str) -> tuple[object, ...]:
        row = self._rows[path]
        facts = json.dumps(vars(row.facts)) if row.facts else None
        file, data = (row.hashes.file, row.hashes.data) if row.hashes else (None, None)
        return os.fsencode(path), row.stamp.size, row.stamp.mtime_ns, facts, file, data

    def _do(self, command: str, values: Sequence[tuple[object, ...]]) -> None:
        if self._place is None or not values:
            return
        try:
            with closing(self._open()) as base, base:
                base.executemany(command, values)
        except (sqlite3.Error, OSError) as e:
            self._give_up(e)

    def _open(self) -> sqlite3.Connection:
        assert self._place is not None
        self._place.parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(self._place, timeout=5)
        try:
            if base.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                base.execute("DROP TABLE IF EXISTS files")
                base.execute(f"CREATE TABLE files ({COLUMNS})")
                base.execute(f"PRAGMA user_version = {VERSION}")
                base.commit()
        except BaseException:
            base.close()
            raise
        return base

    def _give_up(self, why: Exception) -> None:
        """A damaged memory is begun anew at the next start; one that is only busy or read-only stays."""
        place, self._place = self._place, None
        log.warning("What is known of LoRA files cannot be kept in %s: %s", place, why)
        if place is not None and isinstance(why, sqlite3.DatabaseError) and "not a database" in str(why):
            try:
                place.unlink()
            except OSError:
                return
            self._place = place


def _facts(text: str | None) -> Facts | None:
    if text is None:
        return None
    known = json.loads(text)
    return Facts(**{**known, "tags": tuple(known["tags"])})
