"""A folder of pictures being edited: what the trainer will see, and captions that change only in memory until Save."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from lora_ext.config import DataSetConfig
from lora_ext.data.caption_source import rules_of
from lora_ext.data.captions import EXTENSIONS, extensions
from lora_ext.data.editing import caption_files, saving
from lora_ext.data.editing.entries import Entries, Listing
from lora_ext.data.editing.reading import Look, Reading
from lora_ext.data.editing.thumbnails import Thumbnails, jpeg, small
from lora_ext.data.picture import Picture, load_picture
from lora_ext.data.set_scan import picture_folder
from lora_ext.errors import Problem

LARGE = 1024
"""Pixels of the longer side of a picture shown alone."""


@dataclass(frozen=True)
class Facts:
    """The state of the whole set. `looked` counts the pictures whose pixels were seen."""

    count: int
    complete: bool
    looked: int
    unsaved: int
    undo: str
    redo: str
    save_notice: str
    notices: tuple[str, ...]
    problems: tuple[Problem, ...]


class EditSet:
    """Safe to use from several threads. Pictures are known by numbers; see `Entries`."""

    def __init__(self, config: DataSetConfig, thumbnails: Thumbnails) -> None:
        """Begins to read the folder. Raises `BadInput` when it, or a caption list, cannot be used at all."""
        self.key = secrets.token_hex(4)
        self.root = picture_folder(config.images)
        self._thumbnails = thumbnails
        self._lock = threading.RLock()
        self._entries = Entries()
        self._waiting: list[int] = []
        self._look: Look | None = None
        self._begin(config, Reading(config, self._busy))

    # ---- reading --------------------------------------------------------------------------------------------------

    def reopen(self, config: DataSetConfig) -> None:
        """Read the folder anew, with other settings perhaps; captions not saved yet stay. Raises `BadInput`."""
        with self._lock:
            reading = Reading(config, self._busy)
            self.close()
            self._begin(config, reading)

    def _begin(self, config: DataSetConfig, reading: Reading) -> None:
        self._reading = reading
        self.config = config
        self._rules = rules_of(config)
        self._extension = next(iter(extensions(config.caption_extension)), EXTENSIONS[0])
        self._taken = self._left_out = 0
        self._complete = False
        self._look = None
        self._entries.begin()

    def wait(self, seconds: float, enough: int | None = None) -> None:
        """Until everything is read, or `enough` pictures are, but no longer."""
        self._reading.wait(seconds, enough)

    def close(self) -> None:
        """Leave off reading the folder and looking at pictures."""
        self._reading.stop()
        if self._look:
            self._look.stop()

    def _take(self) -> None:
        """Take over what the background has found meanwhile."""
        if self._complete:
            if self._look:
                self._entries.look(self._look.seen)
            return
        over = self._reading.over
        pictures, skipped = self._reading.pictures(self._taken), self._reading.skipped(self._left_out)
        self._taken, self._left_out = self._taken + len(pictures), self._left_out + len(skipped)
        for picture, origin in pictures:
            self._entries.take(picture, origin, self._extension)
        for one in skipped:
            self._entries.leave_out(one)
        if over:
            self._complete = True
            self._entries.end()
            self._look = Look(self._entries.pictures(), self._make, self._busy)

    def _busy(self) -> bool:
        """Whether somebody waits for a thumbnail."""
        return bool(self._waiting)

    # ---- looking --------------------------------------------------------------------------------------------------

    def listing(self, after: int = 0) -> Listing:
        """Every picture that changed since a revision, in the order they were found."""
        with self._lock:
            self._take()
            return self._entries.listing(after, self._rules)

    def facts(self) -> Facts:
        """The state of the whole set."""
        with self._lock:
            self._take()
            return Facts(
                count=len(self._entries),
                complete=self._complete,
                looked=self._look.seen.count if self._look else 0,
                unsaved=len(self._entries.changed()),
                undo=self._entries.history.undoable,
                redo=self._entries.history.redoable,
                save_notice=saving.list_notice(self._entries, bool(self.config.caption_file.strip())),
                notices=self._reading.notices,
                problems=self._reading.problems,
            )

    def picture(self, number: int) -> Picture:
        """Raises `BadInput` for a picture that is not there or cannot be used."""
        with self._lock:
            self._take()
            return self._entries.picture(number)

    def thumbnail(self, number: int) -> bytes:
        """JPEG. Raises `BadInput` for a picture that is not there or damaged."""
        picture = self.picture(number)
        self._waiting.append(number)
        try:
            return self._make(picture)
        finally:
            self._waiting.remove(number)

    def whole(self, number: int) -> bytes:
        """JPEG of the whole picture, not larger than is good to look at. Raises `BadInput`."""
        picture = self.picture(number)
        return small(picture.path, picture.orientation, LARGE, quality=90)

    def trained(self, number: int, view: int = 0) -> bytes:
        """JPEG of exactly what the trainer takes, in one of its views. Raises `BadInput`."""
        picture = self.picture(number)
        pixels = load_picture(picture.view(view % picture.variations))
        rounded = ((pixels + 1.0) * 127.5).round().clamp(0, 255).byte()
        return jpeg(Image.fromarray(rounded.permute(1, 2, 0).numpy()), quality=92)

    def _make(self, picture: Picture) -> bytes:
        return self._thumbnails.get(picture.path, picture.orientation)

    # ---- editing --------------------------------------------------------------------------------------------------

    def texts(self, numbers: Iterable[int] | None = None) -> dict[int, str]:
        """Captions of these pictures, or of all; empty where there is none."""
        with self._lock:
            self._take()
            return self._entries.texts(numbers)

    def edit(self, what: str, texts: Mapping[int, str]) -> int:
        """Change captions as one step that can be undone; how many are another now. Raises `BadInput`."""
        with self._lock:
            self._take()
            return self._entries.change(what, {n: tidy(text) for n, text in texts.items()})

    def remake(self, what: str, numbers: Iterable[int] | None, make: Callable[[Sequence[str]], Sequence[str]]) -> int:
        """Make new captions of those of these pictures (None: all), as one step; how many are another now.

        What others change while `make` works is left alone.
        """
        old = self.texts(numbers)
        made = make(list(old.values()))
        with self._lock:
            now = self.texts(old)
            return self.edit(
                what, {n: new for (n, text), new in zip(old.items(), made, strict=True) if now.get(n) == text}
            )

    def undo(self) -> int:
        """Take the last change back; how many captions it was about."""
        with self._lock:
            return self._entries.touched(self._entries.history.undo())

    def redo(self) -> int:
        """Do again what was last taken back."""
        with self._lock:
            return self._entries.touched(self._entries.history.redo())

    def revert(self, what: str) -> int:
        """All captions as they are on disk; can be undone."""
        with self._lock:
            return self._entries.change(what, self._entries.reverted())

    # ---- saving ---------------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> bool:
        """Whether there are captions that are not on disk."""
        with self._lock:
            return bool(self._entries.changed())

    def save(self, answer: saving.Answer = "ask") -> saving.Saved:
        """Write every changed caption; what the files said before is kept. Raises `BadInput` when it cannot be kept."""
        with self._lock:
            self._take()
            return saving.save(self._entries, self.root, answer)

    def backups(self) -> list[caption_files.Backup]:
        """Captions as they were before each Save, newest first."""
        return caption_files.backups(self.root)

    def restore(self, name: str, what: str) -> int:
        """Captions of a backup, as a change that can be undone and is on disk after Save. Raises `BadInput`."""
        found = caption_files.kept(self.root, name)
        with self._lock:
            owners = {path: entry.id for path in found if (entry := self._entries.of_file(path))}
            return self._entries.change(what, {number: found[path] for path, number in owners.items()})


def tidy(text: str) -> str:
    """As the trainer reads a caption: spaces tidied, no empty lines, no NUL."""
    lines = (" ".join(line.split()) for line in text.replace("\0", " ").splitlines())
    return "\n".join(filter(None, lines))
