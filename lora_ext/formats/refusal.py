"""What is said about a network file that is not for the loaded model."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.formats.family import CROSS_ATTENTION, foreign_model
from lora_ext.formats.names import NameTable
from lora_ext.formats.tensor_names import grouped, kind_title, split_blindly
from lora_ext.layers import FAMILY_TITLES, Family

SHOWN = 8
"""Problems and names listed in one message; the rest is counted."""
MISFIT = "does not fit a layer of shape"
"""How adapters say that a tensor has another size."""
ELSEWHERE = "It is damaged or for another model."
ANEW = "Download it or train it again."
CHECKPOINT_SIGN = "model.diffusion_model."


def refuse_other_models(
    path: Path, names: NameTable, family: Family | None, keys: Collection[str], matched: int, unmatched: Sequence[str]
) -> None:
    """Raise `BadInput` when the file is for another model: of a kind unknown here, or of another family with layers
    that this one has not, a tenth of all at least. `matched` counts the layers that were found."""
    foreign = foreign_model(keys)
    if foreign is not None and len(unmatched) > matched:
        raise _wrong_model(path, names, foreign)
    missing = sum(split_blindly(key) is not None for key in unmatched)
    if family not in (None, names.table.family) and (not matched or missing * 10 >= len(keys)):
        raise _wrong_model(path, names, FAMILY_TITLES[family])


def nothing_fits(path: Path, names: NameTable, tensors: Mapping[str, Tensor]) -> BadInput:
    """The file has no layer of the loaded model, or none of a kind that can be read."""
    title = FAMILY_TITLES[names.table.family]
    what = f"no tensor fits the loaded {title} model"
    fix = "Use a network made for this model."
    if any(names.split(key) for key in tensors):
        kinds = sorted({kind_title(group) for group in grouped(tensors).values()} - {"unknown"})
        if kinds:
            what = f"the file is a {', '.join(kinds)} of a kind that cannot be read"
            fix = "Have the trainer that made it save a plain LoRA."
        elif any(key.startswith(CHECKPOINT_SIGN) for key in tensors):
            what, fix = "this is a whole checkpoint, not a network", "Choose it as the model."
    got = few(sorted(tensors)) or "no tensors"
    return BadInput(Problem(os.fspath(path), what, f"a LoRA or another network for {title}", got, fix))


def broken_layers(
    path: Path, names: NameTable, family: Family | None, problems: Sequence[Problem], broken: int, layers: int
) -> BadInput:
    """`broken` of `layers` layers have tensors that cannot be used; `problems` say why, one or more for each.

    The other layers are not used either: see `read_network`.
    """
    if family not in (None, names.table.family):
        return _wrong_model(path, names, FAMILY_TITLES[family])
    misfits = broken > 1 and all(MISFIT in problem.what for problem in problems)
    if misfits and (broken == layers or any(CROSS_ATTENTION.search(problem.field) for problem in problems)):
        title = FAMILY_TITLES[names.table.family]
        sizes = f"{broken} of its {layers} layers have another size than the loaded {title} model's"
        first = problems[0]
        where = first.field.removeprefix(f"{os.fspath(path)}: ")
        return BadInput(
            Problem(
                os.fspath(path),
                f"{sizes}: it is for another model",
                f"{where} of {first.expected}",
                first.got,
                "Load that model.",
            )
        )
    are = "is" if broken == 1 else "are"
    verdict = f"Nothing of the file is used, as {broken} of its {layers} layers {are} broken."
    first, *others = problems
    return several([replace(first, fix=f"{first.fix} {verdict}"), *others])


def placed(problem: Problem, field: str) -> Problem:
    """A layer's problem, with the tensor's place, and what to do if the problem itself does not tell."""
    return replace(problem, field=field, fix=problem.fix or (ELSEWHERE if MISFIT in problem.what else ANEW))


def several(problems: Sequence[Problem]) -> BadInput:
    """As many problems as one reads; the rest is counted."""
    if len(problems) <= SHOWN:
        return BadInput(*problems)
    rest = Problem(problems[0].field.split(": ")[0], f"and {len(problems) - SHOWN} more problems of this sort")
    return BadInput(*problems[:SHOWN], rest)


def few(keys: Sequence[str]) -> str:
    """The first names, cut to what one reads, and how many more there are."""
    shown = ", ".join(key[:80] for key in keys[:3])
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _wrong_model(path: Path, names: NameTable, made_for: str) -> BadInput:
    loaded = FAMILY_TITLES[names.table.family]
    return BadInput(
        Problem(
            os.fspath(path),
            f"this network is for {made_for}, the loaded model is {loaded}",
            f"one for {loaded}",
            made_for,
            f"Load a {made_for} checkpoint or use another network.",
        )
    )
