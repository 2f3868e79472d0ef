"""`<lora:name:0.7>` tags: what a prompt asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_ext.errors import BadInput, Problem
from lora_ext.patching import Strengths

TAG = re.compile(r"<(?:lora|lyco):([^>]*)>")
LIMIT = 100.0
"""Largest strength taken for meant; typing errors such as 1e9 only make black pictures."""


@dataclass(frozen=True)
class WantedLora:
    """One readable tag. `unread` are its parameters that mean nothing to us (`dyn=4`, those of other extensions)."""

    name: str
    strengths: Strengths
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt taken apart: the text without tags, the readable tags in order, and a problem for every other tag."""

    text: str
    wanted: tuple[WantedLora, ...]
    problems: tuple[Problem, ...]


def parse(prompt: str, is_name: Callable[[str], bool] = lambda name: False) -> ParsedPrompt:
    """Take the `<lora:...>` and `<lyco:...>` tags out of a prompt; a bad tag is reported and hinders no other.

    `is_name` tells names that exist; it is only needed for names with a `:` in them.
    """
    wanted, problems = read_tags([found[1].split(":") for found in TAG.finditer(prompt)], is_name)
    return ParsedPrompt(TAG.sub("", prompt), wanted, problems)


def read_tags(
    tags: Sequence[Sequence[str]], is_name: Callable[[str], bool] = lambda name: False
) -> tuple[tuple[WantedLora, ...], tuple[Problem, ...]]:
    """Tags as a host splits them, each as the items between its colons after `lora`."""
    wanted: list[WantedLora] = []
    problems: list[Problem] = []
    for items in tags:
        try:
            wanted.append(from_items(items, is_name))
        except BadInput as e:
            problems += e.problems
    return tuple(wanted), tuple(problems)


def from_items(items: Sequence[object], is_name: Callable[[str], bool] = lambda name: False) -> WantedLora:
    """Read `name[:text encoder[:unet]]`, also `te=` and `unet=`; one number is for both, as in A1111.

    Raises `BadInput` for an empty name and for strengths that are no number from -100 to 100.
    """
    parts = [str(item).strip() for item in items]
    tag = f"<lora:{':'.join(parts)}>"
    size = _name_size(parts, is_name)
    name = ":".join(parts[:size])
    if not name:
        raise BadInput(Problem(tag, "the tag names no LoRA", "<lora:name:0.7>"))
    numbers, named, unread = _sorted(parts[size:])
    te = _strength(tag, numbers[0]) if numbers else 1.0
    te = _strength(tag, named["te"]) if "te" in named else te
    unet = _strength(tag, numbers[1]) if len(numbers) > 1 else te
    unet = _strength(tag, named["unet"]) if "unet" in named else unet
    return WantedLora(name, Strengths(unet, te), (*numbers[2:], *unread))


def _name_size(parts: Sequence[str], is_name: Callable[[str], bool]) -> int:
    """How many items make up the name: the most that are one, else the first."""
    return next((n for n in range(len(parts), 1, -1) if is_name(":".join(parts[:n]))), 1)


def _sorted(parts: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Numbers by place, those by name, and what is neither."""
    numbers: list[str] = []
    named: dict[str, str] = {}
    unread: list[str] = []
    for part in parts:
        key, sign, value = part.partition("=")
        if not sign:
            numbers.append(part)
        elif key in ("te", "unet"):
            named[key] = value
        else:
            unread.append(part)
    return numbers, named, unread


def _strength(tag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LIMIT:
        expected = f"a number from {-LIMIT:g} to {LIMIT:g}"
        raise BadInput(Problem(tag, "the strength cannot be used", expected, repr(text), "This tag is left out."))
    return value
