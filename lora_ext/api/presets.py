"""Routes of the user's own presets: listed, saved, shared as files, taken in, removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastapi import Request
from fastapi.responses import JSONResponse

from lora_ext.api.body import Body, text
from lora_ext.api.door import Route, both_doors
from lora_ext.api.goal import answered, changing
from lora_ext.errors import BadInput, Problem
from lora_ext.presets import Preset, Shelf, keep, parsed, written
from lora_ext.ui import Service


class PresetRoutes:
    """The handlers; bound to one service."""

    def __init__(self, service: Service) -> None:
        self._shelf = Shelf(lambda: service.presets_folder)

    def routes(self) -> Iterable[Route]:
        """Every address of the group, for programs and for the page."""
        yield from both_doors("GET", "/presets", self.listed)
        yield from both_doors("POST", "/presets", self.save)
        yield from both_doors("POST", "/presets/file", self.take_in)
        yield from both_doors("GET", "/presets/{name}", self.one)
        yield from both_doors("DELETE", "/presets/{name}", self.delete)

    async def listed(self, _: Request) -> JSONResponse:
        """Names, notes, goals and families; a file that cannot be read has its problem beside its name."""
        return await answered(lambda: {"presets": self._listed()})

    async def one(self, request: Request) -> JSONResponse:
        """A preset: its settings, and `file`, the text to share."""

        def work() -> dict[str, object]:
            preset = self._shelf.preset(str(request.path_params["name"]))
            return {**_shown(preset), "settings": dict(preset.settings), "file": written(preset)}

        return await answered(work)

    async def save(self, request: Request) -> JSONResponse:
        """Keep settings: `name`, `values`, and, if any, `note`, `goal`, `family`, `overwrite`."""

        def work(body: Body) -> dict[str, object]:
            values = body.get("values")
            if not isinstance(values, Mapping):
                raise BadInput(Problem("values", "the settings cannot be read", "an object of settings"))
            words = {name: str(body.get(name) or "") for name in ("note", "goal", "family")}
            preset = keep(text(body, "name").strip(), values, **words)
            path = self._shelf.save(preset, overwrite=body.get("overwrite") is True)
            return {"name": path.stem, "presets": self._listed()}

        return await changing(request, work)

    async def take_in(self, request: Request) -> JSONResponse:
        """Add a shared preset: `text` of the file, and `overwrite`, if one of its name may be replaced."""

        def work(body: Body) -> dict[str, object]:
            path = self._shelf.save(parsed(text(body, "text")), overwrite=body.get("overwrite") is True)
            return {"name": path.stem, "presets": self._listed()}

        return await changing(request, work)

    async def delete(self, request: Request) -> JSONResponse:
        """Remove a preset."""

        def work(_: Body) -> dict[str, object]:
            self._shelf.delete(str(request.path_params["name"]))
            return {"presets": self._listed()}

        return await changing(request, work)

    def _listed(self) -> list[dict[str, object]]:
        return [
            {**(_shown(one.preset) if one.preset else {"name": one.name}), "problem": one.problem}
            for one in self._shelf.listed()
        ]


def _shown(preset: Preset) -> dict[str, object]:
    return {"name": preset.name, "note": preset.note, "goal": preset.goal, "family": preset.family}
