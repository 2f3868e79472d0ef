"""What a training run tells whoever drains it. Plain data: the UI, the API and the command line render it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Stage:
    """A phase with its own progress: "Caching latents", "Caching captions", "Building the model", "Training",
    "Painting previews"."""

    name: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Notice:
    """Something the user should know though nothing failed (caption missing, caption cut, head count assumed)."""

    text: str


@dataclass(frozen=True)
class Step:
    """One optimizer step. `loss` is the mean since it was last read back; None on steps where it was not read."""

    step: int
    total: int
    epoch: int
    epochs: int
    loss: float | None
    learning_rate: float
    seconds: float
    """Seconds of training so far, without stages before it and without previews."""


@dataclass(frozen=True)
class Preview:
    """A picture rendered with the adapter as trained so far."""

    step: int
    prompt: str
    image: Image.Image
    number: int = 1
    """Which of the prompts, from 1."""


@dataclass(frozen=True)
class Saved:
    """A file written. `final` for the last one of the run."""

    step: int
    path: Path
    final: bool


@dataclass(frozen=True)
class Finished:
    """The end. `reason` is "done", "stopped" or "aborted"; failures are raised, not yielded."""

    step: int
    reason: str


@dataclass(frozen=True)
class Paused:
    """The model is the host's again; the next `next()` takes it back and goes on."""

    step: int


@dataclass(frozen=True)
class Validated:
    """The loss on held-out pictures, always at the same timesteps and noise."""

    step: int
    loss: float


Event = Stage | Notice | Step | Preview | Saved | Paused | Validated | Finished


class Stop(Exception):
    """Throw this into the run (`events.throw(Stop())`) to end it and keep what it has learnt."""


class Abort(Exception):
    """Throw this into the run to end it without writing what it has learnt; files written before stay."""


class Wish(Exception):
    """Throw one into the run at any event: it is remembered, and granted when the step the run is at is whole.

    In a pause the run stays paused and grants it after the step that follows.
    """


class Pause(Wish):
    """A wish to pause; `Paused` follows when the model is given back."""


class SaveNow(Wish):
    """A wish for a file of what is learnt so far; its `Saved` follows (at the end that of the run's own file)."""


class PreviewNow(Wish):
    """A wish for previews of what is learnt so far; a `Preview` for each prompt follows, or a `Notice` why not."""
