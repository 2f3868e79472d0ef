"""Routes of the folder of pictures: what is in it, thumbnails, captions being edited, Save, dropped files."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import get_args

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.api.body import asked, number_list, object_of, text, texts, whole
from lora_ext.api.door import NO_STORE, Route, both_doors, refused
from lora_ext.api.reach import Reach
from lora_ext.config import DataSetConfig, read, settings
from lora_ext.data.editing import Answer, Desk, EditSet, Saved
from lora_ext.data.editing.bulk import Bulk, apply
from lora_ext.data.editing.receiving import receive
from lora_ext.data.set_scan import picture_folder
from lora_ext.errors import BadInput, Problem
from lora_ext.ui import view

FIRST_LOOK = 1.0
"""Seconds that the first answer waits at most."""

FIRST_PICTURES = 100
"""More than are in sight at once: with them the first answer goes off, and the others follow."""

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


SINCE = {"after": "the revision of an earlier answer; only what is newer is sent"}
SETTINGS = {"images": "the folder", "resolution": "and all other settings of a data set, as in settings"}
FILE = {"folder": "where it goes", "name": "what it is called; the body is the file"}
VIEW = {"view": "which variation, from 0"}
BULK = {
    "action": "add, add_front, remove, replace_tag, replace_text, replace_pattern, trigger or sort",
    "words": "tags, or what is replaced",
    "replacement": "what it is replaced with",
    "numbers": "of the pictures; left out: all",
}


class PictureRoutes:
    """The handlers; bound to one service."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def routes(self) -> Iterable[Route]:
        """Every address of the group, for programs and for the page."""
        place = "/pictures/{key}"
        yield from both_doors("POST", "/pictures", self.open, body=SETTINGS)
        yield from both_doors("PUT", "/picture-file", self.receive, query=FILE)
        yield from both_doors("GET", place, self.state, query=SINCE)
        yield from both_doors("GET", f"{place}/thumbnail/{{number}}", self.thumbnail)
        yield from both_doors("GET", f"{place}/whole/{{number}}", self.whole)
        yield from both_doors("GET", f"{place}/trained/{{number}}", self.trained, query=VIEW)
        yield from both_doors("POST", f"{place}/edit", self.edit, body={"texts": "captions by number", **SINCE})
        yield from both_doors("POST", f"{place}/bulk", self.bulk, body={**BULK, **SINCE})
        for name, endpoint in (("undo", self.undo), ("redo", self.redo), ("revert", self.revert)):
            yield from both_doors("POST", f"{place}/{name}", endpoint, body=SINCE)
        yield from both_doors("POST", f"{place}/save", self.save, body={"conflicts": "ask, mine, theirs", **SINCE})
        yield from both_doors("GET", f"{place}/backups", self.backups)
        yield from both_doors("POST", f"{place}/restore", self.restore, body={"backup": "its name", **SINCE})

    async def open(self, request: Request) -> JSONResponse:
        """Open a folder, or read it anew: an object of settings of a data set, flat; `images` names the folder."""

        def work(values: Mapping[str, object]) -> dict[str, object]:
            config, problems = _config(values)
            for field in ("images", "caption_file", "mask_folder"):
                named = str(getattr(config, field)).strip().strip("\"'")
                if named:
                    self._reach.check(picture_folder(named) if field == "images" else Path(named), field)
            opened = desk.open(config)
            opened.wait(FIRST_LOOK, FIRST_PICTURES)
            return _state(opened, 0, problems)

        return await json_answer(work, await object_of(request))

    async def state(self, request: Request) -> JSONResponse:
        """The folder; `?after=` the `revision` of an earlier answer sends only what is new."""
        return await json_answer(lambda: _state(_set(request), asked(request, "after")))

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
            return apply(one, bulk, number_list(body))

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
        body = await object_of(request)
        answer = body.get("conflicts", "ask")
        if answer not in get_args(Answer):
            return refused(422, Problem("conflicts", "there is no such answer", " or ".join(get_args(Answer))))

        def work() -> dict[str, object]:
            one = _set(request)
            saved: Saved = one.save(answer)  # type: ignore[arg-type]  # it is one of the answers
            return {**_state(one, whole(body, "after")), "saved": dataclasses.asdict(saved)}

        return await json_answer(work)

    async def backups(self, request: Request) -> JSONResponse:
        """Captions as they were before each Save, newest first."""
        return await json_answer(lambda: {"backups": [dataclasses.asdict(b) for b in _set(request).backups()]})

    async def receive(self, request: Request) -> JSONResponse:
        """One file, as the body: `?folder=` where to, `?name=` what it is called. Nothing is ever written over."""
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
        body = await object_of(request)

        def change() -> dict[str, object]:
            one = _set(request)
            count = work(one, body)
            return {**_state(one, whole(body, "after")), "changed": count}

        return await json_answer(change)


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


async def json_answer(work: Callable[..., Mapping[str, object]], *words: object) -> JSONResponse:
    """What `work` gives, made in a thread; 422 with what is wrong when it raises `BadInput`."""
    try:
        return JSONResponse(await run_in_threadpool(work, *words), headers=NO_STORE)
    except BadInput as e:
        return refused(422, *e.problems)


async def _jpeg(work: Callable[[], bytes]) -> Response:
    try:
        return Response(await run_in_threadpool(work), media_type="image/jpeg", headers=NO_STORE)
    except BadInput as e:
        return refused(404, *e.problems)
