"""Training events as text for a terminal (one line that grows) or for a log (a line now and then)."""

from __future__ import annotations

import time
from typing import TextIO

from lora_ext.training.events import Event, Finished, Notice, Saved, Stage, Step

BAR = 30
LOG_EVERY = 10.0  # seconds between progress lines where the output is no terminal


class Progress:
    """Shows events on a stream as they come."""

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        """`stream` is usually stderr; a bar is drawn only when it is a terminal. `quiet`: another process speaks."""
        self._stream = stream
        self.quiet = quiet
        self._live = stream.isatty()
        self._width = 0
        self._last = 0.0
        self._stage = ""

    def show(self, event: Event) -> None:
        """Show one event."""
        if self.quiet:
            return
        if isinstance(event, Step):
            self._bar("Training", event.step, event.total, _training_facts(event))
        elif isinstance(event, Stage):
            self._bar(event.name, event.done, event.total, "")
        elif isinstance(event, Notice):
            self.line(f"note: {event.text}")
        elif isinstance(event, Saved) and not event.final:
            self.line(f"saved {event.path} at step {event.step}")
        elif isinstance(event, Finished) and event.reason != "done":
            self.line(f"{event.reason} at step {event.step}")

    def line(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self.quiet:
            return
        self._wipe()
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the last state of the bar standing on its own line."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def _bar(self, name: str, done: int, total: int, facts: str) -> None:
        text = _bar_text(name, done, total, facts)
        if not self._live:
            self._log(name, text, last=total > 0 and done >= total)
            return
        if name != self._stage:
            self.close()
            self._stage = name
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def _log(self, name: str, text: str, *, last: bool) -> None:
        now = time.monotonic()
        if name != self._stage or last or now - self._last >= LOG_EVERY:
            self._stage, self._last = name, now
            self.line(text)

    def _wipe(self) -> None:
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


def _bar_text(name: str, done: int, total: int, facts: str) -> str:
    if total <= 0:
        return f"{name} …"
    filled = BAR * min(done, total) // total
    return f"{name} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{total} {facts}".rstrip()


def _training_facts(event: Step) -> str:
    loss = "" if event.loss is None else f"loss {event.loss:.4f}, "
    left = event.seconds / max(event.step, 1) * (event.total - event.step)
    return f"{loss}{clock(left)} left"


def clock(seconds: float) -> str:
    """`75.2` -> `1:15`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
