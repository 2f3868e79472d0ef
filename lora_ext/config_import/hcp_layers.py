"""HCP-Diffusion's lists of layers: patterns over diffusers' names, each with a rank and a rate of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lora_ext.config_import.outcome import Import

_SAME_NAMES = re.compile(
    r"""(?x) re: (?:\.\*)? \\?\.? (?P<last>
        attn\.\? | attn[12]? | to_(?:[qkv]|out) | ff | proj_in | proj_out | self_attn | mlp | [qkv]_proj | out_proj
    ) \$?"""
)
"""Patterns over the last parts of a name, which are the same in diffusers as in checkpoints."""

_NUMBERS = ("rank", "alpha", "lr", "dropout")


def lora_items(unet: object, text: object, out: Import) -> None:
    """Both lists into `out`: the first item's numbers are the run's own, all of them are rules for their layers."""
    patterns: list[str] = []
    rules: list[str] = []
    found = [("lora_unet", unet, "unet:"), ("lora_text_encoder", text, r"te\d:")]
    for name, items, start in found:
        if not isinstance(items, list):
            if items is not None:
                out.refuse(name, "a list is expected")
            continue
        for i, item in enumerate(items):
            if isinstance(item, dict):
                pattern = _item(f"{name}.{i}", item, start, out)
                if pattern:
                    patterns.append(pattern)
                    rules.append(_rule(pattern, item))
    if patterns:
        out.settings["only_layers"] = "|".join(patterns)
        if len(rules) > 1:
            out.settings["layer_rules"] = "; ".join(filter(None, rules))


def _item(place: str, item: Mapping[str, object], start: str, out: Import) -> str:
    """Take one item's keys over; returns the pattern of its layers, empty when it cannot be said here."""
    main = start == "unet:"
    for key in (*_NUMBERS, *(k for k in item if k not in (*_NUMBERS, "layers"))):
        if item.get(key) is None:
            continue
        value = item[key]
        where = f"{place}.{key}"
        if key == "lr":
            out.put(where, "learning_rate" if main else "text_encoder_lr", value)
        elif key == "rank" and isinstance(value, float) and value < 1:
            out.refuse(where, "ranks are whole numbers here")
        elif key in ("rank", "alpha") and main and place.endswith(".0"):
            out.put(where, key, value)
        elif key in _NUMBERS:
            out.put(where, "layer_rules", _rule("x", {key: value}))
        else:
            out.refuse(where, "nobody told this trainer what it means")
    if "rank" in item and "alpha" not in item and main and place.endswith(".0"):
        out.assume("alpha", 1.0)
    return _pattern(f"{place}.layers", item.get("layers"), start, out)


def _pattern(place: str, layers: object, start: str, out: Import) -> str:
    """One regular expression for all of an item's layers."""
    lasts: list[str] = []
    for text in layers if isinstance(layers, list) else []:
        match = _SAME_NAMES.fullmatch(str(text).replace("\\.", "."))
        if match is None:
            out.refuse(place, f"{text} names layers as diffusers does; say them in only_layers")
            return ""
        last = match["last"]
        lasts.append(r"attn\d?" if last in ("attn.?", "attn") else last)
    if not lasts:
        if layers is not None:
            out.skip(place, "not set")
        return ""
    pattern = rf"^{start}.*\.(?:{'|'.join(dict.fromkeys(lasts))})(?:\.|$)"
    out.put(place, "only_layers", pattern)
    return pattern


def _rule(pattern: str, item: Mapping[str, object]) -> str:
    numbers = " ".join(f"{key}={item[key]}" for key in _NUMBERS if item.get(key) is not None)
    return f"{pattern} => {numbers}" if numbers else ""
