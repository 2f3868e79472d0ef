"""The same calls over HTTP, and the service that joins a host to the training.

Two doors lead to one service. `/lora-ext/v1/...` is the API: the host's own dependencies (`--api-auth`) guard it.
`/lora-ext/v1/page/...` is for the tab's script and only reads: it asks for the page key, which stands in the tab's
HTML. Whoever was allowed to open the tab (gradio's login) therefore sees the job, also when the API has a password
that the page does not know; starting and stopping go through gradio's own events.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.params import Depends
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.config import Setting, TrainConfig, settings
from lora_ext.errors import BadInput, Problem
from lora_ext.ui.service import Service, view

PREFIX = "/lora-ext/v1"
KEY_HEADER = "x-lora-ext-key"


def mount(app: FastAPI, service: Service, dependencies: Sequence[Depends] = ()) -> None:
    """Add the routes to `app`, before its own ones, so that a catch-all does not hide them.

    May be called again for the same app (the routes are replaced) and for a new one (Reload UI makes one).
    `dependencies` guard everything but the tab's own reading routes.
    """
    api = _Routes(service)
    guarded: list[tuple[str, str, Callable[..., object]]] = [
        ("GET", "/settings", api.settings),
        ("GET", "/job", api.job),
        ("POST", "/job", api.start),
        ("POST", "/job/stop", api.stop),
        ("GET", "/preview/{number}", api.preview),
    ]
    paged: list[tuple[str, str, Callable[..., object]]] = [
        ("GET", "/page/job", api.page_job),
        ("GET", "/page/preview/{number}", api.page_preview),
    ]
    app.router.routes[:] = [r for r in app.router.routes if not _ours(r)]
    others = list(app.router.routes)
    for method, path, endpoint in guarded:
        app.add_api_route(PREFIX + path, endpoint, methods=[method], dependencies=list(dependencies))
    for method, path, endpoint in paged:
        app.add_api_route(PREFIX + path, endpoint, methods=[method], include_in_schema=False)
    added = app.router.routes[len(others) :]
    app.router.routes[:] = [*added, *others]


def _ours(route: object) -> bool:
    return isinstance(getattr(getattr(route, "endpoint", None), "__self__", None), _Routes)


class _Routes:
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
            return _refused(422, Problem("after", "after cannot be read", "a whole number"))
        return JSONResponse(self._service.snapshot(after), headers=NO_STORE)

    async def start(self, request: Request) -> JSONResponse:
        """Start a run: a JSON object of settings, flat. 422 with all problems when something is wrong."""
        if not same_site(request):
            return _foreign()
        try:
            values = await request.json()
        except ValueError:
            return _refused(422, Problem("", "the body is not JSON", "an object of settings"))
        if not isinstance(values, dict):
            return _refused(422, Problem("", "the body is not a JSON object", "an object of settings"))
        try:
            await run_in_threadpool(self._service.start, values)
        except BadInput as e:
            return _refused(422, *e.problems)
        return JSONResponse(self._service.snapshot(), status_code=202)

    async def stop(self, request: Request) -> JSONResponse:
        """Stop the run and keep what it has learnt."""
        if not same_site(request):
            return _foreign()
        await run_in_threadpool(self._service.stop)
        return JSONResponse(self._service.snapshot(), status_code=202)

    async def preview(self, number: int) -> Response:
        """A preview as PNG."""
        png = await run_in_threadpool(self._service.preview, number)
        if png is None:
            return _refused(404, Problem("preview", f"there is no preview {number}"))
        return Response(png, media_type="image/png", headers=NO_STORE)

    async def page_job(self, request: Request) -> JSONResponse:
        """`job` for the tab."""
        return await self.job(request) if self._from_page(request) else _foreign()

    async def page_preview(self, request: Request, number: int) -> Response:
        """`preview` for the tab."""
        return await self.preview(number) if self._from_page(request) else _foreign()

    def _from_page(self, request: Request) -> bool:
        given = request.headers.get(KEY_HEADER, "")
        return secrets.compare_digest(given.encode(), self._service.page_key.encode())


NO_STORE = {"Cache-Control": "no-store"}


def same_site(request: Request) -> bool:
    """False when a browser sends the request for a page of another site (it must not steer the user's GPU).

    Browsers that know `Sec-Fetch-Site` say it themselves; others send `Origin`, which must be where we are. Programs
    send neither.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _foreign() -> JSONResponse:
    return _refused(403, Problem("", "this request does not come from the page", fix="Reload the page and try again."))


def _refused(status: int, *problems: Problem) -> JSONResponse:
    return JSONResponse({"problems": [view(p) for p in problems]}, status_code=status)


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
