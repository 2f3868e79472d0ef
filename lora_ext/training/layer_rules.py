"""Own numbers for some layers: by pattern, and by block of the UNet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Layer, LayerTable
from lora_ext.training.option_text import parse_options

ARROW = "=>"
BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Rule:
    """Numbers for layers whose name `pattern` is found in; None leaves the general setting."""

    pattern: re.Pattern[str]
    rank: int | None = None
    alpha: float | None = None
    rate: float | None = None
    dropout: float | None = None


def compiled(field: str, pattern: str) -> re.Pattern[str]:
    """A regular expression; an empty one fits all. Raises `BadInput` for `field`."""
    try:
        return re.compile(pattern.strip())
    except re.error as e:
        raise BadInput(Problem(field, "this is no regular expression", got=f"{pattern.strip()!r} ({e})")) from e


def rules(field: str, text: str) -> Sequence[Rule]:
    """`REGEX => rank=8 alpha=4 lr=5e-5 dropout=0.1`, one per line or with `;` between them. Raises `BadInput`."""
    problems: list[Problem] = []
    found: list[Rule] = []
    for line in re.split(r"[;\n]", text):
        if line.strip():
            try:
                found.append(_rule(field, line))
            except BadInput as e:
                problems += e.problems
    if problems:
        raise BadInput(*problems)
    return found


def block_of(layer: Layer) -> str:
    """IN00 …, MID, OUT00 … or BASE of a layer of the UNet (the names of block weights in prompts); TE of others."""
    if layer.name.component != "unet":
        return "TE"
    match = BLOCK.match(layer.name.path)
    if match:
        return f"{'IN' if match[1] == 'input_blocks' else 'OUT'}{int(match[2]):02d}"
    return "MID" if layer.name.path.startswith("middle_block.") else "BASE"


def block_numbers(field: str, text: str, table: LayerTable) -> Mapping[str, float]:
    """`IN04=0.5 MID=0`: a number by block. Raises `BadInput` for blocks that this model does not have."""
    given = {name.upper(): value for name, value in parse_options(field, text).items()}
    known = sorted({block_of(layer) for layer in table.layers.values()} - {"TE"})
    problems = [Problem(field, "this model has no such block", ", ".join(known), n) for n in given if n not in known]
    problems += [
        Problem(field, "this is no number of 0 or more", got=f"{name}={value}")
        for name, value in given.items()
        if not _number(value)
    ]
    if problems:
        raise BadInput(*problems)
    return {name: float(str(value)) for name, value in given.items()}


def _rule(field: str, line: str) -> Rule:
    pattern, arrow, options = line.rpartition(ARROW)
    if not arrow or not pattern.strip():
        raise BadInput(Problem(field, "this is no rule", f"REGEX {ARROW} rank=8 lr=5e-5", repr(line.strip())))
    given = parse_options(field, options)
    unknown = [name for name in given if name not in ("rank", "alpha", "lr", "dropout")]
    if unknown or not given:
        raise BadInput(Problem(field, "a rule can set", "rank, alpha, lr, dropout", ", ".join(unknown) or "nothing"))
    for name, value in given.items():
        whole = name != "rank" or isinstance(value, int)
        if not _number(value) or not whole or (name == "dropout" and float(str(value)) >= 1):
            raise BadInput(Problem(field, f"{name} cannot have this value", got=repr(value)))
    numbers = {name: float(str(value)) for name, value in given.items()}
    rank = numbers.get("rank")
    return Rule(
        compiled(field, pattern),
        None if rank is None else int(rank),
        numbers.get("alpha"),
        numbers.get("lr"),
        numbers.get("dropout"),
    )


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
