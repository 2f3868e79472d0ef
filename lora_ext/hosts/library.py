"""The folders LoRA files live in: names to files, files to networks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, ReadResult
from lora_ext.hosts import network_cache
from lora_ext.hosts.file_hashes import Surveyor, hashes_of
from lora_ext.hosts.file_memory import FileMemory
from lora_ext.hosts.glance import Facts, glance
from lora_ext.hosts.listing import Listed, Listing, Stamp, look
from lora_ext.hosts.name_index import NameIndex
from lora_ext.hosts.network_cache import NetworkCache, file_state
from lora_ext.hosts.prompt import WantedLora
from lora_ext.patching import Strengths

READERS = 8  # headers read at once: a disk answers several as fast as one
PORTION = 64


@dataclass(frozen=True)
class View:
    """The library at one moment. `number` grows with every look that finds the folders otherwise than the last."""

    number: int
    listing: Listing
    index: NameIndex


class Library:
    """LoRA files of some folders and everything below them. Safe from any thread.

    A name is a file's stem (`cat`), its path below its folder without ending (`animals/cat`) or with it, the whole
    path, or the name it calls itself (`ss_output_name`).
    """

    def __init__(
        self,
        folders: Sequence[Path],
        memory: FileMemory | None = None,
        *,
        keep_bytes: Callable[[], int] | None = None,
        busy: Callable[[], bool] = lambda: False,
        hashing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`memory` keeps what is known of files; `keep_bytes` bounds networks kept beside those in use.

        With `hashing`, hashes are found out in a thread of its own whenever the host is not `busy`.
        """
        self.folders = tuple(folders)
        self.memory = memory or FileMemory()
        self.surveyor = Surveyor(self.memory, busy, hashing)
        self._lock = threading.RLock()
        self._looking = threading.Lock()
        self._view: View | None = None
        self._in_use: frozenset[Path] = frozenset()
        self._cache = NetworkCache(keep_bytes or (lambda: network_cache.KEEP_BYTES))

    @property
    def view(self) -> View:
        """The newest look at the folders; the first call looks."""
        if self._view is None:
            with self._looking:
                return self._view or self._look_now()
        return self._view

    def find(self, name: str) -> Path:
        """The file of that name. Raises `BadInput` when there is none, or more than one."""
        index = self.view.index
        found = index.look(name)
        if not found or not all(Path(file.path).is_file() for file in found):
            found = found or index.by_alias(name)
            if not found or any(_changed(file) for file in found):
                index = self._look().index
                found = index.look(name) or index.by_alias(name)
        if not found:
            raise BadInput(index.unknown(name, self.folders))
        if len(found) > 1:
            raise BadInput(index.ambiguous(name, found))
        return Path(found[0].path)

    def knows(self, name: str) -> bool:
        """Whether the listing has this name or alias; asks no disk."""
        index = self.view.index
        return bool(index.look(name) or index.by_alias(name))

    def load(self, name: str, names: NameTable) -> ReadResult:
        """Read a network for a model; kept until the file changes. Raises `BadInput`."""
        with self._lock:
            result = self._cache.read(self.find(name), names)
            self._cache.trim(self._in_use, names)
            return result

    def hash(self, name: str) -> str:
        """The hash hosts know the file by: `sshs_model_hash`, else sha256 of what follows the header (.pt: of all)."""
        return self.hash_of(self.find(name))

    def hash_of(self, path: Path) -> str:
        """The same for a file of the listing; empty when it cannot be read."""
        try:
            size, mtime, _ = file_state(path)
        except BadInput:
            return ""
        known = self.memory.facts(str(path), Stamp(size, mtime))  # asked for with every picture: nothing is opened
        written = (known or glance(str(path))).hash
        found = None if written else hashes_of(path, self.memory)
        return written or (found.data if found else "")

    def known_hash(self, file: Listed) -> str:
        """The same as far as it is known without reading the file whole; else empty."""
        found = self.memory.hashes(file.path, file.stamp)
        return self.facts(file).hash or (found.data if found else "")

    def facts(self, file: Listed) -> Facts:
        """What is known of a listed file."""
        return self.memory.facts(file.path, file.stamp) or Facts()

    def by_hash(self, digits: str) -> list[Listed]:
        """Files whose hash begins with these hex digits (at least 8), as far as hashes are known."""
        wanted = digits.lower()
        return [f for f in self.view.listing.files if len(wanted) >= 8 and self.known_hash(f).startswith(wanted)]

    def resolve(
        self, wanted: Sequence[WantedLora], names: NameTable
    ) -> tuple[dict[Network, Strengths], tuple[Problem, ...]]:
        """What tags come to: a LoRA named twice adds up; what cannot be used is reported and hinders no other."""
        with self._lock:
            problems: list[Problem] = []
            sums = self._sums(wanted, problems)
            networks: dict[Network, Strengths] = {}
            results = self._cache.read_all(list(sums), names)
            for (path, strengths), result in zip(sums.items(), results, strict=True):
                if isinstance(result, BadInput):
                    problems += result.problems
                    continue
                problems += _unmatched(path, result)
                if strengths != Strengths(0.0, 0.0):
                    networks[result.network] = strengths
            self._in_use = frozenset(sums)
            self._cache.trim(self._in_use, names)
            return networks, tuple(problems)

    def refresh(self) -> None:
        """Look at the folders again."""
        self._look()

    def _look(self) -> View:
        with self._looking:
            return self._look_now()

    def _look_now(self) -> View:
        listing = look(self.folders)
        view = self._view
        if view is None or listing != view.listing:
            view = self._view = self._seen(listing)
        self.surveyor.begin((file, self.facts(file)) for file in listing.files)
        return view

    def _seen(self, listing: Listing) -> View:
        """Only files that are new or have changed are opened."""
        known = [(file, self.memory.facts(file.path, file.stamp)) for file in listing.files]
        new = list(_glances([file for file, facts in known if facts is None]))
        self.memory.keep_facts(new)
        facts = {file.path: found for file, found in (*known, *new) if found is not None}
        self.memory.forget_all_but(set(facts))
        number = self._view.number + 1 if self._view else 1
        return View(number, listing, NameIndex(listing.files, facts))

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


def _glances(files: Sequence[Listed]) -> Iterator[tuple[Listed, Facts]]:
    portions = [files[at : at + PORTION] for at in range(0, len(files), PORTION)]
    if len(portions) < 2:
        yield from ((file, glance(file.path)) for file in files)
        return
    with ThreadPoolExecutor(READERS) as pool:
        for portion in pool.map(lambda some: [(file, glance(file.path)) for file in some], portions):
            yield from portion


def _changed(file: Listed) -> bool:
    """Whether the file is another one than was listed, which may call itself otherwise, or gone."""
    try:
        size, mtime, _ = file_state(Path(file.path))
    except BadInput:
        return True
    return file.stamp != (size, mtime)


def _unmatched(path: Path, result: ReadResult) -> list[Problem]:
    if not result.unmatched:
        return []
    shown = ", ".join(result.unmatched[:5]) + (", …" if len(result.unmatched) > 5 else "")
    return [Problem(path.name, f"{len(result.unmatched)} key(s) found no layer and are left out: {shown}")]
