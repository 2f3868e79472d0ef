"""What the tab needs from whoever runs the training: plain data over a narrow door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from lora_ext.config import TrainConfig, Value, settings
from lora_ext.errors import Problem
from lora_ext.layers import Family
from lora_ext.training.queue import QueuedFacts, QueueFacts
from lora_ext.training.snapshot import JobFacts, LineView, PreviewView, SavedView, StageView, State
from lora_ext.ui.sheet_views import Choosing


class ProblemView(TypedDict):
    """A `Problem` for the page: `field` names the setting whose message slot shows `text`; `label` is its title."""

    field: str
    label: str
    text: str


class Snapshot(JobFacts):
    """Everything the page shows of a run, JSON-able."""

    problems: list[ProblemView]


class QueuedView(QueuedFacts):
    """A job of the queue for the page."""

    problems: list[ProblemView]


class QueueView(QueueFacts):
    """The queue for the page."""

    jobs: list[QueuedView]


class OfferView(TypedDict):
    """A run that was broken off. `step`: of its saved state, None when it must begin anew; `age` in seconds.

    `id` is that of the job in the queue, empty for one that is only known by its files.
    """

    id: str
    name: str
    step: int | None
    age: float


class ResultView(TypedDict):
    """A LoRA in the output folder: size in bytes, `changed` in seconds since 1970."""

    name: str
    path: str
    size: int
    changed: float


class CardView(TypedDict):
    """A graphics card; memory in bytes, `free` (with what the loaded model takes) None while a run uses it."""

    name: str
    total: int
    free: int | None


class ModelView(TypedDict):
    """The loaded model; `card` None when it lives on the processor."""

    name: str
    file: str
    family: Family
    title: str
    prediction_type: Literal["epsilon", "v_prediction"]
    inpainting: bool
    card: CardView | None


class PartView(TypedDict):
    """A share of the memory, in words and bytes."""

    name: str
    bytes: int


class ForecastView(TypedDict):
    """What a run will take; None wherever nobody can tell. `memory`, `free` and `file` in bytes.

    `timed`: the time is reckoned from a run on this machine, not guessed. `advice` names the settings to change where
    it does not fit.
    """

    memory: int | None
    free: int | None
    fits: bool | None
    parts: list[PartView]
    steps: int | None
    pictures: int | None
    seconds: float | None
    timed: bool
    file: int
    advice: list[ProblemView]


class Steering(Protocol):
    """What may be wished of the running job; nothing happens when none runs. Returns at once."""

    def stop(self) -> None:
        """Stop and keep what is learnt."""

    def abort(self) -> None:
        """End and save nothing more."""

    def pause(self) -> None:
        """Give the model back to the host after the step."""

    def go_on(self) -> None:
        """End the pause."""

    def save_now(self) -> None:
        """Save a file of what is learnt so far."""

    def preview_now(self) -> None:
        """Render previews of what is learnt so far."""


class Queue(Protocol):
    """The jobs that wait. Each raises `BadInput` for what cannot be done."""

    def view(self) -> QueueView:
        """All of them."""

    def add(self, values: Mapping[str, object]) -> str:
        """Check settings and put the job last; gives its id."""

    def order(self, numbers: Sequence[str]) -> None:
        """Put the waiting jobs into this order."""

    def remove(self, number: str) -> None:
        """Take a job out."""

    def go(self) -> None:
        """Begin the waiting jobs, one after the other."""

    def hold(self) -> None:
        """Begin no further one."""

    def values(self, number: str) -> Mapping[str, Value]:
        """Settings of a job."""

    def offers(self) -> list[OfferView]:
        """Runs that were broken off by a crash or a restart."""

    def resume(self, number: str, name: str) -> None:
        """Begin a job of the queue again, or, without an id, go on with the run of this name from its saved state."""


class Reachable(Protocol):
    """Says which paths a caller may name."""

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""

    def check(self, path: Path, field: str = "path") -> Path:
        """The path, absolute, links followed. Raises `BadInput` for one that may not be named."""


class Service(Protocol):
    """The running job as the tab and the HTTP routes see it. Every call returns quickly; safe from any thread."""

    @property
    def page_key(self) -> str:
        """Secret of this process, put into the tab's HTML, so that the tab's own script can show it is the tab."""

    @property
    def reach(self) -> Reachable:
        """Which paths a caller may name."""

    @property
    def queue(self) -> Queue:
        """The jobs that wait."""

    @property
    def job(self) -> Steering:
        """The running job."""

    @property
    def choosing(self) -> Choosing:
        """Saved files, compared and picked."""

    def readable(self, values: Mapping[str, object]) -> TrainConfig:
        """Settings as a config. Raises `BadInput`: wrong ones, or paths that a caller may not name."""

    def check(self, values: Mapping[str, object]) -> None:
        """Raise `BadInput` with everything that is wrong with flat settings; starts nothing."""

    def start(self, values: Mapping[str, object]) -> None:
        """Start training with flat settings. Raises `BadInput`: wrong settings, or a run is going on already."""

    def stop(self) -> None:
        """Ask the run to stop and keep what it has learnt; nothing happens when none runs."""

    def snapshot(self, after: int = 0) -> Snapshot:
        """The job now, or the last one; an idle snapshot before the first. Losses after the cursor only."""

    def lines(self, after: int = 0) -> list[LineView]:
        """The log of the current or last run, from the line behind line `after`."""

    def previews(self) -> list[PreviewView]:
        """All previews of the current or last run that are kept, oldest first."""

    def preview(self, number: int, small: bool = False) -> bytes | None:
        """PNG (small: JPEG) of a preview by its id, None when it is not kept any more."""

    def results(self) -> list[ResultView]:
        """LoRAs in the output folder, newest first."""

    def values(self) -> Mapping[str, Value] | None:
        """Settings of the current or last run, so that a reloaded page can show them; None before the first."""

    def model(self) -> ModelView:
        """The model that would be trained. Raises `BadInput` where none is loaded."""

    def forecast(self, values: Mapping[str, object]) -> ForecastView:
        """What a run with these settings will take. Raises `BadInput` for wrong settings, or without a model."""

    def fits(self, values: Mapping[str, Value]) -> bool:
        """Whether a run with these settings fits the card; yes where there is none. Raises `BadInput`."""

    @property
    def presets_folder(self) -> Path:
        """Where the user's own presets are kept; it need not exist."""


def view(problem: Problem) -> ProblemView:
    """A problem as the page shows it: a sentence beside the field, so without the field's own name."""
    return labelled(problem.field, str(problem).removeprefix(f"{problem.field}: "))


def labelled(field: str, text: str) -> ProblemView:
    """A problem for the page from field and sentence, less the help line that stands at the field anyway."""
    known = settings(TrainConfig)
    field, text = (word.encode("utf8", "replace").decode("utf8") for word in (field, text))  # halves of characters
    if field not in known:
        return {"field": field, "label": field, "text": text[:1].upper() + text[1:]}
    short = text.removesuffix(known[field].help).strip() or text
    return {"field": field, "label": known[field].label, "text": short[:1].upper() + short[1:]}


__all__ = [
    "CardView",
    "Choosing",
    "ForecastView",
    "LineView",
    "ModelView",
    "OfferView",
    "PartView",
    "PreviewView",
    "ProblemView",
    "Queue",
    "QueueView",
    "QueuedView",
    "Reachable",
    "ResultView",
    "SavedView",
    "Service",
    "Snapshot",
    "StageView",
    "State",
    "Steering",
    "labelled",
    "view",
]
