"""What describes pictures, whoever brings it: the host's own models, or files that users put in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL import Image


@dataclass(frozen=True)
class Tag:
    """A word for what is in a picture and how sure the model is, 0..1."""

    name: str
    score: float
    character: bool = False
    """Names somebody; such tags have a threshold of their own."""


@dataclass(frozen=True)
class Weights:
    """Whether the files that a captioner needs are there. Nothing is fetched unless `Captioner.fetch` is called."""

    present: bool
    place: str
    """Where they are, or would be put."""
    source: str
    """Where they would be fetched from; empty when they cannot be."""
    megabytes: int
    """About so much would be fetched."""
    lacking: str = ""
    """A package that is missing to run it at all; empty when it can."""


Describe = Callable[[Image.Image], "str | Sequence[Tag] | None"]
"""An RGB picture, the right way up, to a sentence or to tags, surest first; None when stopped while it waited."""


class Captioner(Protocol):
    """One model that describes pictures."""

    @property
    def name(self) -> str:
        """Unique, for programs."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def kind(self) -> Literal["tags", "sentence"]:
        """What it says of a picture."""

    def weights(self) -> Weights:
        """Whether it is ready; quick, and never fetches anything."""

    def fetch(self, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> None:
        """Fetch the weights. `progress(done, total)` in bytes, total 0 when unknown.

        Raises `BadInput` when they cannot be fetched: offline, disk full.
        """

    def opened(self, stop: Callable[[], bool]) -> AbstractContextManager[Describe]:
        """Load the model; it is put away again at the end. Raises `BadInput` when its files are not as they must be.

        `stop` is asked while it waits for its turn at what it shares with others: the host's queue.
        """


@dataclass(frozen=True)
class Captioners:
    """What a host brings."""

    own: tuple[Captioner, ...] = ()
    folder: Path | None = None
    """Where weights of our own captioners are kept; None: in this user's cache."""
