"""Networks that were read, kept while there is room, so that switching a tag on and off reads no file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, ReadResult, read_networks

KEEP_BYTES = 512 << 20
"""Memory for networks that no prompt asks for now, unless a host has a setting for it."""

Key = tuple[Path, NameTable]
FileState = tuple[int, int, int]


@dataclass(frozen=True)
class _Kept:
    state: FileState
    result: ReadResult
    bytes: int


class NetworkCache:
    """Longest unused go first. A network is read for one model, so another model has its own. Not for two threads."""

    def __init__(self, room: Callable[[], int]) -> None:
        """`room` gives the bytes that may be kept beside the networks in use; it is asked each time."""
        self._room = room
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Of all networks kept."""
        return sum(kept.bytes for kept in self._kept.values())

    def read(self, path: Path, names: NameTable) -> ReadResult:
        """The network of a file for a model; read again when the file has changed. Raises `BadInput`."""
        [result] = self.read_all([path], names)
        if isinstance(result, BadInput):
            raise result
        return result

    def read_all(self, paths: Sequence[Path], names: NameTable) -> list[ReadResult | BadInput]:
        """`read` of several files, all different, in order; what cannot be read comes back as what it raises."""
        found: dict[Path, ReadResult | BadInput] = {}
        new: dict[Path, FileState] = {}
        for path in paths:
            try:
                state = file_state(path)
            except BadInput as e:
                found[path] = e
                continue
            kept = self._kept.get((path, names))
            if kept is not None and kept.state == state:
                found[path] = kept.result
            else:
                self._kept.pop((path, names), None)
                new[path] = state
        for path, result in zip(new, read_networks(list(new), names, as_stored=True), strict=True):
            found[path] = result
            if not isinstance(result, BadInput):
                size = sum(p.numel() * p.element_size() for p in result.network.parameters())
                self._kept[path, names] = _Kept(new[path], result, size)
        for path in paths:
            if (path, names) in self._kept:
                self._kept.move_to_end((path, names))
        return [found[path] for path in paths]

    def trim(self, in_use: Iterable[Path], names: NameTable) -> None:
        """Let go of what is not in use and finds no room."""
        used = {(path, names) for path in in_use}
        spare = [key for key in self._kept if key not in used]
        total, room = sum(self._kept[key].bytes for key in spare), self._room()
        for key in spare:
            if total <= room:
                break
            total -= self._kept.pop(key).bytes


def file_state(path: Path) -> FileState:
    """Size, time of the last change in ns and the file's number: another file under the same name differs in one.

    Raises `BadInput` when the file is not there.
    """
    try:
        stat = path.stat()
    except OSError as e:
        raise BadInput(Problem(path.name, f"the file cannot be read: {e.strerror or e}", got=str(path))) from e
    return stat.st_size, stat.st_mtime_ns, stat.st_ino
