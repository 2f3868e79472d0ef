"""Strengths that change while a picture is sampled."""

from __future__ import annotations

import bisect
import math
import re
from dataclasses import dataclass

from lora_ext.errors import BadInput, Problem
from lora_ext.patching import Strengths

LIMIT = 100.0
"""Largest strength taken for meant; typing errors such as 1e9 only make black pictures."""


@dataclass(frozen=True)
class Moment:
    """A place in the making of a picture: `step` of a pass's `steps` are done; `hires`: of the second pass."""

    step: int = 0
    steps: int = 1
    hires: bool = False


@dataclass(frozen=True)
class Curve:
    """A strength over one pass: points (position, strength), ascending, with straight lines between them.

    Before the first point and after the last the strength stays what it is there. Positions are fractions of the pass
    (0 is its first step, 1 its last) when none is above 1, else numbers of steps done; so loractl writes them.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def constant(cls, strength: float) -> Curve:
        """The same all the time."""
        return cls(((0.0, strength),))

    @property
    def changes(self) -> bool:
        """Whether it is not the same all the time."""
        return len({strength for _, strength in self.points}) > 1

    def at(self, moment: Moment) -> float:
        """The strength at a step."""
        place = float(moment.step)
        if self.points[-1][0] <= 1:
            place = moment.step / (moment.steps - 1) if moment.steps > 1 else 0.0
        after = bisect.bisect_right(self.points, place, key=lambda point: point[0])
        if after in (0, len(self.points)):
            return self.points[0 if after == 0 else -1][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (place - left) / (right - left)


@dataclass(frozen=True)
class Schedule:
    """What one tag asks for over both passes. From `start` steps done (and before `stop`) it is on; per pass."""

    unet: Curve
    text: Curve
    hires_unet: Curve
    hires_text: Curve
    start: int = 0
    stop: int | None = None

    @property
    def changes(self) -> bool:
        """Whether the strength on the UNet is not the same in every step of a pass."""
        return self.unet.changes or self.hires_unet.changes or self.start > 0 or self.stop is not None

    @property
    def text_changes(self) -> bool:
        """Whether something was asked for that no text encoder can do: it works once, before the first step."""
        return self.text.changes or self.hires_text.changes

    @property
    def constant(self) -> bool:
        """Whether it is the same at every moment."""
        return not (self.changes or self.text_changes) and (self.unet, self.text) == (self.hires_unet, self.hires_text)

    def at(self, moment: Moment) -> Strengths:
        """The strengths at a moment; on the text encoders those of the pass's first step, whatever the step.

        `start` and `stop` do not touch the text encoders, as in the extension they come from.
        """
        unet, text = (self.hires_unet, self.hires_text) if moment.hires else (self.unet, self.text)
        on = self.start <= moment.step and (self.stop is None or moment.step < self.stop)
        return Strengths(unet.at(moment) if on else 0.0, text.at(Moment(0, moment.steps, moment.hires)))


def read_curve(text: str) -> Curve:
    """Read `0.7`, or `0.2@0,1@0.5`: strength@position; `;` and `~` are taken too, a missing position is the end.

    Raises `BadInput` for the field "strength".
    """
    parts = [re.split("[@~]", part) for part in re.split("[,;]", text)]
    if len(parts) > 1 and not any(len(part) > 1 for part in parts):
        raise BadInput(_unusable("the strength cannot be used", text))
    if len(parts) == 1 and len(parts[0]) == 1:
        return Curve.constant(read_strength(text))
    if any(len(part) > 2 for part in parts):
        raise BadInput(_unusable("the strength's steps cannot be read", text, "strength@step, strength@step"))
    points = [(_position(part[1], text) if len(part) > 1 else 1.0, read_strength(part[0])) for part in parts]
    return Curve(tuple(sorted(points, key=lambda point: point[0])))


def read_strength(text: str) -> float:
    """One number. Raises `BadInput` for the field "strength"."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LIMIT:
        raise BadInput(_unusable("the strength cannot be used", text))
    return value


def _position(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e6:
        expected = "a fraction from 0 to 1, or a number of steps, after each @"
        raise BadInput(_unusable("the strength's steps cannot be read", text, expected))
    return value


def _unusable(what: str, text: str, expected: str = f"a number from {-LIMIT:g} to {LIMIT:g}") -> Problem:
    return Problem("strength", what, expected, repr(text))
