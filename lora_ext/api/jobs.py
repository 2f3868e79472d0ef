"""Routes of the running job: settings, start, wishes, snapshot, log, previews, results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from lora_ext.api.body import asked
from lora_ext.api.door import NO_STORE, Route, both_doors, refused
from lora_ext.config import Setting, TrainConfig, settings
from lora_ext.data import scan
from lora_ext.errors import BadInput, Problem
from lora_ext.ui import Service

AFTER = {"after": "the cursor of an earlier answer; only what is newer is sent"}


class JobRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterable[Route]:
        """Every address of the group."""
        yield Route("GET", "/settings", self.settings)
        yield Route("POST", "/check", self.check, body="settings")
        yield Route("POST", "/data", self.data, body="settings")
        yield Route("POST", "/job", self.start, body="settings")
        yield from both_doors("GET", "/job", self.job, AFTER)
        steer = self._service.job
        wishes: dict[str, Callable[[], None]] = {
            "pause": steer.pause,
            "resume": steer.go_on,
            "save": steer.save_now,
            "preview": steer.preview_now,
            "stop": steer.stop,
            "abort": steer.abort,
        }
        for name, wish in wishes.items():
            yield from both_doors("POST", f"/job/{name}", Wished(wish, self._service).grant)
        yield from both_doors("GET", "/events", self.events, AFTER)
        yield from both_doors("GET", "/previews", self.previews)
        yield from both_doors("GET", "/preview/{number}", self.preview, {"small": "1: a small JPEG instead of the PNG"})
        yield from both_doors("GET", "/results", self.results)

    async def settings(self) -> JSONResponse:
        """Every setting of a run, as declared in `config`."""
        return JSONResponse([described(s) for s in settings(TrainConfig).values()])

    async def job(self, request: Request) -> JSONResponse:
        """The current or last run; `?after=` the `cursor` of an earlier answer sends only newer losses."""
        try:
            after = asked(request, "after")
        except BadInput as e:
            return refused(422, *e.problems)
        return JSONResponse(self._service.snapshot(after), headers=NO_STORE)

    async def check(self, request: Request) -> Response:
        """What a run would refuse in these settings: 422 with all problems, else 204; nothing is started."""
        try:
            await run_in_threadpool(self._service.check, await values_of(request))
        except BadInput as e:
            return refused(422, *e.problems)
        return Response(status_code=204)

    async def data(self, request: Request) -> JSONResponse:
        """What the folder of pictures holds, as the trainer will see it: pictures, notices, what is left out."""
        try:
            values = await values_of(request)
            return JSONResponse(await run_in_threadpool(self._report, values), headers=NO_STORE)
        except BadInput as e:
            return refused(422, *e.problems)

    async def start(self, request: Request) -> JSONResponse:
        """Start a run: a JSON object of settings, flat. 422 with all problems when something is wrong."""
        try:
            await run_in_threadpool(self._service.start, await values_of(request))
        except BadInput as e:
            return refused(422, *e.problems)
        return JSONResponse(self._service.snapshot(), status_code=202)

    async def events(self, request: Request) -> JSONResponse:
        """The log of the current or last run: lines with time; `?after=` the number of the last line one has."""
        try:
            after = asked(request, "after")
        except BadInput as e:
            return refused(422, *e.problems)
        run = self._service.snapshot(after)["run"]
        return JSONResponse({"run": run, "lines": self._service.lines(after)}, headers=NO_STORE)

    async def previews(self) -> JSONResponse:
        """All previews of the current or last run that are kept: id, step and prompt of each."""
        run = self._service.snapshot()["run"]
        return JSONResponse({"run": run, "previews": self._service.previews()}, headers=NO_STORE)

    async def preview(self, request: Request, number: int) -> Response:
        """A preview as PNG."""
        small = request.query_params.get("small") == "1"
        picture = await run_in_threadpool(self._service.preview, number, small)
        if picture is None:
            return refused(404, Problem("preview", f"there is no preview {number}"))
        return Response(picture, media_type="image/jpeg" if small else "image/png", headers=NO_STORE)

    async def results(self) -> JSONResponse:
        """The LoRAs in the output folder, newest first."""
        return JSONResponse(await run_in_threadpool(self._service.results), headers=NO_STORE)

    def _report(self, values: dict[str, object]) -> dict[str, object]:
        config = self._service.readable({"output": "-", **values})
        report = scan(config.data)
        return {
            "pictures": [
                {
                    "name": p.name,
                    "caption": p.caption,
                    "repeats": p.repeats,
                    "size": list(p.size),
                    "bucket": list(p.bucket),
                }
                for p in report.pictures
            ],
            "notices": list(report.notices),
            "skipped": [asdict(one) for one in report.skipped],
        }


class Wished:
    """A wish of the running job as an address."""

    def __init__(self, wish: Callable[[], None], service: Service) -> None:
        self._wish, self._service = wish, service

    async def grant(self) -> JSONResponse:
        """Wish it of the running job; the answer is the job. Nothing happens when none runs."""
        await run_in_threadpool(self._wish)
        return JSONResponse(self._service.snapshot(), status_code=202)


async def values_of(request: Request) -> dict[str, object]:
    """The settings in a body. Raises `BadInput` for what is no JSON object."""
    try:
        values = await request.json()
    except ValueError:
        raise BadInput(Problem("", "the body is not JSON", "an object of settings")) from None
    if not isinstance(values, dict):
        raise BadInput(Problem("", "the body is not a JSON object", "an object of settings"))
    return values


def described(s: Setting) -> dict[str, object]:
    """A setting as JSON."""
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
