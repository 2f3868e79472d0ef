"""The one sheet of the process: painted in a thread of its own, seen by every page, alive through a Reload UI."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from lora_ext.errors import BadInput, Problem
from lora_ext.training.comparison import Painted, Painting, Plan
from lora_ext.training.contact_sheet import contact_sheet
from lora_ext.training.gallery import Picture
from lora_ext.ui.sheet_views import CellView, ColumnView, Occupied, SheetState, SheetView

log = logging.getLogger(__name__)

PATIENCE = 0.2
"""Seconds between two looks whether a training still has the model."""

NONE: SheetView = {
    "state": "none",
    "done": 0,
    "total": 0,
    "left": None,
    "error": "",
    "columns": [],
    "rows": [],
    "cells": [],
}


@dataclass(frozen=True)
class Shown:
    """A picture of a sheet, and what is in it: `files` by id, all of them where the strength is 0."""

    picture: Picture
    files: frozenset[str]
    strength: float


class Sheet:
    """A sheet that is being painted, or was."""

    def __init__(self, wanted: Plan, columns: Sequence[ColumnView]) -> None:
        self.wanted = wanted
        self._columns = [*columns]
        self._lock = threading.Lock()
        self._state: SheetState = "running"
        self._error = ""
        self._cells: list[CellView] = []
        self._pictures: dict[str, Picture] = {}
        self._name = secrets.token_hex(4)
        self._cancelled = threading.Event()
        self._painting = 0.0
        self._thread: threading.Thread | None = None

    def start(self, begin: Callable[[], Painting], busy: Callable[[], bool]) -> None:
        """Paint. While `busy` (a training has the model) it waits."""
        self._thread = threading.Thread(target=self._drain, args=(begin, busy), name="lora-ext sheet", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Until the last picture is there and the model is given back."""
        return self._thread is not None and self._thread.is_alive() and self._state == "running"

    def cancel(self) -> None:
        """End it after the picture that is being painted."""
        self._cancelled.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def view(self) -> SheetView:
        """The sheet now."""
        with self._lock:
            done, total = len(self._pictures), self.wanted.total
            left = self._painting / done * (total - done) if done and self._state == "running" else None
            rows = self.wanted.rows
            return {
                "state": self._state,
                "done": done,
                "total": total,
                "left": left,
                "error": self._error,
                "columns": [{**column} for column in self._columns],
                "rows": [{"prompt": r.prompt, "strength": r.strength, "seed": r.seed} for r in rows],
                "cells": [{**cell} for cell in self._cells],
            }

    def picture(self, number: str) -> Picture | None:
        """A picture by its id."""
        with self._lock:
            return self._pictures.get(number)

    def shown(self, number: str) -> Shown | None:
        """What a picture shows, by its id."""
        with self._lock:
            cells = [cell for cell in self._cells if cell["id"] == number]
            if not cells:
                return None
            files = frozenset(self._columns[cell["column"]]["file"] for cell in cells)
            return Shown(self._pictures[number], files, self.wanted.rows[cells[0]["row"]].strength)

    def rename(self, before: str, after: str) -> None:
        """A file of it has another name now."""
        with self._lock:
            for column in self._columns:
                if column["file"] == before:
                    column["file"] = after

    def whole(self) -> bytes | None:
        """All pictures with labels as one PNG; None before the first."""
        now = self.view()
        if not now["cells"]:
            return None
        columns = [_title(column) for column in now["columns"]]
        pictures = {(cell["column"], cell["row"]): self._pictures[cell["id"]].png for cell in now["cells"]}
        picture = self.wanted.picture
        return contact_sheet(columns, self.wanted.rows, pictures, (picture.width, picture.height))

    def _drain(self, begin: Callable[[], Painting], busy: Callable[[], bool]) -> None:
        try:
            self._end("done" if self._paint(begin, busy) else "cancelled")
        except BadInput as e:
            self._end("failed", " ".join(_sentence(problem) for problem in e.problems))
        except Exception as e:  # the edge: a thread has nobody above it to tell
            log.exception("the sheet failed")
            self._end("failed", f"{type(e).__name__}: {e}")

    def _paint(self, begin: Callable[[], Painting], busy: Callable[[], bool]) -> bool:
        """Whether it came to its end."""
        with closing(begin()) as painting:
            while not self._cancelled.is_set():
                if busy():
                    self._cancelled.wait(PATIENCE)
                    continue
                start = time.monotonic()
                painted = next(painting, None)
                if painted is None:
                    return len(self._pictures) == self.wanted.total
                self._take(painted, time.monotonic() - start)
        return len(self._pictures) == self.wanted.total

    def _take(self, painted: Painted, seconds: float) -> None:
        picture = Picture.of(painted.image)  # outside the lock: compressing takes a while
        with self._lock:
            number = f"{self._name}-{len(self._pictures) + 1}"
            self._pictures[number] = picture
            self._cells += [{"id": number, "column": column, "row": painted.row} for column in painted.columns]
            self._painting += seconds

    def _end(self, state: SheetState, error: str = "") -> None:
        with self._lock:
            self._state, self._error = state, error


class Easel:
    """The place for the one sheet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sheet: Sheet | None = None

    def start(self, sheet: Sheet, begin: Callable[[], Painting], busy: Callable[[], bool]) -> None:
        """Put a sheet in the place of the last one and paint it. Raises `Occupied` while that is not over."""
        with self._lock:
            if self.sheet is not None and self.sheet.running:
                raise Occupied(Problem("", "a sheet is being made already", fix="Wait for its end, or cancel it."))
            self.sheet = sheet
            sheet.start(begin, busy)

    def view(self) -> SheetView:
        """The sheet, or that there is none."""
        return self.sheet.view() if self.sheet is not None else {**NONE, "columns": [], "rows": [], "cells": []}


easel = Easel()
"""The process's one."""


def _title(column: ColumnView) -> str:
    loss = "" if column["loss"] is None else f"loss {column['loss']:.4g}"
    return "\n".join(filter(None, [column["label"], loss]))


def _sentence(problem: Problem) -> str:
    text = str(problem).removeprefix(f"{problem.field}: ")
    return text[:1].upper() + text[1:]
