"""What a request's JSON and address hold, checked."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request

from lora_ext.errors import BadInput, Problem

Body = Mapping[str, object]


async def object_of(request: Request) -> Body:
    """The body's JSON object; empty for an empty body, and for what is no object (its fields are then missing)."""
    try:
        found = await request.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def asked(request: Request, name: str) -> int:
    """A whole number of the address, 0 when it is not there."""
    given = request.query_params.get(name) or "0"
    if not (given.isascii() and given.isdecimal()):
        raise _wrong(name, "a whole number")
    return int(given)


def whole(body: Body, name: str) -> int:
    """A whole number, 0 when it is not there."""
    value = body.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, "a whole number")
    return value


def text(body: Body, name: str) -> str:
    """A text that must be there."""
    value = body.get(name)
    if not isinstance(value, str):
        raise _wrong(name, "a text")
    return value


def number_list(body: Body) -> list[int] | None:
    """Numbers of pictures; None (all) when they are left out."""
    value = body.get("numbers")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(n, int) for n in value):
        raise _wrong("numbers", "a list of numbers of pictures")
    return value


def texts(body: Body) -> dict[int, str]:
    """Captions by number of picture (JSON's keys are texts)."""
    value = body.get("texts")
    expected = "an object of captions by number of picture"
    if not isinstance(value, dict):
        raise _wrong("texts", expected)
    if not all(str(key).isdecimal() and isinstance(caption, str) for key, caption in value.items()):
        raise _wrong("texts", expected)
    return {int(key): caption for key, caption in value.items()}


def _wrong(name: str, expected: str) -> BadInput:
    return BadInput(Problem(name, f"{name} cannot be read", expected))
