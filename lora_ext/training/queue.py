"""Jobs that wait for their turn, one after the other; they live with the process and, as a file, beyond it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from lora_ext.config import Value
from lora_ext.errors import BadInput, Problem
from lora_ext.training.job import Job
from lora_ext.training.queue_file import QueueFile, StoredJob
from lora_ext.training.snapshot import ProblemView

log = logging.getLogger(__name__)

Place = Literal["waiting", "running", "broken off", "done", "stopped", "aborted", "failed"]
LEFT: tuple[Place, ...] = ("waiting", "broken off")
"""Places of jobs that there is still something to do for; they are in the file, as is the running one."""

MOST_OVER = 30
NOTED = 5  # seconds; it takes a few lines

Begin = Callable[[Mapping[str, Value]], Job]


class QueuedFacts(TypedDict):
    """A job of the queue but for its problems; `run` is that of its `JobSnapshot` once it was started."""

    id: str
    name: str
    place: Place
    run: str


class QueuedView(QueuedFacts):
    """A job of the queue from outside."""

    problems: list[ProblemView]


class QueueFacts(TypedDict):
    """The queue but for its jobs. `going`: the next begins by itself; `trouble`: why a restart would lose it."""

    going: bool
    trouble: str


class QueueView(QueueFacts):
    """The queue from outside."""

    jobs: list[QueuedView]


@dataclass
class _Entry:
    name: str
    values: dict[str, Value]
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    place: Place = "waiting"
    run: str = ""
    problems: list[ProblemView] = field(default_factory=list)


class JobQueue:
    """Begins jobs one after the other and goes on past one that fails; a job that is stopped by hand stops the row.

    Safe from any thread; only `start` and `resume` take as long as beginning a job does.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition(threading.RLock())
        self._entries: list[_Entry] = []
        self._current: _Entry | None = None
        self._job: Job | None = None
        self._going = False
        self._begin: Begin | None = None
        self._file: QueueFile | None = None
        self._trouble = ""

    def attach(self, begin: Begin, file: Path) -> None:
        """`begin` starts a job from its settings (and may raise `BadInput`); what `file` holds waits to be asked for.

        May be called again, by a host that reloads its UI: the newest `begin` counts.
        """
        with self._lock:
            self._begin = begin
            if self._file is None or self._file.path != file:
                self._file = QueueFile(file)
                self._recall()

    def view(self) -> QueueView:
        """The queue now."""
        with self._lock:
            jobs: list[QueuedView] = [
                {"id": e.id, "name": e.name, "place": e.place, "run": e.run, "problems": [*e.problems]}
                for e in self._entries
            ]
            return {"going": self._going, "trouble": self._trouble, "jobs": jobs}

    def values(self, number: str) -> dict[str, Value]:
        """Settings of a job. Raises `BadInput` for one that is not there."""
        with self._lock:
            return {**self._find(number).values}

    def start(self, name: str, values: Mapping[str, Value]) -> None:
        """Begin a job now. Raises `BadInput` when that is refused, or while another one runs."""
        self._start(_Entry(name, {**values}))

    def resume(self, number: str, more: Mapping[str, Value]) -> None:
        """Begin a job of the queue now, with some settings changed. Raises `BadInput` like `start`."""
        with self._lock:
            entry = self._find(number, *LEFT, "failed", "stopped", "aborted")
            before = entry.place, {**entry.values}
            entry.values.update(more)
        try:
            self._start(entry)
        except BaseException:
            with self._lock:
                entry.place, entry.values = before
            raise

    def add(self, name: str, values: Mapping[str, Value]) -> str:
        """Put a job last; it begins by itself when one runs now. Gives its id."""
        with self._lock:
            entry = _Entry(name, {**values})
            self._entries.append(entry)
            self._going |= self._current is not None
            self._store()
            return entry.id

    def order(self, numbers: Sequence[str]) -> None:
        """Put the waiting jobs into this order. Raises `BadInput` unless these are just the waiting ones."""
        with self._lock:
            waiting = [e for e in self._entries if e.place in LEFT]
            if sorted(numbers) != sorted(e.id for e in waiting):
                fix = "Look at the queue again: it has changed meanwhile."
                raise BadInput(Problem("order", "these are not the jobs that wait", fix=fix))
            ordered = sorted(waiting, key=lambda e: numbers.index(e.id))
            self._entries = [e for e in self._entries if e.place not in LEFT] + ordered
            self._store()

    def remove(self, number: str) -> None:
        """Take a job out of the list. Raises `BadInput` for the running one, or one that is not there."""
        with self._lock:
            entry = self._find(number)
            if entry is self._current:
                raise BadInput(Problem("job", "the job runs", fix="Stop it first."))
            self._entries.remove(entry)
            self._store()

    def go(self) -> None:
        """Begin the waiting jobs, one after the other."""
        with self._lock:
            self._going = True
            if self._current is None and self._next() is not None:
                self._thread(None)

    def hold(self) -> None:
        """Begin no further job; the running one goes on."""
        with self._lock:
            self._going = False

    def _start(self, entry: _Entry) -> None:
        with self._lock:
            self._settle()
            if self._current is not None:
                raise BadInput(Problem("", "a training is already running", fix="Stop it or wait for its end."))
            self._current, entry.place, entry.problems = entry, "running", []
            fresh = entry not in self._entries
            if fresh:
                self._entries.insert(self._first_left(), entry)
        try:
            job = self._begun(entry)
        except BaseException:
            with self._lock:
                self._current = None
                if fresh:
                    self._entries.remove(entry)
            raise
        self._thread(job)

    def _settle(self) -> None:
        """A job that has just ended is noted by its thread in a moment."""
        job = self._job
        if job is not None and job.over():
            self._lock.wait_for(lambda: self._job is not job, NOTED)

    def _begun(self, entry: _Entry) -> Job:
        """Call it without the lock: reading pictures may take a while."""
        if self._begin is None:
            raise RuntimeError("the queue is not attached")
        job = self._begin(entry.values)
        with self._lock:
            entry.run, self._job = job.snapshot()["run"], job
            self._store()
        return job

    def _thread(self, job: Job | None) -> None:
        """Follow a job that runs, and then the waiting ones; with None only those."""
        with self._lock:
            if job is None:
                self._current = self._next()
        threading.Thread(target=self._follow, args=(job,), name="lora-queue", daemon=True).start()

    def _follow(self, job: Job | None) -> None:
        while True:
            with self._lock:
                entry = self._current
            if entry is None:
                return
            if job is None:
                job = self._try(entry)
            if job is not None:
                self._note_end(entry, job)
            job = None
            with self._lock:
                self._forget_old()
                self._current, self._job = (self._next() if self._going else None), None
                self._store()
                self._lock.notify_all()

    def _try(self, entry: _Entry) -> Job | None:
        """A job in its turn: one that cannot begin fails, and the row goes on."""
        with self._lock:
            entry.place, entry.problems = "running", []
        try:
            return self._begun(entry)
        except BadInput as e:
            problems: list[ProblemView] = [
                {"field": p.field, "text": str(p).removeprefix(f"{p.field}: ")} for p in e.problems
            ]
        except Exception as e:  # the edge: a thread has nobody above it to tell
            log.exception("a job could not begin")
            problems = [{"field": "", "text": f"{type(e).__name__}: {e}"}]
        with self._lock:
            entry.place, entry.problems = "failed", problems
        return None

    def _note_end(self, entry: _Entry, job: Job) -> None:
        job.join()
        end = job.snapshot()
        with self._lock:
            entry.problems = end["problems"]
            state = end["state"]
            entry.place = state if state in ("done", "stopped", "aborted") else "failed"
            if state in ("stopped", "aborted"):  # somebody wanted the machine
                self._going = False

    def _next(self) -> _Entry | None:
        return next((e for e in self._entries if e.place == "waiting"), None)

    def _first_left(self) -> int:
        return next((n for n, e in enumerate(self._entries) if e.place in LEFT), len(self._entries))

    def _find(self, number: str, *places: Place) -> _Entry:
        for entry in self._entries:
            if entry.id == number and (not places or entry.place in places):
                return entry
        raise BadInput(Problem("job", "there is no such job in the queue", got=number))

    def _forget_old(self) -> None:
        over = [e for e in self._entries if e.place not in (*LEFT, "running")]
        for entry in over[: max(0, len(over) - MOST_OVER)]:
            self._entries.remove(entry)

    def _store(self) -> None:
        if self._file is None:
            return
        left = [e for e in self._entries if e.place in (*LEFT, "running")]
        stored = [StoredJob(e.id, e.name, e.place != "waiting", e.values) for e in left]
        try:
            self._file.write(stored)
            self._trouble = ""
        except BadInput as e:  # the jobs go on; only a restart would lose them
            self._trouble = str(e)

    def _recall(self) -> None:
        if self._file is None:
            return
        try:
            found = self._file.read()
        except BadInput as e:
            self._trouble = str(e)
            return
        known = {e.id for e in self._entries}
        for job in found:
            if job.id not in known:
                place: Place = "broken off" if job.begun else "waiting"
                self._entries.append(_Entry(job.name, {**job.values}, job.id, place))


queue = JobQueue()
"""The process's one queue: modules stay loaded when a host reloads its UI."""
