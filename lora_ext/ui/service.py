"""What the tab needs from whoever runs the training: plain data over a narrow door."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from lora_ext.config import TrainConfig, Value, settings
from lora_ext.errors import Problem
from lora_ext.layers import Family

State = Literal["idle", "running", "pausing", "paused", "stopping", "done", "stopped", "failed"]


class StageView(TypedDict):
    """A phase and how far it is; `total` 0 when nobody knows."""

    name: str
    done: int
    total: int


class PreviewView(TypedDict):
    """The newest preview; the picture itself is asked for by `id`."""

    id: int
    step: int
    prompt: str


class SavedView(TypedDict):
    """A file that was written; `name` is what goes into `<lora:name:0.7>`."""

    step: int
    name: str
    path: str
    final: bool


class ProblemView(TypedDict):
    """A `Problem` for the page: `field` names the setting whose message slot shows `text`; `label` is its title."""

    field: str
    label: str
    text: str


class Snapshot(TypedDict):
    """Everything the page shows, JSON-able. `losses` are the points [step, loss] after the asked-for cursor.

    `seconds` and `eta` (None until it can be told) are of the training itself, by our own clock.
    """

    run: str
    state: State
    name: str
    stage: StageView
    step: int
    total: int
    epoch: int
    epochs: int
    learning_rate: float | None
    loss_mean: float | None
    seconds: float
    eta: float | None
    losses: list[tuple[int, float]]
    cursor: int
    validation: list[tuple[int, float]]
    notices: list[str]
    preview: PreviewView | None
    saved: list[SavedView]
    problems: list[ProblemView]


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


class Service(Protocol):
    """The running job as the tab and the HTTP routes see it. Every call returns quickly; safe from any thread."""

    @property
    def page_key(self) -> str:
        """Secret of this process, put into the tab's HTML, so that the tab's own script can show it is the tab."""

    def start(self, values: Mapping[str, object]) -> None:
        """Start training with flat settings. Raises `BadInput`: wrong settings, or a run is going on already."""

    def stop(self) -> None:
        """Ask the run to stop and keep what it has learnt; nothing happens when none runs."""

    def snapshot(self, after: int = 0) -> Snapshot:
        """The job now, or the last one; an idle snapshot before the first."""

    def preview(self, number: int) -> bytes | None:
        """PNG of a preview by its id, None when it is not kept any more."""

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
    if field not in known:
        return {"field": field, "label": field, "text": text[:1].upper() + text[1:]}
    short = text.removesuffix(known[field].help).strip() or text
    return {"field": field, "label": known[field].label, "text": short[:1].upper() + short[1:]}
