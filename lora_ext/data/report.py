"""What a scan found: the pictures and how each is used, what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lora_ext.data.buckets import Size
from lora_ext.data.notices import Notices
from lora_ext.data.picture import Picture
from lora_ext.errors import BadInput, Problem


@dataclass(frozen=True)
class Skipped:
    """A picture that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DataReport:
    """The data set, in natural order of file names, and what the user should know about it."""

    pictures: tuple[Picture, ...]
    notices: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    validation: tuple[Picture, ...] = ()
    """Held out: not trained on, but used to measure."""

    def views(self) -> tuple[Picture, ...]:
        """All that has to be encoded: every picture in each of its variations, then those held out."""
        return tuple(view for p in self.pictures for view in p.views()) + self.validation

    @property
    def captions_vary(self) -> bool:
        """Whether captions differ from time to time; `Batches.captions` tells which come."""
        return any(p.words is not None for p in self.pictures)

    @property
    def captions(self) -> tuple[str, ...]:
        """Every different caption as it is when nothing is left to chance, in order of first use."""
        return tuple(dict.fromkeys(p.caption for p in (*self.pictures, *self.validation)))

    @property
    def samples(self) -> int:
        """Pictures times their repeats: how many are seen per epoch."""
        return sum(p.repeats for p in self.pictures)

    @property
    def bucket_counts(self) -> dict[Size, int]:
        """Samples per bucket (width, height), smallest first."""
        counts: Counter[Size] = Counter()
        for p in self.pictures:
            counts[p.bucket] += p.repeats
        return dict(sorted(counts.items()))

    @property
    def folders(self) -> dict[str, tuple[int, int]]:
        """Repeats and number of pictures by folder (empty name: the picture folder itself)."""
        counts = Counter((p.folder, p.repeats) for p in self.pictures)
        return {folder: (repeats, n) for (folder, repeats), n in counts.items()}

    @property
    def tag_counts(self) -> dict[str, dict[str, int]]:
        """How often each comma-separated part of a caption occurs, by folder, most frequent first."""
        counts: dict[str, Counter[str]] = {}
        for p in self.pictures:
            tags = (tag.strip() for tag in p.caption.split(","))
            counts.setdefault(p.folder, Counter()).update(tag for tag in tags if tag)
        return {folder: dict(counter.most_common()) for folder, counter in counts.items()}

    def without(self, skipped: Iterable[Skipped]) -> DataReport:
        """The same without pictures that turned out to be unusable. Raises `BadInput` when none is left."""
        more = tuple(skipped)
        names = {s.name for s in more}
        left = tuple(p for p in self.pictures if p.name not in names)
        if not left:
            raise BadInput(nothing_left((*self.skipped, *more)))
        held = tuple(p for p in self.validation if p.name not in names)
        return replace(self, pictures=left, skipped=(*self.skipped, *more), validation=held)


def reason(error: BadInput) -> str:
    """Why a picture is unusable, without its name: for `Skipped`."""
    return "; ".join(p.what + (f", expected {p.expected}" if p.expected else "") for p in error.problems)


def nothing_left(skipped: Iterable[Skipped]) -> Problem:
    """The complaint that none of the pictures can be used, with the reason of each."""
    notices = Notices()
    for s in skipped:
        notices.add("Picture skipped", f"{s.name} ({s.reason})")
    return Problem("images", "none of the pictures can be used", fix=" ".join(notices.lines()))
