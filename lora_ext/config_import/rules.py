"""Rules for foreign keys: tables of them say what each key becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lora_ext.config import Value
from lora_ext.config_import.outcome import Import

UNSET: tuple[object, ...] = ("", None)
OFF: tuple[object, ...] = (*UNSET, False, 0, "0", "false", "False", "none", "None", [])


class Refusal(Exception):
    """Raised by a conversion: the value asks for what is not done here."""


@dataclass(frozen=True)
class To:
    """The key becomes a setting, its value as it is or converted."""

    setting: str
    convert: Callable[[object], object] | None = None


@dataclass(frozen=True)
class When:
    """A switch that, when it is on, sets a setting to a value."""

    setting: str
    value: Value


@dataclass(frozen=True)
class Absent:
    """An option we do not have: refused, unless it is off."""

    why: str
    off: tuple[object, ...] = OFF


@dataclass(frozen=True)
class Idle:
    """Says nothing here, whatever it says."""

    why: str


Rule = To | When | Absent | Idle


def apply(rule: Rule, key: str, value: object, out: Import) -> None:
    """Put one key where it belongs."""
    if isinstance(rule, Idle):
        out.skip(key, rule.why)
    elif isinstance(rule, Absent):
        if is_one_of(value, rule.off):
            out.skip(key, "switched off, or as it is here anyway")
        else:
            out.refuse(key, rule.why)
    elif isinstance(rule, When):
        if is_one_of(value, OFF):
            out.skip(key, "switched off")
        else:
            out.put(key, rule.setting, rule.value)
    elif is_one_of(value, UNSET):
        out.skip(key, "not set")
    else:
        try:
            converted = rule.convert(value) if rule.convert else value
        except Refusal as e:
            out.refuse(key, str(e))
        except (ValueError, TypeError, OverflowError):
            out.refuse(key, f"its value cannot be read: {value!r}")
        else:
            out.put(key, rule.setting, converted)


def apply_all(table: Mapping[str, Rule], values: Mapping[str, object], out: Import, prefix: str = "") -> None:
    """Put every key where a table says; those it does not know are refused by name."""
    for key, value in values.items():
        rule = table.get(key)
        if rule is None:
            out.refuse(prefix + key, "nobody told this trainer what it means")
        else:
            apply(rule, prefix + key, value, out)


def is_one_of(value: object, values: Iterable[object]) -> bool:
    """Membership that tells True from 1 and lets text be compared without blanks."""
    plain = value.strip() if isinstance(value, str) else value
    return any(type(plain) is type(one) and plain == one for one in values) or (
        isinstance(plain, float) and plain == 0 and 0 in [one for one in values if type(one) is int]
    )
