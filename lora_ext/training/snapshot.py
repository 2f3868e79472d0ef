"""What a job looks like from outside: plain data that fits into JSON."""

from __future__ import annotations

from typing import Literal, TypedDict

State = Literal["idle", "running", "pausing", "paused", "stopping", "done", "stopped", "aborted", "failed"]


class StageView(TypedDict):
    """A phase and how far it is; `total` 0 when nobody knows."""

    name: str
    done: int
    total: int


class PreviewView(TypedDict):
    """A preview; the picture itself is asked for by `id`."""

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
    """What went wrong; `field` names the setting, empty for a general problem."""

    field: str
    text: str


class LineView(TypedDict):
    """A line of the log: number from 1, seconds since 1970, and a sentence whose `{0}`, `{1}` are `values`."""

    n: int
    at: float
    kind: str
    text: str
    values: list[str | int | float]


class JobFacts(TypedDict):
    """A job at one moment, less what went wrong. `losses` are points (step, loss) after the asked-for cursor, `rates`
    the learning rates at the same steps, `validation` the losses on held-out pictures, `loss_mean` their running mean;
    `seconds` and `eta` (None until it can be told) are of the training itself, `speed` is in steps per second,
    `memory` the most bytes of the card's memory so far (None without a card); `preview` is the newest one, `lines`
    the number of the newest line of the log."""

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
    speed: float | None
    memory: int | None
    losses: list[tuple[int, float]]
    rates: list[tuple[int, float]]
    cursor: int
    validation: list[tuple[int, float]]
    notices: list[str]
    preview: PreviewView | None
    saved: list[SavedView]
    lines: int


class JobSnapshot(JobFacts):
    """A job at one moment."""

    problems: list[ProblemView]


def idle() -> JobSnapshot:
    """The snapshot before the first job."""
    return {
        "run": "",
        "state": "idle",
        "name": "",
        "stage": {"name": "", "done": 0, "total": 0},
        "step": 0,
        "total": 0,
        "epoch": 0,
        "epochs": 0,
        "learning_rate": None,
        "loss_mean": None,
        "seconds": 0.0,
        "eta": None,
        "speed": None,
        "memory": None,
        "losses": [],
        "rates": [],
        "cursor": 0,
        "validation": [],
        "notices": [],
        "preview": None,
        "saved": [],
        "lines": 0,
        "problems": [],
    }
