"""What a setting is, and how one is declared: a field of a frozen dataclass whose metadata says everything about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Value = bool | int | float | str

MOST_SEED = 2**32 - 1
"""Hosts take no larger one."""


@dataclass(frozen=True)
class Setting:
    """What a field's metadata says about it."""

    name: str
    section: str
    type: type
    default: Value
    label: str
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    multiple: int | None
    choices: tuple[str, ...]
    basic: bool
    """Shown at first sight in the tab."""
    needed: bool
    """Has no sensible default: the user must give it."""
    expert: bool
    """Only for who knows the word already: folded away deepest."""


def setting(
    default: Value,
    label: str,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    multiple: int | None = None,
    choices: tuple[str, ...] = (),
    basic: bool = False,
    needed: bool = False,
    expert: bool = False,
) -> Any:
    """Declare one setting; see `Setting` for the words."""
    facts = {
        "label": label,
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "multiple": multiple,
        "choices": choices,
        "basic": basic,
        "needed": needed,
        "expert": expert,
    }
    return field(default=default, metadata=facts)
