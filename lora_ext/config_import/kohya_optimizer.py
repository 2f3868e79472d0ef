"""The optimizer of sd-scripts and its arguments."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import OFF, UNSET, is_one_of

NAMES = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "pagedadamw8bit": "paged_adamw8bit",
    "adafactor": "adafactor",
    "lion": "lion",
    "prodigy": "prodigy",
    "adamwschedulefree": "adamw_schedulefree",
    "dadaptation": "dadapt_adam",
    "dadaptadam": "dadapt_adam",
    "came": "came",
}

_KEYS = ("optimizer_type", "optimizer")
_ARGUMENTS = ("optimizer_args", "optimizer_args_custom")
_OF_PRODIGY = {"prodigy_d0": "d0", "prodigy_d_coef": "d_coef"}


def optimizer(values: dict[str, object], out: Import) -> None:
    """Take the keys about the optimizer out of `values` into `out`."""
    for key, name in (("use_8bit_adam", "adamw8bit"), ("use_lion_optimizer", "lion")):
        if key in values:
            if is_one_of(values.pop(key), OFF):
                out.skip(key, "switched off")
            else:
                out.put(key, "optimizer", name)
    for key in _KEYS:
        if key in values:
            _name(key, values.pop(key), out)
    texts: list[str] = []
    for key in _ARGUMENTS:
        if key in values:
            texts += _arguments(key, values.pop(key), out)
    texts += _prodigy(values, texts, out)
    if texts:
        out.settings["optimizer_args"] = " ".join(texts)


def _prodigy(values: dict[str, object], texts: list[str], out: Import) -> list[str]:
    """What lora-scripts has keys for."""
    found: list[str] = []
    for key in [key for key in _OF_PRODIGY if key in values]:
        value = values.pop(key)
        if is_one_of(value, UNSET) or out.settings.get("optimizer") != "prodigy":
            out.skip(key, "the optimizer has no use for it")
        else:
            found.append(f"{_OF_PRODIGY[key]}={value}")
            out.put(key, "optimizer_args", " ".join([*texts, *found]))
    return found


def pairs(value: object) -> Iterator[tuple[str, str]]:
    """`["a=1", "b=2"]` or `a=1 b=2` as names and texts. Raises `ValueError`."""
    parts = value if isinstance(value, list) else shlex.split(str(value))
    for part in parts:
        name, sign, text = str(part).partition("=")
        if not sign or not name.strip():
            raise ValueError(part)
        yield name.strip(), text.strip()


def _name(key: str, value: object, out: Import) -> None:
    if is_one_of(value, UNSET):
        out.skip(key, "not set")
        return
    text = str(value).strip()
    if text.lower() in NAMES:
        out.put(key, "optimizer", NAMES[text.lower()])
    elif "." in text:
        out.put(key, "optimizer", "custom")
        out.settings["optimizer_class"] = text
    else:
        out.refuse(key, f"{text} is not built in; give its dotted name as optimizer_class")


def _arguments(key: str, value: object, out: Import) -> list[str]:
    """Arguments as our text; the weight decay has a setting of its own."""
    if is_one_of(value, OFF):
        out.skip(key, "not set")
        return []
    try:
        found = list(pairs(value))
    except ValueError:
        out.refuse(key, f"its value cannot be read: {value!r}")
        return []
    texts = [f"{name}=({text})" if "," in text and text[:1] not in "([" else f"{name}={text}"
             for name, text in found if name != "weight_decay"]  # fmt: skip
    for name, text in found:
        if name == "weight_decay":
            out.put(f"{key}.{name}", name, text)
    if texts:
        out.put(key, "optimizer_args", " ".join(texts))
    else:
        out.skip(key, "all of it is set by itself")
    return texts
