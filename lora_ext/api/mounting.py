"""Puts the groups of routes into an app, and the tab with them into a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.params import Depends

from lora_ext.api.door import PREFIX, Routes
from lora_ext.api.jobs import JobRoutes
from lora_ext.api.pictures import PictureRoutes
from lora_ext.api.reach import Reach
from lora_ext.api.service import make_service
from lora_ext.live import LiveModel
from lora_ext.ui import Service, serve

PORT = 7861


def groups(service: Service) -> tuple[Routes, ...]:
    """Every group of routes over a service; a new group is added here."""
    return (JobRoutes(service), PictureRoutes(service, Reach(local=True, folders=tuple)))


def mount(app: FastAPI, service: Service, dependencies: Sequence[Depends] = ()) -> None:
    """Add the routes to `app`, before its own ones, so that a catch-all does not hide them.

    May be called again for the same app (the routes are replaced) and for a new one (Reload UI makes one).
    `dependencies` guard everything but the tab's own routes.
    """
    app.router.routes[:] = [r for r in app.router.routes if not _ours(r)]
    others = list(app.router.routes)
    for route in (route for group in groups(service) for route in group.routes()):
        guards = [] if route.page else list(dependencies)
        app.add_api_route(
            PREFIX + route.path,
            route.endpoint,
            methods=[route.method],
            dependencies=guards,
            include_in_schema=not route.page,
        )
    added = app.router.routes[len(others) :]
    app.router.routes[:] = [*added, *others]


def _ours(route: object) -> bool:
    owner = getattr(getattr(route, "endpoint", None), "__self__", None)
    return type(owner).__module__.startswith(f"{__package__}.")


def serve_standalone(live: Callable[[], LiveModel], output_dir: Callable[[], Path], port: int = PORT) -> None:
    """Show the tab alone at http://127.0.0.1:`port` until interrupted."""
    service = make_service(live, output_dir)
    serve(service, lambda app: mount(app, service), port)
