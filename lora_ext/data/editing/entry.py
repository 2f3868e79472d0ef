"""One picture of a folder being edited: what the trainer makes of it, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from lora_ext.data.buckets import Fit, Size
from lora_ext.data.caption_source import Origin
from lora_ext.data.editing.caption_files import State
from lora_ext.data.editing.history import Text
from lora_ext.data.picture import Picture
from lora_ext.data.set_scan import CUT_MUCH
from lora_ext.data.words import WordRules, Words


class ProblemOfPicture(TypedDict):
    """What is wrong; `values` go into its text.

    `kind` is one of unreadable, encoding, no_caption, small, cut, alike, shared, rotated.
    """

    kind: str
    values: list[str]


class EntryView(TypedDict):
    """A picture for a page, JSON-able. Sizes are width, height in pixels; `text` None: there is no caption file.

    `source` is `own`, `list` (a list of many captions) or `none`; `trained` is what the trainer would say of it when
    nothing is left to chance. `revision` grows with every change.
    """

    id: int
    name: str
    folder: str
    text: Text
    trained: str
    changed: bool
    source: str
    file: str
    size: Size
    bucket: Size
    resized: Size
    crop: tuple[int, int]
    repeats: int
    views: int
    masked: bool
    problems: list[ProblemOfPicture]
    revision: int


@dataclass
class Entry:
    """One picture. `picture` is None when the trainer leaves it out; `left_out` says why."""

    id: int
    name: str
    picture: Picture | None
    left_out: str = ""
    origin: Origin = field(default=Origin(None, False, (), ""))
    target: Path | None = None
    """The caption file that Save writes."""
    disk: Text = None
    """Its caption as it is on disk, as far as we know."""
    scanned: Text = None
    """Its caption when the trainer's own scan saw it."""
    state: State = None
    """How `target` was then."""
    unreadable: str = ""
    alike: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    """Names of others with the same caption file."""
    revision: int = 0

    def problems(self, text: Text) -> list[ProblemOfPicture]:
        """What is wrong with it, worst first."""
        picture = self.picture
        if picture is None or self.unreadable:
            return [_problem("unreadable", self.left_out or self.unreadable)]
        found: list[ProblemOfPicture] = []
        if self.origin.encoding:
            found.append(_problem("encoding", self.origin.encoding))
        if not text:
            found.append(_problem("no_caption"))
        if picture.resized[0] > picture.size[0]:
            found.append(_problem("small", *map(str, (*picture.size, *picture.resized))))
        kept = Fit(picture.bucket, picture.resized, picture.crop).kept
        if kept < CUT_MUCH:
            found.append(_problem("cut", f"{1 - kept:.0%}"))
        if self.alike:
            found.append(_problem("alike", ", ".join(self.alike)))
        if self.shared:
            found.append(_problem("shared", ", ".join(self.shared)))
        if picture.orientation != 1:
            found.append(_problem("rotated"))
        return found

    def view(self, text: Text, rules: WordRules) -> EntryView:
        """The picture as it is now, with its caption `text`."""
        picture = self.picture
        nothing = (0, 0)
        return {
            "id": self.id,
            "name": self.name,
            "folder": self.name.rpartition("/")[0],
            "text": text,
            "trained": self.trained(text, rules) if picture else "",
            "changed": text != self.disk,
            "source": "none" if self.origin.file is None else "list" if self.origin.listed else "own",
            "file": self.origin.file.name if self.origin.file else "",
            "size": picture.size if picture else nothing,
            "bucket": picture.bucket if picture else nothing,
            "resized": picture.resized if picture else nothing,
            "crop": picture.crop if picture else nothing,
            "repeats": picture.repeats if picture else 0,
            "views": picture.variations if picture else 0,
            "masked": bool(picture and picture.mask),
            "problems": self.problems(text),
            "revision": self.revision,
        }

    def trained(self, text: Text, rules: WordRules) -> str:
        """What the trainer says of it when nothing is left to chance."""
        if self.picture and text == self.scanned:
            return self.picture.caption
        lines = tuple(filter(None, (text or "").splitlines())) or tuple(filter(None, (self.origin.fallback,)))
        return Words(lines, self.origin.fallback, rules).plain()


def _problem(kind: str, *values: str) -> ProblemOfPicture:
    return {"kind": kind, "values": list(values)}
