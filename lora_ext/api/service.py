"""The service that joins a host to the training: what the tab and the HTTP routes steer."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType

from lora_ext.api.forecast import Forecaster
from lora_ext.config import TrainConfig, Value, flat, read
from lora_ext.hosts.lora_name import check_name
from lora_ext.live import LiveModel
from lora_ext.training import Event, JobBoard, Saved, board, train
from lora_ext.ui import Service, Snapshot, labelled
from lora_ext.ui.service import ForecastView, ModelView

PRESETS = "training presets"
"""Folder of the user's own presets, in that of the LoRAs: in plain sight, because they are files to share."""

PAGE_KEY = secrets.token_urlsafe(24)
"""One for the process: a host's Reload UI makes a new service, and pages that are open go on working."""


def make_service(
    live: Callable[[], LiveModel],
    output_dir: Callable[[], Path],
    after_save: Callable[[Path], None] = lambda path: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Service:
    """The service over the process's one job.

    `live` gives the model when a run starts (it may raise `BadInput` when there is none that can be trained),
    `output_dir` the folder for LoRA files, `after_save` is called with every file written (in the run's thread),
    `should_stop` is asked between steps, for hosts with an interrupt button of their own.
    """
    return _Service(live, output_dir, after_save, should_stop, board)


class _Service:
    """`Service` over a job board."""

    def __init__(
        self,
        live: Callable[[], LiveModel],
        output_dir: Callable[[], Path],
        after_save: Callable[[Path], None],
        should_stop: Callable[[], bool],
        jobs: JobBoard,
    ) -> None:
        self._live = live
        self._output_dir = output_dir
        self._after_save = after_save
        self._should_stop = should_stop
        self._jobs = jobs
        self._forecaster = Forecaster(live, self.snapshot, self.values)

    @property
    def page_key(self) -> str:
        return PAGE_KEY

    def start(self, values: Mapping[str, object]) -> None:
        config = read(TrainConfig, values)
        output = output_path(config.save.output, self._output_dir())

        def begin() -> _Announced:
            return _Announced(train(self._live(), config, output=output), self._after_save)

        job = self._jobs.start(begin, output.stem, self._should_stop)
        _last_values.clear()
        _last_values[job.snapshot()["run"]] = flat(config)

    def stop(self) -> None:
        self._jobs.stop()

    def snapshot(self, after: int = 0) -> Snapshot:
        now = self._jobs.snapshot(after)
        # JSON has no NaN; a run that meets one says so itself.
        mean = now["loss_mean"] if now["loss_mean"] is not None and math.isfinite(now["loss_mean"]) else None
        losses = [point for point in now["losses"] if math.isfinite(point[1])]
        problems = [labelled(p["field"], p["text"]) for p in now["problems"]]
        return {**now, "loss_mean": mean, "losses": losses, "problems": problems}

    def preview(self, number: int) -> bytes | None:
        return self._jobs.preview(number)

    def values(self) -> Mapping[str, Value] | None:
        return _last_values.get(self._jobs.snapshot()["run"])

    def model(self) -> ModelView:
        return self._forecaster.model()

    def forecast(self, values: Mapping[str, object]) -> ForecastView:
        return self._forecaster.forecast(values)

    def fits(self, values: Mapping[str, Value]) -> bool:
        return self._forecaster.fits(values)

    @property
    def presets_folder(self) -> Path:
        return self._output_dir() / PRESETS


_last_values: dict[str, dict[str, Value]] = {}
"""Settings of the current or last run, by the run's id; like the board, it outlives a host's Reload UI."""


def output_path(name: str, folder: Path) -> Path:
    """Where a LoRA of this name is written: always right inside `folder`, and a name every system can hold.

    Raises `BadInput` for the field "output".
    """
    stem = name.strip().removesuffix(".safetensors")
    check_name(stem)
    return folder / f"{stem}.safetensors"


class _Announced(Generator[Event, None, None]):
    """A run that also tells `after_save` of every file; whatever is thrown in goes to the run itself."""

    def __init__(self, events: Generator[Event, None, None], after_save: Callable[[Path], None]) -> None:
        self._events = events
        self._after_save = after_save

    def send(self, value: None) -> Event:
        """Next event."""
        return self._tell(self._events.send(value))

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Event:
        """Next event after an exception inside the run."""
        return self._tell(self._events.throw(typ))

    def _tell(self, event: Event) -> Event:
        if isinstance(event, Saved):
            self._after_save(event.path)
        return event
