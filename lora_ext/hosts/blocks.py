"""Block weights: how much of a LoRA each block of the model gets, as sd-webui-lora-block-weight's users write them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lora_ext.errors import BadInput, Problem
from lora_ext.layers import LayerName

LIMIT = 100.0
"""Largest block weight taken for meant."""

BASE = "BASE"
"""The text encoders."""

PLACES: Mapping[int, tuple[str, ...]] = {
    count: (BASE, *(f"IN{n:02}" for n in inside), "M00", *(f"OUT{n:02}" for n in outside))
    for count, inside, outside in (
        (12, (4, 5, 7, 8), range(6)),  # SDXL, the blocks a LoRA has
        (17, (1, 2, 4, 5, 7, 8), range(3, 12)),  # SD 1.x and 2.x, the blocks a LoRA has
        (20, range(9), range(9)),  # SDXL, every block
        (26, range(12), range(12)),  # SD 1.x and 2.x, every block
    )
}
"""Which block each number of a list is for, by the length of the list."""

DEFAULT_PRESETS: Mapping[str, str] = {
    "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    "ALL0.5": "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5",
}
"""The names that extension starts with; its users add their own in `lbwpresets.txt`."""

_INHERITED = re.compile(r"X(?:([+-])(\d+(?:\.\d*)?|\.\d+))?")
_UNET_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)(?:\.(\d+))?\b")


@dataclass(frozen=True)
class BlockWeights:
    """A factor per block. `count` is the length of the list it was written as."""

    count: int
    factors: Mapping[str, float]

    def factor(self, layer: LayerName) -> float:
        """What the strength on `layer` is multiplied by.

        Blocks that the list has no place for get 0; layers of no block (`time_embed`, `out`) keep all of it.
        """
        block = block_of(layer)
        return 1.0 if block is None else self.factors.get(block, 0.0)

    def unnamed(self, layers: Iterable[LayerName]) -> tuple[str, ...]:
        """Blocks of `layers` that the list has no place for, in the model's order."""
        blocks = {block_of(layer) for layer in layers} - {None, *self.factors}
        return tuple(block for block in PLACES[26] if block in blocks)


def block_of(layer: LayerName) -> str | None:
    """`BASE`, `IN00`-`IN11`, `M00`, `OUT00`-`OUT11`, or None for the few layers outside of all blocks."""
    if layer.component != "unet":
        return BASE
    found = _UNET_BLOCK.match(layer.path)
    if not found:
        return None
    if found[1] == "middle_block":
        return "M00"
    return f"{'IN' if found[1] == 'input_blocks' else 'OUT'}{int(found[2] or 0):02}"


def read_presets(text: str) -> dict[str, str]:
    """The lines `NAME:number,number,…` of a preset file; every other line is a comment to its extension too."""
    lines = (line.partition(":") for line in text.splitlines() if "#" not in line)
    return {name.strip(): value.strip() for name, sign, value in lines if sign and value.count(",") + 1 in PLACES}


def looks_like_blocks(text: str, presets: Mapping[str, str]) -> bool:
    """Whether an unnamed part of a tag is meant as block weights: the name of a preset, or numbers with commas."""
    return text in presets or ("," in text and "@" not in text and "~" not in text)


def read_blocks(text: str, presets: Mapping[str, str], inherited: float = 1.0) -> BlockWeights:
    """Read a list of 12, 17, 20 or 26 numbers, or the name of one. `X`, `X+n` and `X-n` stand for `inherited`.

    Raises `BadInput` for the field "lbw"; also for `R` and `U`, which that extension draws by chance.
    """
    words = [word.strip() for word in presets.get(text, text).split(",")]
    if len(words) == 1:
        raise BadInput(_unknown(text, presets))
    if len(words) not in PLACES:
        lengths = "12, 17, 20 or 26 numbers with commas, or the name of a preset"
        raise BadInput(Problem("lbw", "these block weights fit no model", lengths, f"{len(words)} of them"))
    numbers = [_number(word, inherited) for word in words]
    return BlockWeights(len(words), dict(zip(PLACES[len(words)], numbers, strict=True)))


def _number(word: str, inherited: float) -> float:
    if word in ("R", "U"):
        what = "block weights that are drawn by chance are not supported"
        raise BadInput(Problem("lbw", what, "a number, or X for the number after the preset", word))
    found = _INHERITED.fullmatch(word)
    try:
        value = _inherit(found, inherited) if found else float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= LIMIT:
        raise BadInput(
            Problem("lbw", "a block weight cannot be used", f"a number from {-LIMIT:g} to {LIMIT:g}", repr(word))
        )
    return value


def _inherit(found: re.Match[str], inherited: float) -> float:
    if found[1] is None:
        return inherited
    return inherited + (float(found[2]) if found[1] == "+" else -float(found[2]))


def _unknown(text: str, presets: Mapping[str, str]) -> Problem:
    near = difflib.get_close_matches(text, presets, n=1)
    fix = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(presets)}."
    return Problem("lbw", "there are no block weights of this name", got=repr(text), fix=fix)
