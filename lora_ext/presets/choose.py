"""From a goal to all settings of a run, and to the sentences that say what was chosen and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lora_ext.config import Value
from lora_ext.presets.case import Case, Said
from lora_ext.presets.fitting import Fits, fitted, rough
from lora_ext.presets.recipes import RECIPES, dish, why

FILES = 5
"""So many files are saved on the way, so that the best one can be chosen."""

ENOUGH_TO_HOLD_OUT = 40
"""Pictures; with fewer, each is needed for learning."""


@dataclass(frozen=True)
class Suggestion:
    """A set of settings, and what is to be said about it, in order."""

    settings: Mapping[str, Value]
    reasons: tuple[Said, ...]


def choose(case: Case, fits: Fits | None = None) -> Suggestion:
    """The preset for a case. `fits` tells whether settings fit the card; without it a rule of thumb does."""
    settings, memory = fitted(case, dish(case), fits or rough(case))
    length, said = _length(case, int(settings["batch_size"]))
    settings |= length
    shown: tuple[Said, ...] = ()
    if case.captions:
        settings |= {"preview_prompt": "\n".join(case.captions)}
        shown = (Said("Previews show what your captions say. Captions taken for that: {0}.", (len(case.captions),)),)
    return Suggestion(settings, (said, *why(case, settings), *shown, *memory))


def _length(case: Case, batch: int) -> tuple[dict[str, Value], Said]:
    """How long to train. A few pictures are seen often, many pictures seldom; both within bounds.

    A larger batch takes fewer steps at the same learning rate, so it sees more pictures: by the root of its size.
    """
    recipe = RECIPES[case.goal]
    seen = recipe.seen * math.sqrt(batch)
    if not case.pictures:
        steps = round(seen / batch)
        text = "About {0} steps; once the pictures are there, press again and the number fits them."
        return {"epochs": 10, "max_steps": steps, **_on_the_way(steps)}, Said(text, (_thousands(steps),))
    wanted = round(seen / case.pictures)
    epochs = max(recipe.least_epochs, min(wanted, recipe.most_epochs))
    steps = epochs * math.ceil(case.pictures / batch)
    settings: dict[str, Value] = {"epochs": epochs, "max_steps": 0, **_on_the_way(steps)}
    if case.pictures >= ENOUGH_TO_HOLD_OUT:
        settings |= {"validation_share": 5.0}
    counted = (epochs, case.pictures, _thousands(steps))
    if wanted > recipe.most_epochs:
        text = "{0} epochs of your {1} pictures, about {2} steps; more pictures would do better than more epochs."
    else:
        text = "{0} epochs of your {1} pictures, about {2} steps."
    return settings, Said(text, counted)


def _on_the_way(steps: int) -> dict[str, Value]:
    """Files, states and previews while it runs."""
    every = _tens(steps / FILES)
    return {
        "save_every_steps": every,
        "save_every_epochs": 0,
        "state_every": every,
        "preview_every": _tens(steps / (2 * FILES)),
        "validation_every": _tens(steps / (4 * FILES)),
    }


def _tens(number: float) -> int:
    return max(10, round(number / 10) * 10)


def _thousands(number: int) -> str:
    """Rounded to two digits: 1473 -> 1,500."""
    digits = max(0, len(str(number)) - 2)
    return f"{round(number, -digits):,}"
