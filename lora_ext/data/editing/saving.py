"""Save: every changed caption into its file, with what the files said before kept, and nobody's work written over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from lora_ext.data.editing import caption_files
from lora_ext.data.editing.entries import Entries
from lora_ext.data.editing.history import Text
from lora_ext.data.picture_file import printable
from lora_ext.errors import BadInput, Problem

Answer = Literal["ask", "mine", "theirs"]
"""What to do about caption files that others have changed: ask, write over them, or take what they say."""


@dataclass(frozen=True)
class Saved:
    """What Save did. With `conflicts` nothing was written: others have changed these caption files."""

    written: int = 0
    backup: str = ""
    conflicts: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    """Files that could not be written, and why; their captions stay changed."""


def save(entries: Entries, root: Path, answer: Answer) -> Saved:
    """Write what is changed. Raises `BadInput` (field `save`) when the former captions cannot be kept."""
    wanted = entries.changed()
    conflicts = [path for path in wanted if _changed_by_others(entries, path)]
    if conflicts and answer == "ask":
        return Saved(conflicts=tuple(_name(root, path) for path in conflicts))
    if answer == "theirs":
        _take_theirs(entries, root, conflicts)
        wanted = {path: text for path, text in wanted.items() if path not in conflicts}
    if not wanted:
        return Saved()
    backup = _keep(root, list(wanted))
    failed = _write(entries, root, wanted)
    return Saved(len(wanted) - len(failed), backup, failed=tuple(failed))


def list_notice(entries: Entries, list_given: bool) -> str:
    """What to know before a Save about captions that come from a list of many; empty when none does."""
    origins = [entry.origin for path in entries.changed() if (entry := entries.of_file(path))]
    files = {origin.file for origin in origins if origin.listed and origin.file}
    names = ", ".join(sorted(printable(file.name) for file in files))
    if not names:
        return ""
    if list_given:
        return (
            f"Captions come from {names}, which goes before files beside the pictures. Save writes such files; empty "
            "the setting “Caption list” so that they count."
        )
    return f"Captions come from {names}. Save writes files beside the pictures, which go before it."


def _write(entries: Entries, root: Path, wanted: Mapping[Path, Text]) -> list[tuple[str, str]]:
    failed: list[tuple[str, str]] = []
    for path, text in wanted.items():
        try:
            caption_files.put(path, text)
        except OSError as e:
            failed.append((_name(root, path), e.strerror or type(e).__name__))
        else:
            entries.on_disk(path, text)
    return failed


def _changed_by_others(entries: Entries, path: Path) -> bool:
    entry = entries.of_file(path)
    if entry is None or caption_files.state_of(path) == entry.state:
        return False
    try:
        return caption_files.text_of(path) != (None if entry.origin.listed else entry.disk)
    except OSError:
        return True


def _take_theirs(entries: Entries, root: Path, paths: Iterable[Path]) -> None:
    taken: dict[int, Text] = {}
    for path in paths:
        entry = entries.of_file(path)
        try:
            text = caption_files.text_of(path)
        except OSError as e:
            raise BadInput(Problem("save", f"{_name(root, path)} cannot be read ({e.strerror})")) from e
        if entry is not None:
            taken[entry.id] = text
            entries.on_disk(path, text)
    entries.change("Captions taken from the disk", taken)


def _keep(root: Path, paths: Sequence[Path]) -> str:
    try:
        return caption_files.keep(root, paths, datetime.now())
    except OSError as e:
        what = f"nothing was saved: the captions as they are could not be kept ({e.strerror or type(e).__name__})"
        place = printable(str(root / caption_files.FOLDER))
        raise BadInput(Problem("save", what, got=place, fix="Make room, or make the folder writable.")) from e


def _name(root: Path, path: Path) -> str:
    return printable(path.relative_to(root).as_posix())
