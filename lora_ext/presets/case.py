"""What a preset is chosen by: the goal, the model, the pictures and the card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lora_ext.layers import Family

Goal = Literal["character", "style", "concept", "object"]

GOALS: tuple[Goal, ...] = ("character", "style", "concept", "object")

GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One situation. `pictures` counts repeats; 0: not known yet. `memory`: bytes of the card; None: no card.

    `captions` are some of the pictures', for previews.
    """

    goal: Goal
    family: Family
    pictures: int = 0
    memory: int | None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    captions: tuple[str, ...] = ()

    @property
    def gigabytes(self) -> int:
        """The card's memory as it is sold: 8 for one that reports 7.7."""
        return round((self.memory or 0) / GIB)


@dataclass(frozen=True)
class Said:
    """A sentence that can be translated: its template is looked up, `{0}`, `{1}` … are filled in afterwards."""

    template: str
    values: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return self.template.format(*self.values)
