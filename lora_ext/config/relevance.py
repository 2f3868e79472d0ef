"""Which settings have an effect as things stand: a setting may name what it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FACTS: Mapping[str, tuple[str, ...]] = {
    "family": ("sd1", "sd2", "sdxl"),
    "prediction_type": ("epsilon", "v_prediction"),
}
"""What a condition may name that is no setting: facts of the loaded model, and their values."""


@dataclass(frozen=True)
class When:
    """Holds where a setting, or a fact of the model, has one of these values; with `other` where it has none of them.

    Where nothing is known of `name` it holds: nothing is called useless on a guess.
    """

    name: str
    values: tuple[bool | int | float | str, ...]
    other: bool = False

    def holds(self, known: Mapping[str, object]) -> bool:
        """Whether it does, with these settings and facts."""
        return self.name not in known or (known[self.name] in self.values) is not self.other


Either = tuple[When, ...]
"""Holds where one of them does."""


def only(name: str, *values: bool | int | float | str) -> When:
    """The setting counts only with one of these values of another."""
    return When(name, values)


def unless(name: str, *values: bool | int | float | str) -> When:
    """The setting counts unless another has one of these values, such as the one that switches it off."""
    return When(name, values, other=True)


def relevant(name: str, conditions: Mapping[str, tuple[Either, ...]], known: Mapping[str, object]) -> bool:
    """Whether a setting has an effect, with these values of settings and facts.

    `conditions` are those of every setting. What depends on a setting that has no effect has none itself.
    """
    return all(
        any(one.holds(known) and relevant(one.name, conditions, known) for one in either)
        for either in conditions.get(name, ())
    )
