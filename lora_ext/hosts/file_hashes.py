"""Hashes of whole files, and the thread that finds them out while nobody waits."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from lora_ext.errors import BadInput
from lora_ext.hosts.file_memory import FileMemory, Hashes
from lora_ext.hosts.glance import Facts, survey
from lora_ext.hosts.listing import Listed, Stamp
from lora_ext.hosts.network_cache import file_state

BLOCK = 1 << 22
PATIENCE = 1.0  # seconds between two looks whether the host is still busy


def compute(path: Path, stop: Callable[[], bool] = lambda: False) -> Hashes | None:
    """Both hashes in one reading; None when stopped, or when the file cannot be read."""
    whole, data = hashlib.sha256(), hashlib.sha256()
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".safetensors":
                start = file.read(8)
                size = int.from_bytes(start, "little")
                if size <= path.stat().st_size:
                    whole.update(start + file.read(size))
            for block in iter(lambda: file.read(BLOCK), b""):
                whole.update(block)
                data.update(block)
                if stop():
                    return None
    except OSError:
        return None
    return Hashes(whole.hexdigest(), data.hexdigest())


def hashes_of(path: Path, memory: FileMemory) -> Hashes | None:
    """The file's hashes, from memory or computed now and remembered."""
    try:
        size, mtime, _ = file_state(path)
    except BadInput:
        return None
    stamp = Stamp(size, mtime)
    known = memory.hashes(str(path), stamp)
    if known is None:
        known = compute(path)
        if known is not None:
            memory.keep_hashes(str(path), stamp, known)
    return known


class Surveyor:
    """Finds out, one file after the other in one thread, what a listing leaves open: families and hashes."""

    def __init__(self, memory: FileMemory, busy: Callable[[], bool], hashing: Callable[[], bool]) -> None:
        """While `busy` nothing is read; without `hashing` no file is read whole."""
        self._memory = memory
        self._busy = busy
        self._hashing = hashing
        self._lock = threading.Lock()
        self._files: list[tuple[Listed, Facts]] = []
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def begin(self, files: Iterable[tuple[Listed, Facts]]) -> None:
        """See to these files from now on, in place of those of an earlier call."""
        hashing = self._hashing()
        with self._lock:
            self._files = [(file, facts) for file, facts in files if self._is_open(file, facts, hashing)]
            if self._files and self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._work, name="lora-ext survey", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """Stop for good; what was found out is kept."""
        self._over.set()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing is left to do; whether that came to pass."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def _is_open(self, file: Listed, facts: Facts, hashing: bool) -> bool:
        return not facts.complete or (hashing and self._needs_hash(file, facts))

    def _needs_hash(self, file: Listed, facts: Facts) -> bool:
        return not facts.hash and not facts.damage and self._memory.hashes(file.path, file.stamp) is None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._files or self._over.is_set():
                    self._thread = None
                    return
                file, facts = self._files.pop(0)
            while self._busy() and not self._over.wait(PATIENCE):
                pass
            if not facts.complete:
                facts = survey(file.path)
                self._memory.keep_facts([(file, facts)])
            if self._hashing() and self._needs_hash(file, facts):
                found = compute(Path(file.path), self._over.is_set)
                if found is not None:
                    self._memory.keep_hashes(file.path, file.stamp, found)
