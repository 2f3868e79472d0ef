"""Routes of the folder of pictures: what is in it, thumbnails, captions being edited, Save, dropped files."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar, get_args

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.api.body import asked, numbers, object_of, text, texts, whole
from lora_ext.api.door import NO_STORE, Endpoint, Route, foreign, from_page, refused, same_site
from lora_ext.api.reach import Reach
from lora_ext.config import DataSetConfig, read, settings
from lora_ext.data.editing import Answer, Desk, EditSet, Saved
from lora_ext.data.editing.bulk import Bulk, apply
from lora_ext.data.editing.receiving import receive
from lora_ext.data.set_scan import picture_folder
from lora_ext.errors import BadInput, Problem
from lora_ext.ui import Service, view

Result = TypeVar("Result")

FIRST_LOOK = 0.15
"""Seconds: a small folder is read within them, and the first answer is the whole one."""

ONE_EDIT = "Caption edited"


def cache_folder() -> Path:
    """Where this system keeps what can be made again."""
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "lora-ext"


desk = Desk(lambda: cache_folder() / "thumbnails")
"""The process's one: captions that are not saved outlive a host's Reload UI and any page."""


class PictureRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service, reach: Reach) -> None:
        self._service = service
        self._reach = reach

    def routes(self) -> Iterable[Route]:
        """Every address of the group, for programs and for the page."""
        listed: list[tuple[Literal["GET", "POST", "PUT", "DELETE"], str, Endpoint]] = [
            ("POST", "/pictures", self.open),
            ("PUT", "/picture-file", self.receive),
            ("GET", "/pictures/{key}", self.state),
            ("GET", "/pictures/{key}/thumbnail/{number}", self.thumbnail),
            ("GET", "/pictures/{key}/whole/{number}", self.whole),
            ("GET", "/pictures/{key}/trained/{number}", self.trained),
            ("POST", "/pictures/{key}/edit", self.edit),
            ("POST", "/pictures/{key}/bulk", self.bulk),
            ("POST", "/pictures/{key}/undo", self.undo),
            ("POST", "/pictures/{key}/redo", self.redo),
            ("POST", "/pictures/{key}/revert", self.revert),
            ("POST", "/pictures/{key}/save", self.save),
            ("GET", "/pictures/{key}/backups", self.backups),
            ("POST", "/pictures/{key}/restore", self.restore),
        ]
        for method, path, endpoint in listed:
            yield from both_doors(method, path, endpoint, self._service.page_key)

    async def open(self, request: Request) -> JSONResponse:
        """Open a folder, or read it anew: an object of settings of a data set, flat; `images` names the folder."""
        if not same_site(request):
            return foreign()

        def work(values: Mapping[str, object]) -> dict[str, object]:
            config, problems = _config(values)
            for field in ("images", "caption_file", "mask_folder"):
                named = str(getattr(config, field)).strip().strip("\"'")
                if named:
                    self._reach.check(picture_folder(named) if field == "images" else Path(named), field)
            opened = desk.open(config)
            opened.wait(FIRST_LOOK)
            return _state(opened, 0, problems)

        return await _json(work, await object_of(request))

    async def state(self, request: Request) -> JSONResponse:
        """The folder; `?after=` the `revision` of an earlier answer sends only what is new."""
        return await _json(lambda: _state(_set(request), asked(request, "after")))

    async def thumbnail(self, request: Request) -> Response:
        """A small JPEG, the right way up."""
        return await _jpeg(lambda: _set(request).thumbnail(_number(request)))

    async def whole(self, request: Request) -> Response:
        """The whole picture as JPEG, at most 1024 px."""
        return await _jpeg(lambda: _set(request).whole(_number(request)))

    async def trained(self, request: Request) -> Response:
        """Exactly what the trainer takes of it, as JPEG; `?view=` another of its variations."""
        return await _jpeg(lambda: _set(request).trained(_number(request), asked(request, "view")))

    async def edit(self, request: Request) -> JSONResponse:
        """Change captions: `{"texts": {number: text}}`."""
        return await self._change(request, lambda one, body: one.edit(ONE_EDIT, texts(body)))

    async def bulk(self, request: Request) -> JSONResponse:
        """Change many captions: `action`, `words`, `replacement`, `numbers` (left out: all)."""

        def work(one: EditSet, body: Mapping[str, object]) -> int:
            bulk = Bulk.read(body.get("action"), body.get("words", ""), body.get("replacement", ""))
            return apply(one, bulk, numbers(body))

        return await self._change(request, work)

    async def undo(self, request: Request) -> JSONResponse:
        """Take the last change back."""
        return await self._change(request, lambda one, _: one.undo())

    async def redo(self, request: Request) -> JSONResponse:
        """Do again what was taken back."""
        return await self._change(request, lambda one, _: one.redo())

    async def revert(self, request: Request) -> JSONResponse:
        """All captions as they are on disk; can be undone."""
        return await self._change(request, lambda one, _: one.revert("All captions reverted"))

    async def restore(self, request: Request) -> JSONResponse:
        """Captions as they were before a Save: `{"backup": name}`; a change that can be undone."""
        return await self._change(request, lambda one, body: one.restore(text(body, "backup"), "Captions restored"))

    async def save(self, request: Request) -> JSONResponse:
        """Write changed captions. `conflicts`: `ask`, `mine` or `theirs`, when others changed the files meanwhile."""
        if not same_site(request):
            return foreign()
        body = await object_of(request)
        answer = body.get("conflicts", "ask")
        if answer not in get_args(Answer):
            return refused(422, Problem("conflicts", "there is no such answer", " or ".join(get_args(Answer))))

        def work() -> dict[str, object]:
            one = _set(request)
            saved: Saved = one.save(answer)  # type: ignore[arg-type]  # it is one of the answers
            return {**_state(one, whole(body, "after")), "saved": dataclasses.asdict(saved)}

        return await _json(work)

    async def backups(self, request: Request) -> JSONResponse:
        """Captions as they were before each Save, newest first."""
        return await _json(lambda: {"backups": [dataclasses.asdict(b) for b in _set(request).backups()]})

    async def receive(self, request: Request) -> JSONResponse:
        """One file, as the body: `?folder=` where to, `?name=` what it is called. Nothing is ever written over."""
        if not same_site(request):
            return foreign()
        try:
            given = request.query_params.get("folder", "").strip().strip("\"'")
            if not given:
                raise BadInput(Problem("images", "name the folder that the files go into"))
            folder = self._reach.check(Path(given).expanduser().absolute(), "images")
            taken = await receive(folder, request.query_params.get("name", ""), request.stream())
        except BadInput as e:
            return refused(422, *e.problems)
        return JSONResponse(dataclasses.asdict(taken), headers=NO_STORE)

    async def _change(self, request: Request, work: Callable[[EditSet, Mapping[str, object]], int]) -> JSONResponse:
        """Do something to the captions; the answer is what is new since the body's `after`, and how many changed."""
        if not same_site(request):
            return foreign()
        body = await object_of(request)

        def change() -> dict[str, object]:
            one = _set(request)
            count = work(one, body)
            return {**_state(one, whole(body, "after")), "changed": count}

        return await _json(change)


