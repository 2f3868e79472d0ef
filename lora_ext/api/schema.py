"""A description of every address, in the words of OpenAPI, made from the routes and the settings themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi.responses import JSONResponse

from lora_ext import __version__
from lora_ext.api.door import PREFIX, Route
from lora_ext.config import Setting, TrainConfig, settings

TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}

Json = dict[str, Any]
"""A piece of JSON Schema."""


class SchemaRoutes:
    """The one address that describes the others."""

    def __init__(self, described: Sequence[Route]) -> None:
        self._described = described

    def routes(self) -> Iterable[Route]:
        """The address."""
        return (Route("GET", "/schema", self.schema),)

    async def schema(self) -> JSONResponse:
        """This description."""
        own = next(iter(self.routes()))
        return JSONResponse(openapi([r for r in (*self._described, own) if not r.page]))


def openapi(routes: Iterable[Route]) -> Json:
    """The description as OpenAPI 3.1."""
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    components = {"Settings": _settings_schema(), "Problems": PROBLEMS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "LoRA training", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route) -> Json:
    text = (route.endpoint.__doc__ or "").strip()
    refusal = {"description": "what is wrong, by field", "content": _json({"$ref": "#/components/schemas/Problems"})}
    found: Json = {
        "summary": text.splitlines()[0] if text else route.path,
        "description": re.sub(r"\s*\n\s*", " ", text),
        "responses": {"2XX": {"description": "the answer"}, "4XX": refusal},
    }
    inside = [_parameter(name, "path", "") for name in re.findall(r"{(\w+)}", route.path)]
    behind = [_parameter(name, "query", meaning) for name, meaning in route.query.items()]
    if inside or behind:
        found["parameters"] = [*inside, *behind]
    if route.body:
        found["requestBody"] = {"required": True, "content": _json(_body(route))}
    return found


def _parameter(name: str, place: str, meaning: str) -> Json:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": meaning,
        "schema": {"type": "string"},
    }


def _body(route: Route) -> Json:
    if isinstance(route.body, str):
        return {"$ref": "#/components/schemas/Settings"}
    return {"type": "object", "properties": {name: {"description": text} for name, text in route.body.items()}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _settings_schema() -> Json:
    known = settings(TrainConfig)
    return {
        "type": "object",
        "description": "The settings of a run, flat. What is left out has its default.",
        "properties": {name: _setting_schema(s) for name, s in known.items()},
        "required": [name for name, s in known.items() if s.needed],
        "additionalProperties": False,
    }


def _setting_schema(s: Setting) -> Json:
    facts: Json = {"type": TYPES[s.type], "title": s.label, "description": s.help, "default": s.default}
    bounds = {"minimum": s.minimum, "maximum": s.maximum, "multipleOf": s.multiple, "enum": list(s.choices) or None}
    return {**facts, **{name: value for name, value in bounds.items() if value is not None}}


PROBLEMS: Json = {
    "type": "object",
    "properties": {
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string", "description": "the setting it belongs to, empty for a general one"},
                    "label": {"type": "string"},
                    "text": {"type": "string"},
                },
            },
        }
    },
}
