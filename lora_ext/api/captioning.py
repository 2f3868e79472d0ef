"""Routes of the models that describe pictures: which there are, fetching one, letting it describe, cancelling."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from fastapi import Request
from fastapi.responses import JSONResponse

from lora_ext.api import pictures
from lora_ext.api.body import number_list, object_of
from lora_ext.api.door import Route, both_doors
from lora_ext.api.pictures import cache_folder, json_answer
from lora_ext.captioner import Captioner, Captioners
from lora_ext.data.editing.reading import in_background
from lora_ext.data.tagging import Wish, describe, ready, wd_taggers
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.blip import Blip
from lora_ext.ui import Service, view

BUSY = ("running", "pausing", "stopping")
"""States of a training in which a second model on the card would be in its way."""


WISH = {
    "captioner": "its name",
    "mode": "overwrite, append or empty",
    "numbers": "of the pictures; left out: all",
    "threshold": "how sure tags must be, 0 to 1",
    "character_threshold": "how sure names of characters must be",
}


@dataclass
class Work:
    """One model at work, in a thread of its own."""

    kind: Literal["describe", "fetch", ""] = ""
    done: int = 0
    total: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    future: Future[int] | None = None

    @property
    def busy(self) -> bool:
        return self.future is not None and not self.future.done()

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def view(self) -> dict[str, object]:
        """For the page; `said` is a sentence with places for `values`."""
        problems, said, values = [], "", [0]
        if self.future is not None and self.future.done():
            error = self.future.exception()
            if isinstance(error, BadInput):
                problems = [view(p) for p in error.problems]
            elif error is not None:  # the edge: whatever a model raises, the user must see it
                problems = [view(Problem("captioner", f"{type(error).__name__}: {error}"))]
            else:
                values = [self.future.result()]
                said = "{0} captions changed." if self.kind == "describe" else "The model is on disk."
                said = "Cancelled; {0} captions changed." if self.stopped.is_set() and said[0] == "{" else said
                said = "Cancelled." if self.stopped.is_set() and said[0] == "T" else said
        facts = {"busy": self.busy, "kind": self.kind, "done": self.done, "total": self.total}
        return {**facts, "problems": problems, "said": said, "values": values}


class _Bench:
    """The one model at work in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.work = Work()

    def start(self, kind: Literal["describe", "fetch"], run: Callable[[Work], int]) -> None:
        """Begin, unless another is at work. Raises `BadInput`."""
        with self._lock:
            if self.work.busy:
                raise BadInput(Problem("captioner", "a model is at work already", fix="Wait for it, or cancel it."))
            work = self.work = Work(kind)
            work.future = in_background(lambda: run(work))


bench = _Bench()


class CaptionRoutes:
    """The handlers; bound to one service and what its host brings."""

    def __init__(self, service: Service, brought: Captioners) -> None:
        self._service = service
        self._brought = brought

    def routes(self) -> Iterable[Route]:
        """Every address of the group, for programs and for the page."""
        yield from both_doors("GET", "/captioners", self.listed)
        yield from both_doors("POST", "/captioners/cancel", self.cancel)
        yield from both_doors("POST", "/captioners/{name}/fetch", self.fetch)
        yield from both_doors("POST", "/pictures/{key}/captions", self.describe, body=WISH)

    async def listed(self) -> JSONResponse:
        """Every model, whether its files are there and where they would come from, and what is at work."""
        return await json_answer(self._view)

    async def cancel(self, request: Request) -> JSONResponse:
        """Stop what is at work; pictures that were described stay so."""
        bench.work.stopped.set()
        return await json_answer(self._view)

    async def fetch(self, request: Request) -> JSONResponse:
        """Fetch the files of a model."""

        def begin() -> Mapping[str, object]:
            chosen = self._find(request.path_params["name"])

            def run(work: Work) -> int:
                chosen.fetch(work.progress, work.stopped.is_set)
                return 0

            bench.start("fetch", run)
            return self._view()

        return await json_answer(begin)

    async def describe(self, request: Request) -> JSONResponse:
        """Let a model describe pictures; what it says becomes one change of captions, and files change at Save."""
        body = await object_of(request)

        def begin() -> Mapping[str, object]:
            sure = body.get("threshold", 0.35), body.get("character_threshold", 0.85)
            wish = Wish.read(number_list(body), body.get("mode", "empty"), *sure)
            target = pictures.desk.get(request.path_params["key"])
            chosen = self._find(body.get("captioner"))
            if self._service.snapshot()["state"] in BUSY:
                raise BadInput(Problem("captioner", "a training is running", fix="Wait for its end, or pause it."))
            ready(chosen.weights())
            bench.start("describe", lambda work: describe(target, chosen, wish, work.progress, work.stopped.is_set))
            return self._view()

        return await json_answer(begin)

    def _all(self) -> list[Captioner]:
        folder = self._brought.folder or cache_folder() / "captioners"
        return [*self._brought.own, *wd_taggers(folder), Blip(folder / "blip-image-captioning-base")]

    def _find(self, name: object) -> Captioner:
        found = next((one for one in self._all() if one.name == name), None)
        if found is None:
            raise BadInput(Problem("captioner", "there is no such model", got=str(name)))
        return found

    def _view(self) -> dict[str, object]:
        models = [
            {"name": one.name, "label": one.label, "kind": one.kind, **dataclasses.asdict(one.weights())}
            for one in self._all()
        ]
        return {"captioners": models, "job": bench.work.view()}
