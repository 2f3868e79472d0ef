"""`name=value name=value`, as people write options in one line."""

from __future__ import annotations

import ast
import re

from lora_ext.errors import BadInput, Problem

ITEM = re.compile(r"""\s*([A-Za-z_]\w*)\s*=\s*(\([^()]*\)|\[[^\[\]]*\]|"[^"]*"|'[^']*'|[^\s;"'()\[\]]+)\s*[;,]?""")
WORDS = {"true": True, "false": False, "none": None, "inf": float("inf")}


def parse_options(field: str, text: str) -> dict[str, object]:
    """The options in order; values are numbers, true / false / none, tuples (`0.9,0.99` too) or words.

    Raises `BadInput` for `field` with what cannot be read, and for an option given twice.
    """
    found: dict[str, object] = {}
    at = 0
    while text[at:].strip():
        match = ITEM.match(text, at)
        if match is None:
            raise BadInput(Problem(field, "this cannot be read", "name=value name=value …", repr(text[at:].strip())))
        name, value = match.groups()
        if name in found:
            raise BadInput(Problem(field, f"{name} is given twice"))
        found[name] = _value(value)
        at = match.end()
    return found


def _value(text: str) -> object:
    bare = text.rstrip(",")
    if bare.lower() in WORDS:
        return WORDS[bare.lower()]
    try:
        value: object = ast.literal_eval(bare)
    except (ValueError, SyntaxError):
        return bare
    return tuple(value) if isinstance(value, list) else value
