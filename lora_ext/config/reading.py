"""Settings in and out: flat values to a config and back; every wrong value is named, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

from lora_ext.config.declare import Setting, Value
from lora_ext.errors import BadInput, Problem

SHOWN = 80  # characters of a wrong value that a message repeats

Config = TypeVar("Config")


def settings(config: type[Any]) -> dict[str, Setting]:
    """Every setting of a config class (sections flattened), by name, in declaration order."""
    return dict(_declared(typing.cast(Hashable, config)))


def read(config: type[Config], values: Mapping[str, object]) -> Config:
    """Build a config from flat values (JSON types or strings). Raises `BadInput` with every problem found."""
    known = settings(config)
    problems = [_unknown(name, known) for name in values if name not in known]
    typed: dict[str, Value] = {}
    for name, s in known.items():
        if name in values:
            try:
                typed[name] = _convert(s, values[name])
            except BadInput as e:
                problems += e.problems
        elif s.needed:
            problems.append(_missing(s))
    if problems:
        raise BadInput(*problems)
    return typing.cast(Config, _assemble(config, typed))


def flat(config: Any) -> dict[str, Value]:
    """The settings of a config object as flat values; `read(type(config), flat(config)) == config`."""
    out: dict[str, Value] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        out.update(flat(value) if dataclasses.is_dataclass(value) else {f.name: value})
    return out


@functools.cache
def _declared(config: type[Any]) -> tuple[tuple[str, Setting], ...]:
    """Worked out once: a class does not change, and looking up its types takes milliseconds."""
    return tuple((s.name, s) for s in _walk(config))


@functools.cache
def _types(config: type[Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(config)


def _walk(config: type[Any], section: str = "") -> Iterator[Setting]:
    hints = _types(typing.cast(Hashable, config))
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _walk(hints[f.name], f.name)
        else:
            yield Setting(
                name=f.name, section=section, type=hints[f.name], default=typing.cast(Value, f.default), **f.metadata
            )


def _assemble(config: type[Any], typed: Mapping[str, Value]) -> Any:
    hints = _types(typing.cast(Hashable, config))
    parts: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            parts[f.name] = _assemble(hints[f.name], typed)
        elif f.name in typed:
            parts[f.name] = typed[f.name]
    return config(**parts)


def _unknown(name: str, known: Mapping[str, Setting]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    return Problem(name or "(empty name)", "there is no such setting", fix=f"Did you mean {near[0]}?" if near else "")


def _missing(s: Setting) -> Problem:
    return Problem(s.name, f"{s.label} is needed and was not given", fix=s.help)


def _convert(s: Setting, raw: object) -> Value:
    value = _typed(s, raw)
    if s.needed and isinstance(value, str) and not value.strip():
        raise BadInput(_missing(s))
    if s.choices and value not in s.choices:
        raise BadInput(Problem(s.name, f"{s.label} has no such choice", f"one of {', '.join(s.choices)}", repr(value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(s, value)
    return value


def _typed(s: Setting, raw: object) -> Value:
    text = raw.strip() if isinstance(raw, str) else raw
    try:
        if s.type is bool:
            return _as_bool(text)
        if s.type is int:
            return _as_int(text)
        if s.type is float:
            if isinstance(text, bool) or not isinstance(text, (int, float, str)):
                raise ValueError
            return float(text)
        if isinstance(raw, str):
            return raw.strip() if s.needed else raw
        raise ValueError
    except (ValueError, OverflowError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise BadInput(Problem(s.name, f"{s.label} cannot be read", kinds[s.type], _shown(raw))) from None


def _as_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError


def _as_int(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError
    if isinstance(raw, str) and raw.lstrip("+-").isdigit():
        return int(raw)
    number = float(raw)
    if number != int(number):
        raise ValueError
    return int(number)


def _check_range(s: Setting, value: float) -> None:
    low = s.minimum if s.minimum is not None else -math.inf
    high = s.maximum if s.maximum is not None else math.inf
    finite = isinstance(value, int) or math.isfinite(value)  # an int may be too large for math.isfinite
    if not finite or not low <= value <= high:
        raise BadInput(
            Problem(s.name, f"{s.label} is out of range", f"{_bounds(s)}{s.unit and ' ' + s.unit}", str(value))
        )
    if s.multiple and value % s.multiple:
        raise BadInput(Problem(s.name, f"{s.label} must be a multiple of {s.multiple}", got=str(value)))


def _bounds(s: Setting) -> str:
    if s.minimum is not None and s.maximum is not None:
        return f"{number(s.minimum)} to {number(s.maximum)}"
    if s.minimum is not None:
        return f"at least {number(s.minimum)}"
    return "a finite number" if s.maximum is None else f"at most {number(s.maximum)}"


def number(value: float) -> str:
    """A bound as a reader writes it: whole numbers with all their digits, others short."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _shown(raw: object) -> str:
    """What was given, cut where it goes on and on."""
    text = repr(raw)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
