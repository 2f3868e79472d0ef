"""The queue as the tab sees it: jobs that wait, and runs that were broken off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lora_ext.config import TrainConfig, Value, flat, read
from lora_ext.config_import import flattened, parse_file
from lora_ext.errors import BadInput, Problem
from lora_ext.training.queue import JobQueue
from lora_ext.training.resumable import BrokenOff, broken_off
from lora_ext.ui.service import OfferView, QueueView, labelled

RESUME: Mapping[str, Value] = {"resume": True}


class Waiting:
    """`Queue` over the process's job queue."""

    def __init__(self, jobs: JobQueue, check: Callable[[TrainConfig], None], folder: Callable[[], Path]) -> None:
        """`check` raises `BadInput` for settings that a run would refuse; `folder` holds the outputs."""
        self._jobs, self._check, self._folder = jobs, check, folder

    def view(self) -> QueueView:
        """All jobs."""
        now = self._jobs.view()
        return {
            "going": now["going"],
            "trouble": now["trouble"],
            "jobs": [{**j, "problems": [labelled(p["field"], p["text"]) for p in j["problems"]]} for j in now["jobs"]],
        }

    def add(self, values: Mapping[str, object]) -> str:
        """Check settings and put the job last."""
        config = read(TrainConfig, values)
        problems = list(self._taken(config))
        try:
            self._check(config)
        except BadInput as e:
            problems += e.problems
        if problems:
            raise BadInput(*problems)
        return self._jobs.add(config.save.output, flat(config))

    def order(self, numbers: Sequence[str]) -> None:
        """Put the waiting jobs into this order."""
        self._jobs.order(numbers)

    def remove(self, number: str) -> None:
        """Take a job out."""
        self._jobs.remove(number)

    def go(self) -> None:
        """Begin the waiting jobs."""
        self._jobs.go()

    def hold(self) -> None:
        """Begin no further one."""
        self._jobs.hold()

    def values(self, number: str) -> Mapping[str, Value]:
        """Settings of a job."""
        return self._jobs.values(number)

    def offers(self) -> list[OfferView]:
        """Jobs that ran when the process ended, and other runs that left a state."""
        saved = {run.name: run for run in broken_off(self._folder())}
        listed = self._jobs.view()["jobs"]
        out: list[OfferView] = []
        for job in listed:
            if job["place"] == "broken off":
                run = saved.get(job["name"])
                step, age = (run.step, run.age) if run else (None, 0.0)
                out.append({"id": job["id"], "name": job["name"], "step": step, "age": age})
        known = {job["name"] for job in listed if job["place"] in ("waiting", "running", "broken off")}
        for run in saved.values():
            if run.name not in known and run.settings:
                out.append({"id": "", "name": run.name, "step": run.step, "age": run.age})
        return out

    def resume(self, number: str, name: str) -> None:
        """Begin a job of the queue again, from its saved state when it has one; or a run known by its files."""
        saved = {run.name: run for run in broken_off(self._folder())}
        if number:
            values = self._jobs.values(number)
            self._jobs.resume(number, RESUME if str(values.get("output")) in saved else {})
            return
        run = saved.get(name)
        if run is None or run.settings is None:
            what = Problem("name", "there is no run of this name that could go on", got=name)
            raise BadInput(what)
        self._jobs.start(name, {**_settings(run), **RESUME})

    def _taken(self, config: TrainConfig) -> list[Problem]:
        """Names that a job before it will have written by then."""
        waiting = {j["name"] for j in self._jobs.view()["jobs"] if j["place"] in ("waiting", "running", "broken off")}
        if config.save.output not in waiting or config.save.overwrite:
            return []
        fix = "Choose another name or allow to replace it."
        return [Problem("output", "a job of this name is in the queue already", got=config.save.output, fix=fix)]


def _settings(run: BrokenOff) -> dict[str, Value]:
    raw = parse_file(run.settings) if run.settings else {}
    raw = {k: v for k, v in raw.items() if k != "model"} if isinstance(raw, dict) else {}
    return flat(read(TrainConfig, {**flattened(raw, TrainConfig), "output": run.name}))
