"""A closer look at the data before a run: captions too long, pictures that look alike, and all of it as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lora_ext.data.background import ahead
from lora_ext.data.likeness import groups_alike, look
from lora_ext.data.notices import listed
from lora_ext.data.picture import Picture
from lora_ext.data.picture_file import decode
from lora_ext.data.report import DataReport
from lora_ext.errors import BadInput

SMALL = (64, 64)
"""A size that is enough to tell pictures apart; JPEGs are decoded near it, eight times quicker."""


@dataclass(frozen=True)
class Inspection:
    """What the closer look found, beside the report itself."""

    report: DataReport
    too_long: tuple[tuple[str, int], ...]
    """Captions with more tokens than the model sees, and how many they have."""
    alike: tuple[tuple[str, ...], ...]
    """Names of pictures that look the same, in groups."""
    damaged: tuple[str, ...]
    """Names of pictures whose pixels cannot be read."""
    longest: int

    def lines(self) -> Iterator[str]:
        """The whole report, a line at a time, for a terminal or a page."""
        report = self.report
        pictures, samples = len(report.pictures), report.samples
        yield f"{pictures} pictures, {samples} seen per epoch, {len(report.captions)} different captions"
        for folder, (repeats, count) in report.folders.items():
            yield f"  {folder or '(the folder itself)'}: {count} pictures, {repeats} times each"
        if regularisation := sum(p.regularisation for p in report.pictures):
            yield f"{regularisation} of them keep the model as it is (regularisation)"
        if masked := sum(p.mask is not None for p in report.pictures):
            yield f"{masked} of them have a mask"
        if report.validation:
            yield f"{len(report.validation)} pictures are held out to measure with"
        yield "Buckets:"
        for (width, height), count in report.bucket_counts.items():
            yield f"  {width:>5} x {height:<5}{count:>6}"
        yield from report.notices
        if self.damaged:
            yield f"Pixels cannot be read: {listed(list(self.damaged))}."
        for caption, count in self.too_long:
            yield f'Caption has {count} tokens, the model sees {self.longest}: "{caption[:60]}…"'
        for group in self.alike:
            yield f"Look the same: {listed(list(group))}."


def inspect(
    report: DataReport, count: Callable[[str], int] | None = None, longest: int = 75, threads: int = 2
) -> Inspection:
    """Look at every caption and, small, at every picture of a report.

    `count` gives a caption's number of tokens, of which the model sees `longest`; None: captions are not counted.
    """
    counted = [(caption, count(caption)) for caption in report.captions] if count else []
    pictures = (*report.pictures, *report.validation)
    looks = list(ahead(_look, pictures, threads, room=2 * threads))
    seen = [(p.name, one) for p, one in zip(pictures, looks, strict=True) if one is not None]
    return Inspection(
        report,
        too_long=tuple((caption, n) for caption, n in counted if n > longest),
        alike=tuple(tuple(seen[i][0] for i in group) for group in groups_alike([one for _, one in seen])),
        damaged=tuple(p.name for p, one in zip(pictures, looks, strict=True) if one is None),
        longest=longest,
    )


def _look(picture: Picture) -> int | None:
    try:
        return look(decode(picture.path, picture.orientation, about=SMALL))
    except BadInput:
        return None
