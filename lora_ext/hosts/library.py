"""The folders LoRA files live in: names to files, files to networks."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, ReadResult, read_info, read_network
from lora_ext.hosts.prompt import WantedLora
from lora_ext.patching import Strengths

SUFFIXES = (".safetensors", ".pt", ".ckpt")
KEEP_BYTES = 2 << 30
"""Memory for networks that no prompt asks for now, so that switching a tag on and off does not read its file again."""

Stamp = tuple[int, int]  # size, mtime_ns


@dataclass(frozen=True)
class _Loaded:
    stamp: Stamp
    result: ReadResult
    bytes: int


class Library:
    """LoRA files of some folders and everything below them. Safe from any thread.

    A name is a file's stem (`cat`), its path below its folder without suffix (`animals/cat`) or with it, the whole
    path, or the name it calls itself (`ss_output_name`). All are only looked up in the listing: `../` leads nowhere.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._lock = threading.RLock()
        self._names: dict[str, list[Path]] | None = None
        self._aliases: dict[Path, tuple[Stamp, str]] = {}
        self._hashes: dict[Path, tuple[Stamp, str]] = {}
        self._table: NameTable | None = None
        self._loaded: OrderedDict[Path, _Loaded] = OrderedDict()

    def find(self, name: str) -> Path:
        """The file of that name. Raises `BadInput` when there is none, or more than one."""
        with self._lock:
            found = self._look(name)
            if not found or not all(path.is_file() for path in found):
                self.refresh()
                found = self._look(name) or self._by_alias(name)
            if not found:
                raise BadInput(self._unknown(name))
            if len(found) > 1:
                raise BadInput(self._ambiguous(name, found))
            return found[0]

    def knows(self, name: str) -> bool:
        """Whether the listing has this name; asks no disk and knows no aliases."""
        with self._lock:
            return bool(self._look(name))

    def load(self, name: str, names: NameTable) -> ReadResult:
        """Read a network for a model; kept until the file changes. Raises `BadInput`."""
        with self._lock:
            return self._read(self.find(name), names)

    def hash(self, name: str) -> str:
        """The hash hosts know the file by: `sshs_model_hash`, else sha256 of what follows the header (.pt: of all)."""
        with self._lock:
            path = self.find(name)
            stamp = _stamp(path)
            known = self._hashes.get(path)
            if known is None or known[0] != stamp:
                known = self._hashes[path] = stamp, _hash(path)
            return known[1]

    def resolve(
        self, wanted: Sequence[WantedLora], names: NameTable
    ) -> tuple[dict[Network, Strengths], tuple[Problem, ...]]:
        """What tags come to: a LoRA named twice adds up; what cannot be used is reported and hinders no other."""
        with self._lock:
            problems: list[Problem] = []
            sums = self._sums(wanted, problems)
            networks: dict[Network, Strengths] = {}
            for path, strengths in sums.items():
                try:
                    result = self._read(path, names)
                except BadInput as e:
                    problems += e.problems
                    continue
                problems += _unmatched(path, result)
                if strengths != Strengths(0.0, 0.0):
                    networks[result.network] = strengths
            self._trim({path for path in sums})
            return networks, tuple(problems)

    def refresh(self) -> None:
        """Look at the folders again."""
        with self._lock:
            self._names = {}
            for folder in self.folders:
                for path in _files(folder):
                    for name in _names_of(path, folder):
                        self._names.setdefault(_normal(name), []).append(path)

    def _look(self, name: str) -> list[Path]:
        if self._names is None:
            self.refresh()
        assert self._names is not None
        wanted = _normal(name.replace("\\", "/"))
        # a path, `cat` of the top folder too, is more exact than a stem that may be anywhere
        return self._names.get(wanted) or self._names.get(f"*/{wanted}") or []

    def _by_alias(self, name: str) -> list[Path]:
        paths = {path for found in (self._names or {}).values() for path in found}
        return sorted(path for path in paths if name and _normal(self._alias(path)) == _normal(name))

    def _alias(self, path: Path) -> str:
        """What a file calls itself, from its header; empty when it does not say or cannot be read."""
        if path.suffix.lower() != ".safetensors":
            return ""
        try:
            stamp = _stamp(path)
            known = self._aliases.get(path)
            if known is None or known[0] != stamp:
                known = stamp, read_info(path).metadata.get("ss_output_name", "")
                self._aliases[path] = known
        except BadInput:
            return ""  # reported when a prompt asks for the file by its own name
        return known[1]

    def _sums(self, wanted: Sequence[WantedLora], problems: list[Problem]) -> dict[Path, Strengths]:
        sums: dict[Path, Strengths] = {}
        for one in wanted:
            try:
                path = self.find(one.name)
            except BadInput as e:
                problems += e.problems
                continue
            if one.unread:
                problems.append(Problem(one.name, f"parameters not understood and left out: {', '.join(one.unread)}"))
            before = sums.get(path, Strengths(0.0, 0.0))
            sums[path] = Strengths(before.unet + one.strengths.unet, before.text + one.strengths.text)
        return sums

    def _read(self, path: Path, names: NameTable) -> ReadResult:
        if self._table is not names:  # another model: its layers may have other shapes
            self._loaded.clear()
            self._table = names
        stamp = _stamp(path)
        known = self._loaded.get(path)
        if known is None or known.stamp != stamp:
            result = read_network(path, names, path.stem)
            size = sum(p.numel() * p.element_size() for p in result.network.parameters())
            known = self._loaded[path] = _Loaded(stamp, result, size)
        self._loaded.move_to_end(path)
        return known.result

    def _trim(self, in_use: set[Path]) -> None:
        spare = [path for path in self._loaded if path not in in_use]
        total = sum(self._loaded[path].bytes for path in spare)
        for path in spare:  # longest unused first
            if total <= KEEP_BYTES:
                break
            total -= self._loaded.pop(path).bytes

    def _unknown(self, name: str) -> Problem:
        if not self.folders:
            return Problem(name, "there is no LoRA of this name, as no LoRA folder is known")
        stems = (key.removeprefix("*/") for key in self._names or {} if key.startswith("*/"))
        known = {stem.casefold(): stem for stem in stems}
        near = difflib.get_close_matches(_normal(name).casefold(), known, n=1)
        places = ", ".join(str(folder.absolute()) for folder in self.folders)
        fix = f"Did you mean {known[near[0]]}?" if near else f"Looked in {places}."
        return Problem(name, "there is no LoRA of this name", fix=fix)

    def _ambiguous(self, name: str, found: Sequence[Path]) -> Problem:
        ways = ", ".join(sorted(self._shortest(path) for path in found))
        return Problem(name, "more than one LoRA has this name", fix=f"Write one of: {ways}.")

    def _shortest(self, path: Path) -> str:
        """The shortest name that means this file alone; with two folders that hold the same path, the path itself."""
        folder = next(f for f in self.folders if path.is_relative_to(f))
        relative = path.relative_to(folder)
        for name in (relative.with_suffix("").as_posix(), relative.as_posix()):
            if self._look(name) == [path]:
                return name
        return path.as_posix()


