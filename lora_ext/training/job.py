"""A run in its own thread, which anyone may look at; it lives with the process and survives a reloaded page or UI."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path

from PIL import Image

from lora_ext.errors import BadInput, Problem
from lora_ext.training.events import (
    Event,
    Finished,
    Notice,
    Pause,
    Paused,
    Preview,
    Saved,
    Stage,
    Step,
    Stop,
    Validated,
)
from lora_ext.training.history import LossHistory
from lora_ext.training.snapshot import JobSnapshot, ProblemView, SavedView, State, idle

log = logging.getLogger(__name__)

Run = Generator[Event, None, None]

MOST_PREVIEWS = 12  # PNGs kept in memory, about half a megabyte each
MOST_NOTICES = 200
MOST_SAVED = 200
UNDER_WAY = ("running", "pausing", "paused")


class Job:
    """Drains one run in a daemon thread and remembers what it said. Every method is quick and safe from any thread."""

    def __init__(self, events: Run, name: str = "", should_stop: Callable[[], bool] = lambda: False) -> None:
        """`should_stop` is asked between events, for hosts with an interrupt button of their own."""
        self._events = events
        self._should_stop = should_stop
        self._lock = threading.Lock()
        self._wish = threading.Event()
        self._rest = threading.Event()
        self._go = threading.Event()
        self._now: JobSnapshot = {**idle(), "run": secrets.token_hex(8), "state": "running", "name": name}
        self._losses = LossHistory()
        self._previews: OrderedDict[int, bytes] = OrderedDict()
        self._first: tuple[int, float] | None = None
        self._thread = threading.Thread(target=self._drain, name="lora-training", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to stop at its next event and keep what it has learnt."""
        self._wish.set()
        with self._lock:
            if self._now["state"] in UNDER_WAY:
                self._now["state"] = "stopping"
        self._go.set()

    def pause(self) -> None:
        """Ask the run to give the model back to the host after its step; nothing happens when it does not run."""
        with self._lock:
            if self._now["state"] != "running":
                return
            self._now["state"] = "pausing"
        self._go.clear()
        self._rest.set()

    def go_on(self) -> None:
        """End the pause."""
        with self._lock:
            if self._now["state"] not in ("pausing", "paused"):
                return
            self._now["state"] = "running"
        self._go.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def over(self) -> bool:
        """True once the run has ended and the model has been given back."""
        with self._lock:
            ended = self._now["state"] not in (*UNDER_WAY, "stopping")
        if ended:
            self._thread.join()  # only a few lines are left for it to do
        return ended

    def snapshot(self, after: int = 0) -> JobSnapshot:
        """The job now, with losses later than the cursor `after` of an earlier snapshot."""
        with self._lock:
            now = copy.deepcopy(self._now)
            now["losses"] = self._losses.after(after)
            now["loss_mean"] = self._losses.mean
            now["cursor"] = now["losses"][-1][0] if now["losses"] else after
            return now

    def preview(self, number: int) -> bytes | None:
        """PNG of a preview by its id; None when it is not kept any more."""
        with self._lock:
            return self._previews.get(number)

    def _drain(self) -> None:
        try:
            self._follow()
        except BadInput as e:
            self._fail([{"field": p.field, "text": str(p).removeprefix(f"{p.field}: ")} for p in e.problems])
        except Exception as e:  # the edge: a thread has nobody above it to tell
            log.exception("training failed")
            self._fail([{"field": "", "text": f"{type(e).__name__}: {e}"}])

    def _follow(self) -> None:
        asked = False
        with contextlib.closing(self._events), contextlib.suppress(StopIteration):
            event = next(self._events)
            while True:
                self._take(event)
                if isinstance(event, Paused):
                    self._wait()
                if not asked and (self._wish.is_set() or (not isinstance(event, Paused) and self._should_stop())):
                    asked = True
                    self.stop()
                    event = self._events.throw(Stop())
                elif self._rest.is_set() and not asked:
                    self._rest.clear()
                    event = self._events.throw(Pause())
                else:
                    event = next(self._events)

    def _wait(self) -> None:
        """Until the pause is over. The host's own interrupt button is for its pictures now, not for us."""
        with self._lock:
            if self._now["state"] == "pausing":
                self._now["state"] = "paused"
        self._go.wait()

    def _take(self, event: Event) -> None:
        if isinstance(event, Preview):
            png = _png(event.image)  # outside the lock: compressing takes a while
            with self._lock:
                self._keep(event, png)
            return
        with self._lock:
            now = self._now
            if isinstance(event, Stage):
                now["stage"] = {"name": event.name, "done": event.done, "total": event.total}
            elif isinstance(event, Notice):
                now["notices"] = [*now["notices"], event.text][-MOST_NOTICES:]
            elif isinstance(event, Saved):
                self._note(event)
            elif isinstance(event, Validated):
                now["validation"] = [*now["validation"], (event.step, event.loss)][-MOST_SAVED:]
            elif isinstance(event, Finished):
                now["state"] = _state(event.reason)
            elif isinstance(event, Step):
                self._advance(event)

    def _advance(self, event: Step) -> None:
        now = self._now
        now["step"], now["total"] = event.step, event.total
        now["epoch"], now["epochs"] = event.epoch, event.epochs
        now["learning_rate"], now["seconds"] = event.learning_rate, event.seconds
        now["eta"] = self._eta(event)
        if event.loss is not None:
            self._losses.add(event.step, event.loss)

    def _eta(self, event: Step) -> float | None:
        """From the pace since the first step; that one is slower than the rest (kernels are chosen, caches filled)."""
        if self._first is None:
            self._first = event.step, event.seconds
        steps, seconds = event.step - self._first[0], event.seconds - self._first[1]
        return seconds / steps * (event.total - event.step) if steps else None

    def _note(self, event: Saved) -> None:
        path = Path(event.path)
        saved: SavedView = {"step": event.step, "name": path.stem, "path": str(path), "final": event.final}
        self._now["saved"] = [*self._now["saved"], saved][-MOST_SAVED:]

    def _keep(self, event: Preview, png: bytes) -> None:
        before = self._now["preview"]
        number = before["id"] + 1 if before else 1
        self._now["preview"] = {"id": number, "step": event.step, "prompt": event.prompt}
        self._previews[number] = png
        while len(self._previews) > MOST_PREVIEWS:
            self._previews.popitem(last=False)

    def _fail(self, problems: list[ProblemView]) -> None:
        with self._lock:
            self._now["state"], self._now["problems"] = "failed", problems


