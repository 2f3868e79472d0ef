"""A run in its own thread, which anyone may look at; it lives with the process and survives a reloaded page or UI."""

from __future__ import annotations

import contextlib
import copy
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path

import torch

from lora_ext.errors import BadInput
from lora_ext.training.events import (
    Abort,
    Event,
    Finished,
    Notice,
    Pause,
    Paused,
    Preview,
    PreviewNow,
    Saved,
    SaveNow,
    Stage,
    Step,
    Stop,
    Validated,
    Wish,
)
from lora_ext.training.gallery import Gallery, Picture
from lora_ext.training.history import LossHistory
from lora_ext.training.snapshot import JobSnapshot, LineView, PreviewView, ProblemView, SavedView, State, idle
from lora_ext.training.story import Story

log = logging.getLogger(__name__)

Run = Generator[Event, None, None]

MOST_NOTICES = 200
MOST_SAVED = 200
PACE = 20  # steps that the speed is measured over
UNDER_WAY = ("running", "pausing", "paused")
OVER = ("idle", "done", "stopped", "aborted", "failed")


class Job:
    """Drains one run in a daemon thread and remembers what it said. Every method is quick and safe from any thread."""

    def __init__(self, events: Run, name: str = "", should_stop: Callable[[], bool] = lambda: False) -> None:
        """`should_stop` is asked between events, for hosts with an interrupt button of their own."""
        self._events = events
        self._should_stop = should_stop
        self._lock = threading.Lock()
        self._end: Stop | Abort | None = None
        self._wishes: deque[Wish] = deque()
        self._go = threading.Event()
        self._now: JobSnapshot = {**idle(), "run": secrets.token_hex(8), "state": "running", "name": name}
        self._losses, self._rates = LossHistory(), LossHistory()
        self._gallery = Gallery()
        self._story = Story()
        self._first: tuple[int, float] | None = None
        self._pace: deque[tuple[int, float]] = deque(maxlen=PACE)
        self._thread = threading.Thread(target=self._drain, name="lora-training", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to stop at its next event and keep what it has learnt."""
        self._finish(Stop())

    def abort(self) -> None:
        """Ask the run to end at its next event and save nothing more."""
        self._finish(Abort())

    def pause(self) -> None:
        """Ask the run to give the model back to the host after its step; nothing happens when it does not run."""
        with self._lock:
            if self._now["state"] != "running":
                return
            self._now["state"] = "pausing"
            self._go.clear()
            self._wishes.append(Pause())

    def go_on(self) -> None:
        """End the pause."""
        with self._lock:
            if self._now["state"] not in ("pausing", "paused"):
                return
            if self._now["state"] == "paused":
                self._story.tell("resumed", "Going on")
            self._now["state"] = "running"
        self._go.set()

    def save_now(self) -> None:
        """Ask for a file of what is learnt so far; in a pause it comes after the pause."""
        self._wish(SaveNow())

    def preview_now(self) -> None:
        """Ask for previews of what is learnt so far; in a pause they come after the pause."""
        self._wish(PreviewNow())

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def over(self) -> bool:
        """True once the run has ended and the model has been given back."""
        with self._lock:
            ended = self._now["state"] in OVER
        if ended:
            self._thread.join()  # only a few lines are left for it to do
        return ended

    def snapshot(self, after: int = 0) -> JobSnapshot:
        """The job now, with losses later than the cursor `after` of an earlier snapshot."""
        with self._lock:
            now = copy.deepcopy(self._now)
            now["losses"] = self._losses.after(after)
            now["rates"] = self._rates.after(after)
            now["loss_mean"] = self._losses.mean
            now["lines"] = self._story.last
            now["cursor"] = now["losses"][-1][0] if now["losses"] else after
            return now

    def preview(self, number: int) -> bytes | None:
        """PNG of a preview by its id; None when it is not kept any more."""
        with self._lock:
            found = self._gallery.get(number)
            return found.png if found else None

    def thumbnail(self, number: int) -> bytes | None:
        """The same as a small JPEG."""
        with self._lock:
            found = self._gallery.get(number)
            return found.small if found else None

    def previews(self) -> list[PreviewView]:
        """All previews that are kept, oldest first."""
        with self._lock:
            return self._gallery.list()

    def lines(self, after: int = 0) -> list[LineView]:
        """The log, from the line behind line `after`."""
        with self._lock:
            return self._story.after(after)

    def _finish(self, end: Stop | Abort) -> None:
        """An abort counts for more than a stop that the run has not heard yet."""
        with self._lock:
            if self._now["state"] not in (*UNDER_WAY, "stopping"):
                return
            if self._end is None or isinstance(end, Abort):
                self._end = end
            self._now["state"] = "stopping"
        self._go.set()

    def _wish(self, wish: Wish) -> None:
        with self._lock:
            if self._now["state"] in UNDER_WAY:
                self._wishes.append(wish)

    def _drain(self) -> None:
        try:
            self._follow()
        except BadInput as e:
            self._fail([{"field": p.field, "text": str(p).removeprefix(f"{p.field}: ")} for p in e.problems])
        except Exception as e:  # the edge: a thread has nobody above it to tell
            log.exception("training failed")
            self._fail([{"field": "", "text": f"{type(e).__name__}: {e}"}])

    def _follow(self) -> None:
        ended = False
        with contextlib.closing(self._events), contextlib.suppress(StopIteration):
            event = next(self._events)
            while True:
                self._take(event)
                if isinstance(event, Paused):
                    self._wait()
                wish = None if ended else self._next_wish(event)
                ended |= isinstance(wish, (Stop, Abort))
                event = next(self._events) if wish is None else self._events.throw(wish)

    def _next_wish(self, event: Event) -> Stop | Abort | Wish | None:
        """What to throw into the run next. The host's own interrupt button is for its pictures while we pause."""
        if self._end is None and not isinstance(event, Paused) and self._should_stop():
            self.stop()
        with self._lock:
            return self._end or (self._wishes.popleft() if self._wishes else None)

    def _wait(self) -> None:
        """Until the pause is over."""
        with self._lock:
            if self._now["state"] == "pausing":
                self._now["state"] = "paused"
        self._go.wait()

    def _take(self, event: Event) -> None:
        if isinstance(event, Preview):
            picture = Picture.of(event.image)  # outside the lock: compressing takes a while
            with self._lock:
                self._now["preview"] = self._gallery.add(event.step, event.prompt, picture)
                self._story.hear(event)
            return
        with self._lock:
            now = self._now
            self._story.hear(event)
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
        now["eta"], now["speed"], now["memory"] = self._eta(event), self._speed(event), _card_memory()
        if event.loss is not None:
            self._losses.add(event.step, event.loss)
            self._rates.add(event.step, event.learning_rate)

    def _eta(self, event: Step) -> float | None:
        """From the pace since the first step; that one is slower than the rest (kernels are chosen, caches filled)."""
        if self._first is None:
            self._first = event.step, event.seconds
        steps, seconds = event.step - self._first[0], event.seconds - self._first[1]
        return seconds / steps * (event.total - event.step) if steps else None

    def _speed(self, event: Step) -> float | None:
        """Steps per second over the last few."""
        self._pace.append((event.step, event.seconds))
        steps, seconds = (last - first for first, last in zip(self._pace[0], self._pace[-1], strict=True))
        return steps / seconds if steps and seconds > 0 else None

    def _note(self, event: Saved) -> None:
        path = Path(event.path)
        saved: SavedView = {"step": event.step, "name": path.stem, "path": str(path), "final": event.final}
        self._now["saved"] = [*self._now["saved"], saved][-MOST_SAVED:]

    def _fail(self, problems: list[ProblemView]) -> None:
        with self._lock:
            self._now["state"], self._now["problems"] = "failed", problems
            for problem in problems:
                self._story.tell("problem", problem["text"])


def _state(reason: str) -> State:
    return "stopped" if reason == "stopped" else "aborted" if reason == "aborted" else "done"


def _card_memory() -> int | None:
    """Bytes. What the process's torch has held at most, of the card that it uses; the card's own tools say the same."""
    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return max((int(torch.cuda.max_memory_reserved(number)) for number in cards), default=0) or None
