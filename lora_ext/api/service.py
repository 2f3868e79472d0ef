"""The service that joins a host to the training: what the tab and the HTTP routes steer."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from lora_ext.api.choice import Choice
from lora_ext.api.forecast import Forecaster
from lora_ext.api.reach import Reach
from lora_ext.api.waiting import Waiting
from lora_ext.config import TrainConfig, Value, flat, read
from lora_ext.data import data_sets
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.lora_name import check_name
from lora_ext.live import LiveModel
from lora_ext.training import Event, Job, JobBoard, Saved, board, check, train
from lora_ext.training.queue import JobQueue, queue
from lora_ext.training.queue_file import NAME as QUEUE_FILE
from lora_ext.training.snapshot import LineView, PreviewView
from lora_ext.ui import Service, Snapshot, labelled
from lora_ext.ui.service import ForecastView, ModelView, ResultView

PRESETS = "training presets"
"""Folder of the user's own presets, in that of the LoRAs: in plain sight, because they are files to share."""

ANYWHERE = Reach(True, tuple)

PAGE_KEY = secrets.token_urlsafe(24)
"""One for the process: a host's Reload UI makes a new service, and pages that are open go on working."""


def make_service(
    live: Callable[[], LiveModel],
    output_dir: Callable[[], Path],
    after_save: Callable[[Path], None] = lambda path: None,
    should_stop: Callable[[], bool] = lambda: False,
    reach: Reach = ANYWHERE,
) -> Service:
    """The service over the process's one job and one queue.

    `live` gives the model when a run starts (it may raise `BadInput` when there is none that can be trained),
    `output_dir` the folder for LoRA files, `after_save` is called with every file written (in the run's thread),
    `should_stop` is asked between steps, for hosts with an interrupt button of their own, `reach` says which paths a
    caller may name.
    """
    return _Service(live, output_dir, after_save, should_stop, reach, board, queue)


class _Service:
    """`Service` over a job board and a queue."""

    def __init__(
        self,
        live: Callable[[], LiveModel],
        output_dir: Callable[[], Path],
        after_save: Callable[[Path], None],
        should_stop: Callable[[], bool],
        reach: Reach,
        jobs: JobBoard,
        row: JobQueue,
    ) -> None:
        self._live = live
        self._output_dir = output_dir
        self._after_save = after_save
        self._should_stop = should_stop
        self._jobs = jobs
        self._row = row
        self.reach = reach
        self.job = Steer(jobs)
        self.choosing = Choice(live, output_dir, jobs, after_save, should_stop)
        self._forecaster = Forecaster(live, self.snapshot, self.values)

    @property
    def page_key(self) -> str:
        return PAGE_KEY

    @property
    def queue(self) -> Waiting:
        return Waiting(self._attached(), self._check, self._output_dir)

    def readable(self, values: Mapping[str, object]) -> TrainConfig:
        config = read(TrainConfig, values)
        self._within_reach(config)
        return config

    def check(self, values: Mapping[str, object]) -> None:
        self._check(read(TrainConfig, values))

    def start(self, values: Mapping[str, object]) -> None:
        config = read(TrainConfig, values)
        output_path(config.save.output, self._output_dir())
        self._attached().start(config.save.output, flat(config))

    def stop(self) -> None:
        self.job.stop()

    def snapshot(self, after: int = 0) -> Snapshot:
        now = self._jobs.snapshot(after)
        # JSON has no NaN; a run that meets one says so itself.
        mean = now["loss_mean"] if now["loss_mean"] is not None and math.isfinite(now["loss_mean"]) else None
        problems = [labelled(p["field"], p["text"]) for p in now["problems"]]
        losses, rates, held_out = (_finite(now[kind]) for kind in ("losses", "rates", "validation"))
        return {
            **now,
            "loss_mean": mean,
            "losses": losses,
            "rates": rates,
            "validation": held_out,
            "problems": problems,
        }

    def lines(self, after: int = 0) -> list[LineView]:
        return self._jobs.job.lines(after) if self._jobs.job else []

    def previews(self) -> list[PreviewView]:
        return self._jobs.job.previews() if self._jobs.job else []

    def preview(self, number: int, small: bool = False) -> bytes | None:
        if self._jobs.job is None:
            return None
        return self._jobs.job.thumbnail(number) if small else self._jobs.job.preview(number)

    def results(self) -> list[ResultView]:
        found = [_result(path) for path in self._output_dir().glob("*.safetensors") if path.is_file()]
        return sorted(found, key=lambda result: -result["changed"])

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

    def _attached(self) -> JobQueue:
        """The queue, which begins its jobs through the newest service."""
        self._row.attach(self._begin, self._output_dir() / QUEUE_FILE)
        return self._row

    def _begin(self, values: Mapping[str, Value]) -> Job:
        config = read(TrainConfig, values)
        output = output_path(config.save.output, self._output_dir())
        self._within_reach(config)

        def begin() -> _Announced:
            return _Announced(train(self._live(), config, output=output), self._after_save)

        job = self._jobs.start(begin, output.stem, self._should_stop)
        _last_values.clear()
        _last_values[job.snapshot()["run"]] = flat(config)
        return job

    def _check(self, config: TrainConfig) -> None:
        output = output_path(config.save.output, self._output_dir())
        self._within_reach(config)
        check(self._live(), config, output)

    def _within_reach(self, config: TrainConfig) -> None:
        problems: list[Problem] = []
        for name, path in named_paths(config):
            try:
                self.reach.check(Path(path), name)
            except BadInput as e:
                problems += e.problems
        if problems:
            raise BadInput(*problems)


