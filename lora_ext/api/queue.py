"""Routes of the queue: jobs that wait, and runs that were broken off."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from lora_ext.api.door import NO_STORE, Route, both_doors, refused
from lora_ext.api.jobs import values_of
from lora_ext.errors import BadInput, Problem
from lora_ext.ui import Service


class QueueRoutes:
    """The handlers; bound to one service. Each answers with the whole queue, or with 422 and all problems."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Iterable[Route]:
        """Every address of the group."""
        yield from both_doors("GET", "/jobs", self.jobs)
        yield Route("POST", "/jobs", self.add, body="settings")
        yield from both_doors("PUT", "/jobs/order", self.order, body={"order": "ids of all waiting jobs, first first"})
        yield from both_doors("POST", "/jobs/start", self.go)
        yield from both_doors("POST", "/jobs/hold", self.hold)
        yield from both_doors("DELETE", "/jobs/{number}", self.remove)
        yield from both_doors("POST", "/jobs/{number}/resume", self.resume)
        yield from both_doors("GET", "/jobs/{number}/settings", self.values)
        yield from both_doors("GET", "/offers", self.offers)
        yield from both_doors("POST", "/offers/resume", self.resume_named, body={"name": "of a run that can go on"})

    async def jobs(self) -> JSONResponse:
        """The queue: what runs, what waits, and what is over."""
        return await self._after(lambda: None)

    async def add(self, request: Request) -> JSONResponse:
        """Check settings (422 with all problems) and put the job last; `id` is its id."""
        try:
            number = await run_in_threadpool(self._service.queue.add, await values_of(request))
        except BadInput as e:
            return refused(422, *e.problems)
        return JSONResponse({"id": number, **self._service.queue.view()}, status_code=201, headers=NO_STORE)

    async def order(self, request: Request) -> JSONResponse:
        """Put the waiting jobs into another order."""
        try:
            order = (await values_of(request)).get("order")
        except BadInput as e:
            return refused(422, *e.problems)
        if not isinstance(order, list) or not all(isinstance(one, str) for one in order):
            return refused(422, Problem("order", "the order cannot be read", "a list of ids"))
        return await self._after(lambda: self._service.queue.order(order))

    async def remove(self, number: str) -> JSONResponse:
        """Take a job out; the one that runs must be stopped first."""
        return await self._after(lambda: self._service.queue.remove(number))

    async def go(self) -> JSONResponse:
        """Begin the waiting jobs, one after the other; one that fails does not keep up the rest."""
        return await self._after(self._service.queue.go)

    async def hold(self) -> JSONResponse:
        """Begin no further job; the running one goes on."""
        return await self._after(self._service.queue.hold)

    async def resume(self, number: str) -> JSONResponse:
        """Begin a job again: from its saved state when it has one, else from the start."""
        return await self._after(lambda: self._service.queue.resume(number, ""))

    async def values(self, number: str) -> JSONResponse:
        """The settings of a job, flat."""
        try:
            return JSONResponse(dict(self._service.queue.values(number)), headers=NO_STORE)
        except BadInput as e:
            return refused(404, *e.problems)

    async def offers(self) -> JSONResponse:
        """Runs that a crash or a restart broke off, and that can go on."""
        return JSONResponse(await run_in_threadpool(self._service.queue.offers), headers=NO_STORE)

    async def resume_named(self, request: Request) -> JSONResponse:
        """Go on with a run that is only known by its files."""
        try:
            name = (await values_of(request)).get("name")
        except BadInput as e:
            return refused(422, *e.problems)
        if not isinstance(name, str) or not name:
            return refused(422, Problem("name", "the name cannot be read", "a text"))
        return await self._after(lambda: self._service.queue.resume("", name))

    async def _after(self, change: Callable[[], None]) -> JSONResponse:
        try:
            await run_in_threadpool(change)
        except BadInput as e:
            return refused(422, *e.problems)
        return JSONResponse(self._service.queue.view(), headers=NO_STORE)