def _names_of(path: Path, folder: Path) -> set[str]:
    relative = path.relative_to(folder)
    return {relative.as_posix(), relative.with_suffix("").as_posix(), path.as_posix(), f"*/{path.stem}"}


def _files(folder: Path) -> Iterator[Path]:
    """LoRA files below a folder, sorted; links are followed, but no folder is entered twice."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place, name)


def _normal(name: str) -> str:
    """One spelling of accents: macOS writes them apart, keyboards together."""
    return unicodedata.normalize("NFC", name)


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError as e:
        raise BadInput(Problem(path.name, f"the file cannot be read: {e.strerror or e}", got=str(path))) from e
    return stat.st_size, stat.st_mtime_ns


def _hash(path: Path) -> str:
    safe = path.suffix.lower() == ".safetensors"
    if safe:
        written = read_info(path).model_hash
        if re.fullmatch("[0-9a-fA-F]{12,64}", written):
            return written
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if safe:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()


def _unmatched(path: Path, result: ReadResult) -> list[Problem]:
    if not result.unmatched:
        return []
    shown = ", ".join(result.unmatched[:5]) + (", …" if len(result.unmatched) > 5 else "")
    return [Problem(path.name, f"{len(result.unmatched)} key(s) found no layer and are left out: {shown}")]
