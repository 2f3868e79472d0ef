"""Puts the groups of routes into an app, and the tab with them into a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from fastapi import FastAPI
from fastapi.params import Depends

from lora_ext.api.captioning import CaptionRoutes
from lora_ext.api.choose import ChooseRoutes
from lora_ext.api.door import PREFIX, Routes, guards
from lora_ext.api.exchange import ExchangeRoutes
from lora_ext.api.goal import GoalRoutes
from lora_ext.api.jobs import JobRoutes
from lora_ext.api.pictures import PictureRoutes
from lora_ext.api.presets import PresetRoutes
from lora_ext.api.queue import QueueRoutes
from lora_ext.api.reach import Reach
from lora_ext.api.schema import SchemaRoutes
from lora_ext.api.service import make_service
from lora_ext.captioner import Captioners
from lora_ext.live import LiveModel
from lora_ext.ui import Service, serve

PORT = 7861
NAME = "lora_ext"
"""Of every route of ours, so that a second `mount` finds those of the first."""

NONE_BROUGHT = Captioners()


def groups(service: Service, brought: Captioners) -> tuple[Routes, ...]:
    """Every group of routes over a service and what the host brings; a new group is added here."""
    reach = cast(Reach, service.reach)  # `make_service` took one
    return (
        JobRoutes(service),
        QueueRoutes(service),
        PictureRoutes(reach),
        CaptionRoutes(service, brought),
        GoalRoutes(service, reach),
        PresetRoutes(service),
        ChooseRoutes(service),
        ExchangeRoutes(service, reach),
    )


def mount(
    app: FastAPI, service: Service, dependencies: Sequence[Depends] = (), brought: Captioners = NONE_BROUGHT
) -> None:
    """Add the routes to `app`, before its own ones, so that a catch-all does not hide them.

    May be called again for the same app (the routes are replaced) and for a new one (Reload UI makes one).
    `dependencies` guard everything but the tab's own routes; `brought` are the host's models that describe pictures.
    """
    app.router.routes[:] = [r for r in app.router.routes if not _ours(r)]
    others = list(app.router.routes)
    all_routes = [route for group in groups(service, brought) for route in group.routes()]
    for route in (*all_routes, *SchemaRoutes(all_routes).routes()):
        app.add_api_route(
            PREFIX + route.path,
            route.endpoint,
            methods=[route.method],
            name=f"{NAME}:{route.path}",
            dependencies=[
                *([] if route.page else dependencies),
                *(Depends(guard) for guard in guards(route, service.page_key)),
            ],
            include_in_schema=not route.page,
        )
    added = app.router.routes[len(others) :]
    app.router.routes[:] = [*added, *others]


def _ours(route: object) -> bool:
    return str(getattr(route, "name", "")).startswith(f"{NAME}:")


def serve_standalone(live: Callable[[], LiveModel], output_dir: Callable[[], Path], port: int = PORT) -> None:
    """Show the tab alone at http://127.0.0.1:`port` until interrupted."""
    service = make_service(live, output_dir)
    serve(service, lambda app: mount(app, service), port)
