"""What happened in a run, line by line with the time, as an artist would read or copy it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from lora_ext.training.events import Event, Finished, Notice, Paused, Preview, Saved, Stage, Validated
from lora_ext.training.snapshot import LineView

MOST_LINES = 2000

ENDS = {
    "done": "Step {0}: done",
    "stopped": "Step {0}: stopped, and what was learnt is kept",
    "aborted": "Step {0}: aborted, nothing more was saved",
}


class Story:
    """The lines of a run; the oldest go when there are too many."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lines: deque[LineView] = deque(maxlen=MOST_LINES)
        self._stages: set[str] = set()
        self.last = 0
        """Number of the newest line."""

    def tell(self, kind: str, text: str, *values: str | int | float) -> None:
        """Add a line. `text` is a whole sentence, `{0}` in it the first of the values, so that it can be translated."""
        self.last += 1
        self._lines.append({"n": self.last, "at": self._clock(), "kind": kind, "text": text, "values": [*values]})

    def after(self, number: int) -> list[LineView]:
        """The lines that came later than line `number`."""
        return [line for line in self._lines if line["n"] > number]

    def hear(self, event: Event) -> None:
        """Tell an event; steps and the progress inside a stage are not worth a line."""
        if isinstance(event, Stage):
            if event.name not in self._stages:  # painting and training take turns
                self.tell("stage", event.name)
            self._stages.add(event.name)
        elif isinstance(event, Notice):
            self.tell("notice", event.text)
        elif isinstance(event, Saved):
            self.tell("saved", "Step {0}: saved as {1}", event.step, event.path.stem)
        elif isinstance(event, Preview):
            self.tell("preview", "Step {0}: preview of “{1}”", event.step, event.prompt)
        elif isinstance(event, Validated):
            self.tell("measured", "Step {0}: loss on the held-out pictures {1}", event.step, f"{event.loss:.4g}")
        elif isinstance(event, Paused):
            self.tell("paused", "Step {0}: paused, the model is given back", event.step)
        elif isinstance(event, Finished):
            self.tell("end", ENDS.get(event.reason, ENDS["done"]), event.step)
