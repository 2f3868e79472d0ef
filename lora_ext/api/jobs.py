"""Routes of the running job: settings, start, stop, snapshot, previews."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.api.door import NO_STORE, Route, foreign, from_page, refused, same_site
from lora_ext.config import Setting, TrainConfig, settings
from lora_ext.errors import BadInput, Problem
from lora_ext.ui import Service


class JobRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def settings(self) -> JSONResponse:
        """Every setting of a run, as declared in `config`."""
        return JSONResponse([_described(s) for s in settings(TrainConfig).values()])

    async def job(self, request: Request) -> JSONResponse:
        """The current or last run; `?after=` the `cursor` of an earlier answer sends only newer losses."""
        try:
            after = int(request.query_params.get("after", "0"))
        except ValueError:
            return refused(422, Problem("after", "after cannot be read", "a whole number"))
        return JSONResponse(self._service.snapshot(after), headers=NO_STORE)

    async def start(self, request: Request) -> JSONResponse:
        """Start a run: a JSON object of settings, flat. 422 with all problems when something is wrong."""
        if not same_site(request):
            return foreign()
        try:
            values = await request.json()
        except ValueError:
            return refused(422, Problem("", "the body is not JSON", "an object of settings"))
        if not isinstance(values, dict):
            return refused(422, Problem("", "the body is not a JSON object", "an object of settings"))
        try:
            await run_in_threadpool(self._service.start, values)
        except BadInput as e:
            return refused(422, *e.problems)
        return JSONResponse(self._service.snapshot(), status_code=202)

    async def stop(self, request: Request) -> JSONResponse:
        """Stop the run and keep what it has learnt."""
        if not same_site(request):
            return foreign()
        await run_in_threadpool(self._service.stop)
        return JSONResponse(self._service.snapshot(), status_code=202)

    async def preview(self, number: int) -> Response:
        """A preview as PNG."""
        png = await run_in_threadpool(self._service.preview, number)
        if png is None:
            return refused(404, Problem("preview", f"there is no preview {number}"))
        return Response(png, media_type="image/png", headers=NO_STORE)

    def routes(self) -> Iterable[Route]:
        """Every address of the group."""
        return (
            Route("GET", "/settings", self.settings),
            Route("GET", "/job", self.job),
            Route("POST", "/job", self.start),
            Route("POST", "/job/stop", self.stop),
            Route("GET", "/preview/{number}", self.preview),
            Route("GET", "/page/job", self.page_job, page=True),
            Route("GET", "/page/preview/{number}", self.page_preview, page=True),
        )

    async def page_job(self, request: Request) -> JSONResponse:
        """`job` for the tab."""
        return await self.job(request) if from_page(request, self._service.page_key) else foreign()

    async def page_preview(self, request: Request, number: int) -> Response:
        """`preview` for the tab."""
        return await self.preview(number) if from_page(request, self._service.page_key) else foreign()


def _described(s: Setting) -> dict[str, object]:
    return {
        "name": s.name,
        "section": s.section,
        "type": s.type.__name__,
        "default": s.default,
        "label": s.label,
        "help": s.help,
        "unit": s.unit,
        "minimum": s.minimum,
        "maximum": s.maximum,
        "multiple": s.multiple,
        "choices": list(s.choices),
        "needed": s.needed,
    }
