"""Step 4 as the tab and the HTTP routes see it: saved files, the sheet that compares them, and what is picked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypedDict

from lora_ext.errors import BadInput
from lora_ext.layers import Family


class SavedFileView(TypedDict):
    """A saved file of a run. `file` is its id: the path below the output folder; `loss` that on held-out pictures at
    its step; `bytes` its size; `saved` in seconds since 1970; `final`: the run's own file, not one on the way."""

    file: str
    label: str
    step: int | None
    loss: float | None
    bytes: int
    saved: float
    final: bool


class RunView(TypedDict):
    """A run by what it saved. `trigger`: the words that call what it learnt; `prompts` those of its previews.

    `strength` is the one its previews were made with, `size` their width and height in pixels, or the side that was
    trained; None when they are not known.
    """

    name: str
    family: Family
    trigger: str
    prompts: list[str]
    strength: float | None
    size: list[int] | None
    files: list[SavedFileView]


class SavedRunsView(TypedDict):
    """Runs, the newest first; `running` is the name of the one that trains now, or empty."""

    runs: list[RunView]
    running: str


class ColumnView(TypedDict):
    """A file of a sheet."""

    file: str
    label: str
    step: int | None
    loss: float | None


class RowView(TypedDict):
    """A row of a sheet."""

    prompt: str
    strength: float
    seed: int


class CellView(TypedDict):
    """A picture of a sheet. One of the model alone is in every column of its row, with the same id."""

    id: str
    column: int
    row: int


SheetState = Literal["none", "running", "done", "cancelled", "failed"]


class SheetView(TypedDict):
    """A sheet: `done` of `total` pictures are painted, the rest takes `left` seconds (None when nobody can tell)."""

    state: SheetState
    done: int
    total: int
    left: float | None
    error: str
    columns: list[ColumnView]
    rows: list[RowView]
    cells: list[CellView]


class PickedView(TypedDict):
    """What a picked file is called now. `tag` puts it into a prompt, `prompt` with its trigger words; `deleted` names
    the files of its run that are gone, `trouble` says what could not be done afterwards."""

    name: str
    tag: str
    prompt: str
    deleted: list[str]
    trouble: str


class Choosing(Protocol):
    """Step 4: saved files, the sheet that compares them, and picking one. Safe from any thread."""

    def saved(self) -> SavedRunsView:
        """Runs with files in the output folder."""

    def make(self, values: Mapping[str, object]) -> SheetView:
        """Begin a sheet. Raises `BadInput`; `Occupied` while a run trains or another sheet is being made."""

    def sheet(self) -> SheetView:
        """The sheet as far as it is."""

    def cancel(self) -> None:
        """Stop making it; what is made stays."""

    def picture(self, number: str, small: bool = False) -> bytes | None:
        """PNG (small: JPEG) of a picture by its id; None when it is not kept any more."""

    def whole(self) -> bytes | None:
        """The sheet as one labelled PNG; None before the first picture."""

    def pick(self, values: Mapping[str, object]) -> PickedView:
        """Give a saved file its name, notes and picture. Raises `BadInput`."""


class Occupied(BadInput):
    """Something else is at work that must end first."""
