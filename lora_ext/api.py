"""The same calls over HTTP, and the service that joins a host to the training.

Two doors lead to one service. `/lora-ext/v1/...` is the API: the host's own dependencies (`--api-auth`) guard it.
`/lora-ext/v1/page/...` is for the tab's script and only reads: it asks for the page key, which stands in the tab's
HTML. Whoever was allowed to open the tab (gradio's login) therefore sees the job, also when the API has a password
that the page does not know; starting and stopping go through gradio's own events.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.params import Depends
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.config import Setting, TrainConfig, Value, flat, read, settings
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.lora_name import check_name
from lora_ext.live import LiveModel
from lora_ext.training import Event, JobBoard, Saved, board, train
from lora_ext.ui import Service, Snapshot, labelled, serve, view

PREFIX = "/lora-ext/v1"
KEY_HEADER = "x-lora-ext-key"
PORT = 7861

PAGE_KEY = secrets.token_urlsafe(24)
"""One for the process: a host's Reload UI makes a new service, and pages that are open go on working."""


def make_service(
    live: Callable[[], LiveModel],
    output_dir: Callable[[], Path],
    after_save: Callable[[Path], None] = lambda path: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Service:
    """The service over the process's one job.

    `live` gives the model when a run starts (it may raise `BadInput` when there is none that can be trained),
    `output_dir` the folder for LoRA files, `after_save` is called with every file written (in the run's thread),
    `should_stop` is asked between steps, for hosts with an interrupt button of their own.
    """
    return _Service(live, output_dir, after_save, should_stop, board)


def serve_standalone(live: Callable[[], LiveModel], output_dir: Callable[[], Path], port: int = PORT) -> None:
    """Show the tab alone at http://127.0.0.1:`port` until interrupted."""
    service = make_service(live, output_dir)
    serve(service, lambda app: mount(app, service), port)


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


class _Service:
    """`Service` over a job board."""

    def __init__(
        self,
        live: Callable[[], LiveModel],
        output_dir: Callable[[], Path],
        after_save: Callable[[Path], None],
        should_stop: Callable[[], bool],
        jobs: JobBoard,
    ) -> None:
        self._live = live
        self._output_dir = output_dir
        self._after_save = after_save
        self._should_stop = should_stop
        self._jobs = jobs

    @property
    def page_key(self) -> str:
        return PAGE_KEY

    def start(self, values: Mapping[str, object]) -> None:
        config = read(TrainConfig, values)
        output = output_path(config.save.output, self._output_dir())

        def begin() -> _Announced:
            return _Announced(train(self._live(), config, output=output), self._after_save)

        job = self._jobs.start(begin, output.stem, self._should_stop)
        _last_values.clear()
        _last_values[job.snapshot()["run"]] = flat(config)

    def stop(self) -> None:
        self._jobs.stop()

    def snapshot(self, after: int = 0) -> Snapshot:
        now = self._jobs.snapshot(after)
        # JSON has no NaN; a run that meets one says so itself.
        mean = now["loss_mean"] if now["loss_mean"] is not None and math.isfinite(now["loss_mean"]) else None
        losses = [point for point in now["losses"] if math.isfinite(point[1])]
        problems = [labelled(p["field"], p["text"]) for p in now["problems"]]
        return {**now, "loss_mean": mean, "losses": losses, "problems": problems}

    def preview(self, number: int) -> bytes | None:
        return self._jobs.preview(number)

    def values(self) -> Mapping[str, Value] | None:
        return _last_values.get(self._jobs.snapshot()["run"])


_last_values: dict[str, dict[str, Value]] = {}
"""Settings of the current or last run, by the run's id; like the board, it outlives a host's Reload UI."""


def output_path(name: str, folder: Path) -> Path:
    """Where a LoRA of this name is written: always right inside `folder`, and a name every system can hold.

    Raises `BadInput` for the field "output".
    """
    stem = name.strip().removesuffix(".safetensors")
    check_name(stem)
    return folder / f"{stem}.safetensors"


class _Announced(Generator[Event, None, None]):
    """A run that also tells `after_save` of every file; whatever is thrown in goes to the run itself."""

    def __init__(self, events: Generator[Event, None, None], after_save: Callable[[Path], None]) -> None:
        self._events = events
        self._after_save = after_save

    def send(self, value: None) -> Event:
        """Next event."""
        return self._tell(self._events.send(value))

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Event:
        """Next event after an exception inside the run."""
        return self._tell(self._events.throw(typ))

    def _tell(self, event: Event) -> Event:
        if isinstance(event, Saved):
            self._after_save(event.path)
        return event
