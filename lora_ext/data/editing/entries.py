"""The pictures of a folder being edited, known by numbers that stay theirs when the folder is read anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_ext.data.caption_source import Origin
from lora_ext.data.editing import caption_files
from lora_ext.data.editing.entry import Entry, EntryView
from lora_ext.data.editing.history import History, Text
from lora_ext.data.editing.reading import Seen
from lora_ext.data.picture import Picture
from lora_ext.data.report import Skipped
from lora_ext.data.words import WordRules
from lora_ext.errors import BadInput, Problem


@dataclass(frozen=True)
class Listing:
    """What is new since a revision."""

    entries: tuple[EntryView, ...]
    gone: tuple[int, ...]
    revision: int


class Entries:
    """Not safe to use from several threads at once; `EditSet` is."""

    def __init__(self) -> None:
        self.history = History()
        self._entries: dict[int, Entry] = {}
        self._names: dict[str, int] = {}
        self._gone: dict[int, int] = {}
        self._by_target: dict[Path, list[int]] = {}
        self._seen: set[int] = set()
        self._revision = 0

    def __len__(self) -> int:
        return len(self._entries)

    # ---- reading --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The folder is read anew: what does not come again by `end` is gone."""
        self._seen = set()

    def take(self, picture: Picture, origin: Origin, extension: str) -> None:
        """A picture as the scan found it; a caption that is not saved yet stays. `extension`: of new caption files."""
        entry = self._known(picture.name)
        texts = self.history.texts
        untouched = texts.get(entry.id) == entry.disk
        own = origin.file is not None and not origin.listed
        entry.picture, entry.origin, entry.left_out = picture, origin, ""
        target = origin.file if own and origin.file else picture.path.with_suffix(extension)
        self._aim(entry, target)
        entry.state = caption_files.state_of(target)
        entry.disk = entry.scanned = None if origin.file is None else "\n".join(origin.lines)
        if untouched:
            texts[entry.id] = entry.disk

    def leave_out(self, skipped: Skipped) -> None:
        """A picture that the trainer does not use."""
        entry = self._known(skipped.name)
        entry.picture, entry.left_out = None, skipped.reason
        self._aim(entry, None)
        self.history.texts.setdefault(entry.id, None)

    def end(self) -> None:
        """Everything was read."""
        for number in set(self._entries) - self._seen:
            self._aim(self._entries.pop(number), None)
            self.history.texts.pop(number, None)
            self._gone[number] = self._next()
        for numbers in self._by_target.values():
            for number in numbers:
                self._share(self._entries[number], tuple(self._entries[n].name for n in numbers if n != number))

    def _share(self, entry: Entry, names: tuple[str, ...]) -> None:
        if entry.shared != names:
            entry.shared = names
            self._touch(entry)

    def look(self, seen: Seen) -> None:
        """What a look at the pixels found."""
        for number, why in seen.unreadable.items():
            entry = self._entries[number]
            if entry.unreadable != why:
                entry.unreadable = why
                self._touch(entry)
        for number, names in seen.alike.items():
            entry = self._entries[number]
            if entry.alike != names:
                entry.alike = names
                self._touch(entry)

    def _known(self, name: str) -> Entry:
        number = self._names.setdefault(name, len(self._names))
        if number not in self._entries:
            self._entries[number] = Entry(number, name, None)
            self.history.texts[number] = None
        entry = self._entries[number]
        entry.alike, entry.unreadable = (), ""
        self._gone.pop(number, None)
        self._seen.add(number)
        self._touch(entry)
        return entry

    def _aim(self, entry: Entry, target: Path | None) -> None:
        """Which file its caption goes into; pictures that differ only in their extension share one."""
        if entry.target in self._by_target:
            self._by_target[entry.target].remove(entry.id)
        entry.target = target
        if target is not None:
            self._by_target.setdefault(target, []).append(entry.id)

    # ---- looking --------------------------------------------------------------------------------------------------

    def listing(self, after: int, rules: WordRules) -> Listing:
        """Every picture that changed since a revision, in the order they were found."""
        texts = self.history.texts
        changed = (entry for entry in self._entries.values() if entry.revision > after)
        views = tuple(entry.view(texts[entry.id], rules) for entry in changed)
        return Listing(views, tuple(n for n, revision in self._gone.items() if revision > after), self._revision)

    def pictures(self) -> dict[int, Picture]:
        """All that can be used."""
        return {n: entry.picture for n, entry in self._entries.items() if entry.picture}

    def picture(self, number: int) -> Picture:
        """Raises `BadInput` for one that is not there or cannot be used."""
        entry = self._entries.get(number)
        if entry is None or entry.picture is None:
            raise _gone(number)
        return entry.picture

    def texts(self, numbers: Iterable[int] | None) -> dict[int, str]:
        """Captions of these, or of all; empty where there is none."""
        wanted = self._entries if numbers is None else [n for n in numbers if n in self._entries]
        return {n: self.history.texts[n] or "" for n in wanted if self._entries[n].picture}

    # ---- editing --------------------------------------------------------------------------------------------------

    def change(self, what: str, texts: Mapping[int, Text]) -> int:
        """Set captions as one step; how many are another now. Raises `BadInput` for pictures that are not there."""
        after: dict[int, Text] = {}
        for number, text in texts.items():
            entry = self._entries.get(number)
            if entry is None or entry.target is None:
                raise _gone(number)
            for twin in self._by_target[entry.target]:
                # Nothing where nothing was is no caption file, not an empty one.
                after[twin] = None if text == "" and self.history.texts[twin] is None else text
        return self.touched(self.history.change(what, after))

    def touched(self, numbers: Iterable[int]) -> int:
        """These are new to every page; how many they are."""
        count = 0
        for number in numbers:
            self._touch(self._entries[number])
            count += 1
        return count

    # ---- caption files --------------------------------------------------------------------------------------------

    def changed(self) -> dict[Path, Text]:
        """What every caption file that has to be written will say."""
        texts = self.history.texts
        return {e.target: texts[n] for n, e in self._entries.items() if e.target and texts[n] != e.disk}

    def of_file(self, target: Path) -> Entry | None:
        """The picture (or the first of several) that a caption file belongs to."""
        numbers = self._by_target.get(target)
        return self._entries[numbers[0]] if numbers else None

    def on_disk(self, target: Path, text: Text) -> None:
        """A caption file was written or read: this is what it says."""
        for number in self._by_target[target]:
            entry = self._entries[number]
            lines = tuple((text or "").splitlines())
            entry.disk, entry.state = text, caption_files.state_of(target)
            entry.origin = Origin(None if text is None else target, False, lines, entry.origin.fallback)
            self._touch(entry)

    def reverted(self) -> dict[int, Text]:
        """Captions of all that are changed, as they are on disk."""
        texts = self.history.texts
        return {n: e.disk for n, e in self._entries.items() if e.target and texts[n] != e.disk}

    def _touch(self, entry: Entry) -> None:
        entry.revision = self._next()

    def _next(self) -> int:
        self._revision += 1
        return self._revision


def _gone(number: int) -> BadInput:
    return BadInput(Problem("picture", "there is no such picture any more", got=str(number)))
