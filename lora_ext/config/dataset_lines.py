"""Data sets as text: one line each, `images = 'D:/dogs', repeats = 2`, in the values of TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from lora_ext.config.declare import Value
from lora_ext.errors import BadInput, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_line(line: str) -> dict[str, object]:
    """The values of one line of the setting `datasets`. Raises `BadInput` (field `datasets`)."""
    try:
        given = tomllib.loads(f"set = {{ {line.strip().rstrip(',')} }}")["set"]
    except tomllib.TOMLDecodeError:
        fix = "Texts need quotes: images = 'D:/dogs', repeats = 2"
        what = Problem("datasets", "this cannot be read", "name = value, name = value", line.strip(), fix)
        raise BadInput(what) from None
    return dict(given)


def as_line(values: Mapping[str, Value]) -> str:
    """Values as one line; `parse_line(as_line(values)) == values`."""
    return ", ".join(f"{name} = {toml_value(value)}" for name, value in values.items())


def toml_value(value: Value) -> str:
    """One value as TOML writes it, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if "'" not in value and value.isprintable():
        return f"'{value}'"  # Windows paths stay readable
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