def both_doors(
    method: Literal["GET", "POST", "PUT", "DELETE"], path: str, endpoint: Endpoint, page_key: str
) -> tuple[Route, Route]:
    """The same endpoint for programs and, under `/page`, for the tab's script."""
    return Route(method, path, endpoint), Route(method, f"/page{path}", _PageDoor(endpoint, page_key).ask, page=True)


class _PageDoor:
    """Lets the tab's own script through to an endpoint."""

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._endpoint, self._key = endpoint, key

    async def ask(self, request: Request) -> Response:
        return await self._endpoint(request) if from_page(request, self._key) else foreign()


def _config(values: Mapping[str, object]) -> tuple[DataSetConfig, tuple[Problem, ...]]:
    """The data set's settings; of those that are wrong the defaults are taken, and it is told."""
    known = settings(DataSetConfig)
    given = {name: value for name, value in values.items() if name in known}
    try:
        return read(DataSetConfig, given), ()
    except BadInput as e:
        wrong = {p.field for p in e.problems}
        if "images" in wrong:
            raise
        return read(DataSetConfig, {n: v for n, v in given.items() if n not in wrong}), e.problems


def _state(one: EditSet, after: int, more: Iterable[Problem] = ()) -> dict[str, object]:
    listing, facts = one.listing(after), one.facts()
    return {
        "key": one.key,
        "root": str(one.root).encode("utf-8", "replace").decode("utf-8"),
        "entries": listing.entries,
        "gone": listing.gone,
        "revision": listing.revision,
        **dataclasses.asdict(facts),
        "problems": [view(p) for p in (*more, *facts.problems)],
    }


def _set(request: Request) -> EditSet:
    return desk.get(str(request.path_params["key"]))


def _number(request: Request) -> int:
    given = str(request.path_params["number"])
    if not given.isdecimal():
        raise BadInput(Problem("picture", "pictures have numbers", got=given))
    return int(given)


async def _json(work: Callable[..., Mapping[str, object]], *words: object) -> JSONResponse:
    try:
        return JSONResponse(await run_in_threadpool(work, *words), headers=NO_STORE)
    except BadInput as e:
        return refused(422, *e.problems)


async def _jpeg(work: Callable[[], bytes]) -> Response:
    try:
        return Response(await run_in_threadpool(work), media_type="image/jpeg", headers=NO_STORE)
    except BadInput as e:
        return refused(404, *e.problems)
