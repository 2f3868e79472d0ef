"""Routes of step 4: saved files, the sheet that compares them, and picking the best one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.api.door import NO_STORE, Route, both_doors, refused
from lora_ext.api.jobs import values_of
from lora_ext.errors import BadInput, Problem
from lora_ext.ui import Service
from lora_ext.ui.sheet_views import Occupied

SHEET = {
    "files": "ids of saved files, the columns",
    "strengths": "numbers; 0 is the model alone",
    "prompts": "texts without tags",
    "negative": "what the pictures should not show",
    "seed": "of the first picture of each prompt",
    "pictures": "of each prompt and strength, with seeds that follow each other",
    "steps": "sampling steps",
    "cfg": "guidance scale",
    "width": "px, a multiple of 8",
    "height": "px, a multiple of 8",
}
PICK = {
    "file": "id of a saved file",
    "name": "what it is called from now on",
    "strength": "that prompts should use",
    "trigger": "words that prompts should have",
    "description": "left out or empty: as it was",
    "cell": "id of a picture of the sheet that shows this file, or null",
    "others": "keep, or delete: what else the same run saved goes",
}


class ChooseRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterable[Route]:
        """Every address of the group."""
        yield from both_doors("GET", "/saved", self.saved)
        yield from both_doors("POST", "/sheet", self.make, body=SHEET)
        yield from both_doors("GET", "/sheet", self.sheet)
        yield from both_doors("DELETE", "/sheet", self.cancel)
        yield from both_doors("GET", "/sheet.png", self.whole)
        yield from both_doors("GET", "/sheet/pictures/{number}.png", self.picture)
        yield from both_doors("GET", "/sheet/pictures/{number}/small", self.small)
        yield from both_doors("POST", "/pick", self.pick, body=PICK)

    async def saved(self) -> JSONResponse:
        """Runs with files in the output folder, the newest first, each with what it saved."""
        return JSONResponse(await run_in_threadpool(self._service.choosing.saved), headers=NO_STORE)

    async def make(self, request: Request) -> JSONResponse:
        """Begin a sheet: each file for each prompt and strength, with the same seeds. Picture by picture, so that the
        host can work in between. 409 while a training runs or another sheet is being made."""
        return await _changed(request, self._service.choosing.make, 202)

    async def sheet(self) -> JSONResponse:
        """The sheet as far as it is."""
        return JSONResponse(self._service.choosing.sheet(), headers=NO_STORE)

    async def cancel(self) -> JSONResponse:
        """Stop making the sheet after the picture that is being made; what is made stays."""
        self._service.choosing.cancel()
        return JSONResponse(self._service.choosing.sheet(), headers=NO_STORE)

    async def whole(self) -> Response:
        """The sheet as one PNG with labels, as far as it is."""
        return _picture(await run_in_threadpool(self._service.choosing.whole), "image/png")

    async def picture(self, number: str) -> Response:
        """A picture of the sheet as PNG."""
        return _picture(self._service.choosing.picture(number), "image/png")

    async def small(self, number: str) -> Response:
        """A picture of the sheet as a small JPEG."""
        return _picture(self._service.choosing.picture(number, small=True), "image/jpeg")

    async def pick(self, request: Request) -> JSONResponse:
        """Give a saved file a name, a preview picture and notes, so that it is a card with all that a prompt needs."""
        return await _changed(request, self._service.choosing.pick, 200)


async def _changed(
    request: Request, change: Callable[[Mapping[str, object]], Mapping[str, object]], status: int
) -> JSONResponse:
    try:
        done = await run_in_threadpool(change, await values_of(request))
    except Occupied as e:
        return refused(409, *e.problems)
    except BadInput as e:
        return refused(422, *e.problems)
    return JSONResponse(done, status, headers=NO_STORE)


def _picture(file: bytes | None, kind: str) -> Response:
    if file is None:
        return refused(404, Problem("cell", "there is no such picture"))
    return Response(file, media_type=kind, headers=NO_STORE)
