"""What a setting is, and how one is declared: a field of a frozen dataclass whose metadata says everything about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_ext.config.relevance import Either, When

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
    of_run: bool
    """About these pictures or this file, not about how to learn: never part of a preset."""
    when: tuple[Either, ...]
    """Without effect unless all of these hold; see `config.relevance`."""


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
    of_run: bool = False,
    when: Sequence[When | Either] = (),
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
        "of_run": of_run,
        "when": tuple((one,) if isinstance(one, When) else one for one in when),
    }
    return field(default=default, metadata=facts)
