"""What a run will take, told before it starts: the loaded model, its card, the pictures and the settings together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from lora_ext.api.speed import reached
from lora_ext.config import TrainConfig, Value, read, settings
from lora_ext.data import data_sets
from lora_ext.data.folder import Walk
from lora_ext.errors import BadInput
from lora_ext.layers import FAMILY_TITLES
from lora_ext.live import LiveModel
from lora_ext.training.estimate import Card, Estimate, estimate, free_and_total
from lora_ext.ui import Snapshot, labelled
from lora_ext.ui.service import CardView, ForecastView, ModelView

USABLE = 0.94
"""Of a card's memory, where the free part cannot be told because a run uses it."""

TIMED = 10
"""Steps of a run after which its own speed is worth more than a guess."""


class Forecaster:
    """`live` gives the model, `snapshot` and `values` the current or last run. Reads shapes, changes nothing."""

    def __init__(
        self,
        live: Callable[[], LiveModel],
        snapshot: Callable[[], Snapshot],
        values: Callable[[], Mapping[str, Value] | None],
    ) -> None:
        self._live = live
        self._snapshot = snapshot
        self._values = values
        self._timed: dict[str, float] = {}
        """FLOP per second that a run reached, by its id; taken while it goes on, when its model is the loaded one."""

    def model(self) -> ModelView:
        """The model that would be trained. Raises `BadInput` where there is none."""
        live = self._live()
        arch = live.architecture
        return {
            "name": live.checkpoint.name,
            "file": live.checkpoint.filename,
            "family": arch.family,
            "title": FAMILY_TITLES[arch.family],
            "prediction_type": arch.prediction_type,
            "inpainting": arch.inpainting,
            "card": self._card_view(live),
        }

    def forecast(self, values: Mapping[str, object]) -> ForecastView:
        """What a run with these settings will take. Raises `BadInput` for wrong settings, or without a model.

        Folder and name may be missing still.
        """
        config = filled_in(values)
        live = self._live()
        card = self._card(live, config)
        pictures = count(config)
        seen = _steps(config, pictures)
        timed = self._rate(live, card)
        flops = timed or reached(live.device, card.compute, live.architecture.family, config.data.batch_size)
        found = estimate(config, live.architecture, live.table, None, replace(card, flops=flops))
        return {
            "memory": found.peak_vram_bytes if live.device.type == "cuda" else None,
            "free": card.free_bytes,
            "fits": found.fits,
            "parts": [{"name": part.name, "bytes": part.bytes} for part in found.parts],
            "steps": seen,
            "pictures": pictures,
            "seconds": _seconds(found, seen),
            "timed": timed is not None,
            "file": found.file_bytes,
            "advice": [labelled(advice.field, advice.text) for advice in found.advice],
        }

    def fits(self, values: Mapping[str, Value]) -> bool:
        """Whether a run with these settings fits the card; yes where there is none. Raises `BadInput`."""
        live = self._live()
        config = filled_in(values)
        return estimate(config, live.architecture, live.table, None, self._card(live, config)).fits is not False

    def _running(self) -> bool:
        return self._snapshot()["state"] not in ("idle", "done", "stopped", "failed")

    def _card(self, live: LiveModel, config: TrainConfig) -> Card:
        card = Card.of(live, config.optim.precision)
        if live.device.type == "cuda" and self._running():
            total = free_and_total(live.device)[1]
            return replace(card, free_bytes=int(USABLE * total))
        return card

    def _card_view(self, live: LiveModel) -> CardView | None:
        if live.device.type != "cuda":
            return None
        free = None if self._running() else Card.of(live, "auto").free_bytes
        total = free_and_total(live.device)[1]
        return {"name": torch.cuda.get_device_name(live.device), "total": total, "free": free}

    def _rate(self, live: LiveModel, card: Card) -> float | None:
        """FLOP per second of the current or last run, once it has done some steps."""
        now, values = self._snapshot(), self._values()
        if values is not None and now["step"] >= TIMED and now["seconds"] > 0 and self._running():
            step = estimate(read(TrainConfig, values), live.architecture, live.table, None, card).step_flops
            self._timed = {now["run"]: step * now["step"] / now["seconds"]}
        return next(iter(self._timed.values()), None)


def filled_in(values: Mapping[str, object]) -> TrainConfig:
    """Settings as they stand in an unfinished form. Raises `BadInput` for what is wrong, not for what is missing."""
    known = settings(TrainConfig)
    missing = {name: "?" for name, s in known.items() if s.needed and not str(values.get(name) or "").strip()}
    return read(TrainConfig, {**values, **missing})


def count(config: TrainConfig) -> int | None:
    """How many pictures an epoch shows, repeats counted; None where a folder is not there."""
    total = 0
    try:
        for one in data_sets(config.data):
            found = _in_folder(Path(one.images).expanduser(), one.repeats)
            total += 0 if one.regularisation else found
    except (BadInput, OSError, RuntimeError, ValueError):
        return None
    if config.data.regularisation_images.strip():
        total *= 2  # as many of them are shown as of the user's own
    return math.ceil(total * (1 - config.data.validation_share / 100)) or None


def _in_folder(folder: Path, repeats: int) -> int:
    return sum(len(each.pictures()) * (each.repeats or repeats) for each in Walk(folder).folders())


def _steps(config: TrainConfig, pictures: int | None) -> int | None:
    if config.optim.max_steps:
        return config.optim.max_steps
    if pictures is None:
        return None
    batches = math.ceil(pictures / config.data.batch_size)
    return config.optim.epochs * math.ceil(batches / config.optim.accumulate)


def _seconds(found: Estimate, steps: int | None) -> float | None:
    return None if found.seconds_per_step is None or steps is None else found.seconds_per_step * steps
