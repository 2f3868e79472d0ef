"""Routes of the goal: the loaded model, settings suggested for a goal, and what a run will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from lora_ext.api.body import Body, object_of
from lora_ext.api.door import NO_STORE, Route, both_doors, foreign, refused, same_site
from lora_ext.api.forecast import count, filled_in
from lora_ext.api.reach import Reach
from lora_ext.config import DataConfig, TrainConfig, settings
from lora_ext.config.dataset_lines import parse_line
from lora_ext.config.preview_lines import split_line
from lora_ext.data import first_captions
from lora_ext.errors import BadInput, Problem
from lora_ext.presets import GOALS, Case, choose
from lora_ext.ui import Service
from lora_ext.ui.service import ModelView

Answer = TypeVar("Answer")
PREVIEWS = 2
"""Prompts that a goal gives to previews where there are none."""


class GoalRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service, reach: Reach) -> None:
        self._service = service
        self._reach = reach

    def routes(self) -> Iterable[Route]:
        """Every address of the group, for programs and for the page."""
        yield from both_doors("GET", "/model", self.model)
        yield from both_doors("POST", "/suggestion", self.suggestion)
        yield from both_doors("POST", "/forecast", self.forecast)

    async def model(self, _: Request) -> JSONResponse:
        """The model that would be trained and its card; 422 where there is none."""
        return await answered(self._service.model)

    async def suggestion(self, request: Request) -> JSONResponse:
        """Settings for a goal: `goal`, and `values`, the settings so far, of which the folder is looked at.

        The answer: `settings`, and `reasons`, sentences as templates with the values that fill them in.
        """
        return await changing(request, self._suggested)

    async def forecast(self, request: Request) -> JSONResponse:
        """What a run will take: an object of settings, flat; folder and name may be missing.

        `counted` is what a suggestion would go by: another number than at that time means another suggestion.
        """

        def work(values: Body) -> dict[str, object]:
            inside = self._within(values)
            return {**self._service.forecast(inside), "counted": pictures_in(inside)}

        return await changing(request, work)

    def _suggested(self, body: Body) -> dict[str, object]:
        goal, values = body.get("goal"), body.get("values", {})
        if goal not in GOALS:
            raise BadInput(Problem("goal", "there is no such goal", f"one of {', '.join(GOALS)}", repr(goal)[:80]))
        if not isinstance(values, Mapping):
            raise BadInput(Problem("values", "the settings cannot be read", "an object of settings"))
        model = self._service.model()
        inside = self._within(values)
        own = str(inside.get("preview_prompt") or "").strip()
        case = replace(_case(str(goal), model, pictures_in(inside)), captions=() if own else captions_in(inside))
        made = choose(case, self._service.fits if model["card"] else None)
        reasons = [{"template": said.template, "values": list(said.values)} for said in made.reasons]
        kept = {"preview_prompt": own} if own else {}  # what somebody wrote is no matter of a goal
        return {"goal": goal, "settings": {**made.settings, **kept}, "reasons": reasons, "pictures": case.pictures}

    def _within(self, values: Mapping[str, object]) -> dict[str, object]:
        """The settings, after a look at whether the caller may name these folders."""
        for field in ("images", "regularisation_images", "caption_file"):
            self._check(values.get(field), field)
        for line in str(values.get("datasets") or "").splitlines():
            try:
                given = parse_line(line)
            except BadInput:
                continue  # nothing is read because of it; who reads the settings tells what is wrong with it
            for path in ("images", "caption_file"):
                self._check(given.get(path), "datasets")
        return dict(values)

    def _check(self, named: object, field: str) -> None:
        if isinstance(named, str) and named.strip():
            self._reach.check(Path(named.strip()), field)


def _case(goal: str, model: ModelView, pictures: int) -> Case:
    card = model["card"]
    chosen = next(one for one in GOALS if one == goal)
    return Case(chosen, model["family"], pictures, card and card["total"], model["prediction_type"])


def pictures_in(values: Mapping[str, object]) -> int:
    """Pictures of an epoch as far as the folder goes; whatever else is wrong in the form matters later."""
    known = settings(TrainConfig)
    asked: dict[str, object] = {
        name: values[name] for name in ("images", "repeats", "datasets") if name in known and name in values
    }
    try:
        return count(filled_in(asked)) or 0
    except BadInput:
        return 0


def captions_in(values: Mapping[str, object]) -> tuple[str, ...]:
    """Captions for previews, of those that the folder has; none that would be read as numbers of a preview."""
    asked = {name: values[name] for name in settings(DataConfig) if name in values}
    try:
        found = first_captions(filled_in(asked).data, PREVIEWS)
    except BadInput:
        return ()
    return tuple(caption for caption in found if not split_line(caption)[1] and not caption.startswith("#"))


async def answered(work: Callable[[], Answer]) -> JSONResponse:
    """What some work gives, as JSON; 422 with all problems where it cannot be done."""
    try:
        return JSONResponse(await run_in_threadpool(work), headers=NO_STORE)
    except BadInput as e:
        return refused(422, *e.problems)


async def changing(request: Request, work: Callable[[Body], Answer]) -> JSONResponse:
    """`answered` with the body's object; not for a page of another site."""
    if not same_site(request):
        return foreign()
    body = await object_of(request)
    return await answered(lambda: work(body))
