"""What a job looks like from outside: plain data that fits into JSON."""

from __future__ import annotations

from typing import Literal, TypedDict

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
    """What went wrong; `field` names the setting, empty for a general problem."""

    field: str
    text: str


class JobSnapshot(TypedDict):
    """A job at one moment. `losses` are points (step, loss) after the asked-for cursor, `validation`
    those on held-out pictures, `loss_mean` their running mean;
    `seconds` and `eta` (None until it can be told) are of the training itself."""

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
        "losses": [],
        "cursor": 0,
        "validation": [],
        "notices": [],
        "preview": None,
        "saved": [],
        "problems": [],
    }
