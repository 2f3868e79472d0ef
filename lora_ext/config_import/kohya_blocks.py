"""Ranks and rates by block of the UNet: sd-scripts' lists of numbers, and our names of blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import UNSET, is_one_of

MOST = 12
"""Blocks on the way down, and up, of SD 1.x and 2.x; SDXL has fewer."""

DOWN, MID, UP = "down_lr_weight", "mid_lr_weight", "up_lr_weight"
HERE = {"rank": "block_rank", "alpha": "layer_rules"}
ITEM = re.compile(r"(IN|OUT)?(\d\d|MID|BASE)\s*=\s*([0-9.eE+-]+)")


def block_rates(values: Mapping[str, object], prefix: str, out: Import) -> None:
    """`down_lr_weight`, `mid_lr_weight`, `up_lr_weight` and `block_lr_zero_threshold` as `block_lr`.

    `prefix`: what stands before the keys in `out`. Weights of 1 say nothing and are left out.
    """
    given = {key: values[key] for key in (DOWN, MID, UP) if key in values}
    threshold = values.get("block_lr_zero_threshold")
    below = _number(threshold)
    if threshold is not None:
        out.skip(f"{prefix}block_lr_zero_threshold", "not set" if below is None else "read together with the weights")
    found: dict[str, float] = {}
    read: list[str] = []
    for key, value in given.items():
        if is_one_of(value, UNSET):
            out.skip(prefix + key, "not set")
            continue
        numbers = _numbers(value)
        if numbers is None or not 0 < len(numbers) <= (1 if key == MID else MOST):
            out.refuse(prefix + key, f"only lists of up to {MOST} numbers are read, not {value!r}; see block_lr")
            continue
        read.append(key)
        for block, number in zip(_names(key), numbers, strict=False):
            found[block] = 0.0 if below is not None and number <= below else number
    text = " ".join(f"{block}={number:g}" for block, number in found.items() if number != 1)
    for key in read:
        if text:
            out.put(prefix + key, "block_lr", text)
        else:
            out.skip(prefix + key, "all blocks learn alike")


def block_ranks(value: object, key: str, out: Import) -> None:
    """`block_dims` as `block_rank`."""
    found = _by_block(value, key, out, "rank")
    if found:
        out.put(key, "block_rank", " ".join(f"{name}={number:g}" for name, number in found.items()))


def block_alphas(value: object, key: str, out: Import) -> None:
    """`block_alphas` as `layer_rules` for attention and feed-forward; 3x3 convolutions have an alpha of their own."""
    blocks: dict[float, list[str]] = {}
    for name, number in _by_block(value, key, out, "alpha").items():
        if name != "BASE":
            blocks.setdefault(number, []).append(_path(name))
    rules = (f"unet:({'|'.join(paths)})\\..*(proj_|transformer_) => alpha={n:g}" for n, paths in blocks.items())
    if blocks:
        out.put(key, "layer_rules", " ; ".join(rules))


def _by_block(value: object, key: str, out: Import, what: str) -> Mapping[str, float]:
    """25 numbers for SD 1.x and 2.x; 23 for SDXL, whose three in the middle are one block here."""
    if is_one_of(value, UNSET):
        out.skip(key, "not set")
        return {}
    numbers = _numbers(value) or []
    if len(numbers) == 2 * MOST + 1:
        names = [*_names(DOWN), "MID", *_names(UP)]
    elif len(numbers) == 23 and len(set(numbers[10:13])) == 1 and numbers[0] == numbers[22]:
        names = ["BASE", *_names(DOWN)[:9], "MID", *_names(UP)[:9]]
        numbers = [*numbers[:11], *numbers[13:22]]
    else:
        out.refuse(key, f"25 numbers are read, or SDXL's 23 with one {what} in the middle; see {HERE[what]}")
        return {}
    return dict(zip(names, numbers, strict=True))


def _path(block: str) -> str:
    """A regular expression for where the names of a block's layers begin."""
    way = {"IN": "input_blocks", "OUT": "output_blocks"}.get(block[:-2])
    return f"{way}\\.{int(block[-2:])}" if way else "middle_block"


def as_weights(text: str) -> list[str] | None:
    """Our `block_lr` as sd-scripts' arguments; None for what it has no place for."""
    found = {f"{way or ''}{block}": float(number) for way, block, number in ITEM.findall(text.upper())}
    known = {*_names(DOWN), *_names(UP), "MID"}
    if not found or not found.keys() <= known or ITEM.sub("", text.upper()).strip(" ,;"):
        return None
    lists = {key: [found.get(name, 1.0) for name in _names(key)] for key in (DOWN, MID, UP)}
    return [f"{key}={','.join(f'{n:g}' for n in numbers)}" for key, numbers in lists.items()]


def _names(key: str) -> Sequence[str]:
    if key == MID:
        return ["MID"]
    return [f"{'IN' if key == DOWN else 'OUT'}{n:02d}" for n in range(MOST)]


def _numbers(value: object) -> list[float] | None:
    parts = value if isinstance(value, list) else str(value).split(",")
    numbers = [_number(part) for part in parts]
    return None if None in numbers else [n for n in numbers if n is not None]


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