class Steer:
    """`Steering` over a job board."""

    def __init__(self, jobs: JobBoard) -> None:
        self._jobs = jobs

    def stop(self) -> None:
        """Stop and keep what is learnt."""
        if self._jobs.job:
            self._jobs.job.stop()

    def abort(self) -> None:
        """End and save nothing more."""
        if self._jobs.job:
            self._jobs.job.abort()

    def pause(self) -> None:
        """Give the model back to the host after the step."""
        if self._jobs.job:
            self._jobs.job.pause()

    def go_on(self) -> None:
        """End the pause."""
        if self._jobs.job:
            self._jobs.job.go_on()

    def save_now(self) -> None:
        """Save a file of what is learnt so far."""
        if self._jobs.job:
            self._jobs.job.save_now()

    def preview_now(self) -> None:
        """Render previews of what is learnt so far."""
        if self._jobs.job:
            self._jobs.job.preview_now()


_last_values: dict[str, dict[str, Value]] = {}
"""Settings of the current or last run, by the run's id; like the board, it outlives a host's Reload UI."""


OF_A_SET = ("images", "mask_folder", "caption_file")
"""Settings of a data set that name a file or folder."""


def named_paths(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Every file or folder that the settings name, with the setting that names it."""
    own, *others = data_sets(config.data)
    named = [(name, getattr(own, name)) for name in OF_A_SET]
    named += [("cache_folder", config.data.cache_folder), ("start_from", config.network.start_from)]
    if config.data.regularisation_images.strip():
        named.append(("regularisation_images", others.pop(0).images))
    named += [("datasets", getattr(one, name)) for one in others for name in OF_A_SET]
    yield from ((name, path.strip()) for name, path in named if path.strip())


def output_path(name: str, folder: Path) -> Path:
    """Where a LoRA of this name is written: always right inside `folder`, and a name every system can hold.

    Raises `BadInput` for the field "output".
    """
    stem = name.strip().removesuffix(".safetensors")
    check_name(stem)
    return folder / f"{stem}.safetensors"


def _finite(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [point for point in points if math.isfinite(point[1])]


def _result(path: Path) -> ResultView:
    facts = path.stat()
    return {"name": path.stem, "path": str(path), "size": facts.st_size, "changed": facts.st_mtime}


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
