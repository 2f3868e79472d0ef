"""What every group of routes shares: who may knock, and how we answer.

Two doors lead to one service. `/lora-ext/v1/...` is the API: the host's own dependencies (`--api-auth`) guard it.
`/lora-ext/v1/page/...` is for the tab's script: it asks for the page key, which stands in the tab's HTML. Whoever was
allowed to open the tab (gradio's login) therefore sees the job, also when the API has a password that the page does
not know. The key travels in a header, which a page of another site can neither read nor send.

`guards` is asked before every endpoint, so that no new route can forget it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response

from lora_ext.errors import Problem
from lora_ext.ui import view

PREFIX = "/lora-ext/v1"
KEY_HEADER = "x-lora-ext-key"
NO_STORE = {"Cache-Control": "no-store"}

Endpoint = Callable[..., Awaitable[Response]]
Method = Literal["GET", "POST", "PUT", "DELETE"]

NOT_FROM_THE_PAGE = Problem("", "this request does not come from the page", fix="Reload the page and try again.")


@dataclass(frozen=True)
class Route:
    """One address under `PREFIX`. `endpoint` is a method of its `Routes`."""

    method: Method
    path: str
    endpoint: Endpoint
    page: bool = False
    """For the tab's script: not guarded by the host's dependencies but by the page key."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What may stand behind `?`, each with what it means; for the schema."""
    body: Mapping[str, str] | Literal["settings", ""] = ""
    """What the JSON body holds: keys with what they mean, or the settings of a run; for the schema."""


def both_doors(
    method: Method,
    path: str,
    endpoint: Endpoint,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, str] | Literal["settings", ""] = "",
) -> tuple[Route, Route]:
    """The same endpoint for programs and, under `/page`, for the tab's script."""
    return Route(method, path, endpoint, query=query or {}, body=body), Route(method, f"/page{path}", endpoint, True)


def guards(route: Route, page_key: str) -> list[Callable[[Request], None]]:
    """What is asked before an endpoint; each raises a 403."""
    asked: list[Callable[[Request], None]] = []

    def key(request: Request) -> None:
        if not from_page(request, page_key):
            raise _foreign()

    def site(request: Request) -> None:
        if not same_site(request):
            raise _foreign()

    if route.page:
        asked.append(key)
    if route.method != "GET":
        asked.append(site)
    return asked


def _foreign() -> HTTPException:
    return HTTPException(403, {"problems": [view(NOT_FROM_THE_PAGE)]})


class Routes(Protocol):
    """A group of routes over one service; see `mount`."""

    def routes(self) -> Iterable[Route]:
        """Every address of the group."""


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


def from_page(request: Request, page_key: str) -> bool:
    """Whether the tab's own script asks: it knows the key that stands in the tab's HTML."""
    given = request.headers.get(KEY_HEADER, "")
    return secrets.compare_digest(given.encode(), page_key.encode())


def foreign() -> JSONResponse:
    """403: asked by a page of another site, or without the page key."""
    return refused(403, NOT_FROM_THE_PAGE)


def refused(status: int, *problems: Problem) -> JSONResponse:
    """Problems as JSON, each with the field it belongs to."""
    return JSONResponse({"problems": [view(p) for p in problems]}, status_code=status)
