"""`<lora:name:0.7>` tags: what a prompt asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.blocks import DEFAULT_PRESETS, BlockWeights, looks_like_blocks, read_blocks
from lora_ext.hosts.schedule import LIMIT, Curve, Moment, Schedule, read_curve, read_strength
from lora_ext.patching import Strengths

TAG = re.compile(r"<(?:lora|lyco):([^>]*)>")
NAMED = ("te", "unet", "dyn", "hr", "hrte", "hrunet", "lbw", "w", "x", "lbwe", "start", "stop", "step")


@dataclass(frozen=True)
class WantedLora:
    """One readable tag.

    `strengths` are those of the first step; `unread` are parameters that mean nothing to us; `dyn` keeps only the
    first ranks; `elements` is what `lbwe=` said, which is not supported; `schedule` is there when the strengths change.
    """

    name: str
    strengths: Strengths
    unread: tuple[str, ...] = ()
    dyn: int | None = None
    blocks: BlockWeights | None = None
    elements: str = ""
    schedule: Schedule | None = None

    def at(self, moment: Moment) -> Strengths:
        """The strengths at a moment, before block weights."""
        return self.strengths if self.schedule is None else self.schedule.at(moment)


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt taken apart: the text without tags, the readable tags in order, and a problem for every other tag."""

    text: str
    wanted: tuple[WantedLora, ...]
    problems: tuple[Problem, ...]


@dataclass
class _Parts:
    """A tag's parts after the name: strengths by place, parts by name, and what is neither.

    `placed`: block weights stood in place of a number, so a number after them is their `X`.
    """

    places: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    placed: bool = False


def parse(
    prompt: str, is_name: Callable[[str], bool] = lambda name: False, presets: Mapping[str, str] = DEFAULT_PRESETS
) -> ParsedPrompt:
    """Take the `<lora:...>` and `<lyco:...>` tags out of a prompt; a bad tag is reported and hinders no other.

    `is_name` tells names that exist; it is only needed for names with a `:` in them. `presets` are the names of block
    weights.
    """
    wanted, problems = read_tags([found[1].split(":") for found in TAG.finditer(prompt)], is_name, presets)
    return ParsedPrompt(TAG.sub("", prompt), wanted, problems)


def read_tags(
    tags: Sequence[Sequence[str]],
    is_name: Callable[[str], bool] = lambda name: False,
    presets: Mapping[str, str] = DEFAULT_PRESETS,
) -> tuple[tuple[WantedLora, ...], tuple[Problem, ...]]:
    """Tags as a host splits them, each as the items between its colons after `lora`."""
    wanted: list[WantedLora] = []
    problems: list[Problem] = []
    for items in tags:
        try:
            wanted.append(from_items(items, is_name, presets))
        except BadInput as e:
            problems += e.problems
    return tuple(wanted), tuple(problems)


def from_items(
    items: Sequence[object],
    is_name: Callable[[str], bool] = lambda name: False,
    presets: Mapping[str, str] = DEFAULT_PRESETS,
) -> WantedLora:
    """Read `name[:text encoder[:unet[:dyn]]]`, also `te=`, `unet=`, `dyn=`; one number is for both, as in A1111.

    Strengths may be loractl's curves, with `hr=`, `hrte=`, `hrunet=` for the second pass. Block weights are `lbw=`, or
    a list or preset in place of a number after the first one; `x=`, or the number after them, is what their `X` means.
    `start=`, `stop=` and `step=a-b` are steps.

    Raises `BadInput` for an empty name and for whatever cannot be read, with the tag as its field.
    """
    parts = [str(item).strip() for item in items]
    tag = f"<lora:{':'.join(parts)}>"
    size = _name_size(parts, is_name)
    name = ":".join(parts[:size])
    if not name:
        raise BadInput(Problem(tag, "the tag names no LoRA", "<lora:name:0.7>"))
    found = _sorted(parts[size:], presets)
    try:
        return _wanted(name, found, presets)
    except BadInput as e:
        told = (replace(p, field=tag, fix=f"{p.fix} This tag is left out.".strip()) for p in e.problems)
        raise BadInput(*told) from None


def _name_size(parts: Sequence[str], is_name: Callable[[str], bool]) -> int:
    """How many items make up the name: the most that are one, else the first."""
    return next((n for n in range(len(parts), 1, -1) if is_name(":".join(parts[:n]))), 1)


def _sorted(parts: Sequence[str], presets: Mapping[str, str]) -> _Parts:
    found = _Parts()
    for part in parts:
        key, sign, value = (word.strip() for word in part.partition("="))
        if sign and key in NAMED:
            found.named["lbw" if key == "w" else key] = value
        elif sign or len(found.places) == 3:
            found.unread.append(part)
        elif found.places and looks_like_blocks(part, presets) and "lbw" not in found.named:
            found.named["lbw"], found.placed = part, True
        elif found.placed and "x" not in found.named:
            found.named["x"] = part  # `<lora:name:1:PRESET:0.7>`
        else:
            found.places.append(part)
    return found


def _wanted(name: str, parts: _Parts, presets: Mapping[str, str]) -> WantedLora:
    schedule = _schedule(parts)
    dyn = parts.named.get("dyn", parts.places[2] if len(parts.places) > 2 else None)
    return WantedLora(
        name,
        schedule.at(Moment()),
        tuple(parts.unread),
        None if dyn is None else _whole("dyn", dyn),
        _blocks(parts.named, presets),
        parts.named.get("lbwe", ""),
        None if schedule.constant else schedule,
    )


def _blocks(named: Mapping[str, str], presets: Mapping[str, str]) -> BlockWeights | None:
    inherited = read_strength(named["x"]) if "x" in named else 1.0
    return read_blocks(named["lbw"], presets, inherited) if "lbw" in named else None


def _schedule(parts: _Parts) -> Schedule:
    places, named = parts.places, parts.named
    text = read_curve(places[0]) if places else Curve.constant(1.0)
    text = read_curve(named["te"]) if "te" in named else text
    unet = read_curve(places[1]) if len(places) > 1 else text
    unet = read_curve(named["unet"]) if "unet" in named else unet
    hires = read_curve(named["hr"]) if "hr" in named else None
    hires_text = read_curve(named["hrte"]) if "hrte" in named else hires or text
    hires_unet = read_curve(named["hrunet"]) if "hrunet" in named else hires or unet
    return Schedule(unet, text, hires_unet, hires_text, *_span(named))


def _span(named: Mapping[str, str]) -> tuple[int, int | None]:
    """The steps a tag is on: from `start=` to `stop=`, or `step=start-stop`."""
    first: str
    last: str | None
    if "step" in named:
        first, sign, last = named["step"].partition("-")
        if not sign:
            raise BadInput(Problem("step", "the steps cannot be read", "step=5-10", repr(named["step"])))
    else:
        first, last = named.get("start", "0"), named.get("stop")
    start, stop = _whole("start", first), None if last is None else _whole("stop", last)
    if stop is not None and start >= stop > 0:
        raise BadInput(Problem("stop", "the LoRA would stop before it starts", f"more than {start}", str(stop)))
    return start, stop


def _whole(what: str, text: str) -> int:
    if not re.fullmatch(r"\s*\+?[0-9]{1,6}\s*", text):
        raise BadInput(Problem(what, f"{what} cannot be read", "a whole number of 0 or more", repr(text)))
    return int(text)


__all__ = ["LIMIT", "ParsedPrompt", "WantedLora", "from_items", "parse", "read_tags"]