class JobBoard:
    """The place for the one job that may run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: Job | None = None

    @property
    def job(self) -> Job | None:
        """The running or last job."""
        return self._job

    def start(self, begin: Callable[[], Run], name: str = "", should_stop: Callable[[], bool] = lambda: False) -> Job:
        """Call `begin` (which checks the settings and may raise `BadInput`) and drain what it returns.

        Raises `BadInput` while another job runs.
        """
        if not self._lock.acquire(blocking=False):
            raise _busy()
        try:
            if self._job is not None and not self._job.over():
                raise _busy()
            job = Job(begin(), name, should_stop)
            job.start()
            self._job = job
            return job
        finally:
            self._lock.release()

    def stop(self) -> None:
        """Stop the running job, if any."""
        if self._job is not None:
            self._job.stop()

    def pause(self) -> None:
        """Pause the running job, if any."""
        if self._job is not None:
            self._job.pause()

    def go_on(self) -> None:
        """End the pause of the running job, if any."""
        if self._job is not None:
            self._job.go_on()

    def snapshot(self, after: int = 0) -> JobSnapshot:
        """The running or last job; an idle snapshot before the first."""
        return self._job.snapshot(after) if self._job is not None else idle()

    def preview(self, number: int) -> bytes | None:
        """PNG of the running or last job's preview, by id."""
        return self._job.preview(number) if self._job is not None else None


board = JobBoard()
"""The process's one board: modules stay loaded when a host reloads its UI."""


def _busy() -> BadInput:
    return BadInput(Problem("", "a training is already running", fix="Stop it or wait for its end."))


def _state(reason: str) -> State:
    return "stopped" if reason == "stopped" else "done"


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
