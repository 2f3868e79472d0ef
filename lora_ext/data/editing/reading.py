"""Work in the background of a folder being edited: the trainer's own scan, then a look at every picture's pixels."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

from lora_ext.config import DataSetConfig
from lora_ext.data.caption_source import Origin
from lora_ext.data.likeness import groups_alike, look
from lora_ext.data.notices import Notices
from lora_ext.data.picture import Picture
from lora_ext.data.report import Skipped, reason
from lora_ext.data.set_scan import SetScan
from lora_ext.errors import BadInput, Problem

Result = TypeVar("Result")

Thumbnail = Callable[[Picture], bytes]


class Reading:
    """A scan under way; what it has found so far can be asked for at any time."""

    def __init__(self, config: DataSetConfig, busy: Callable[[], bool]) -> None:
        """`busy`: while True, somebody waits for a thumbnail and this makes room.

        Raises `BadInput` when the folder or a caption list cannot be used at all.
        """
        self._busy = busy
        self._stop = threading.Event()
        self._notices = Notices()
        self._scan = SetScan(config, self._notices)
        self._future = in_background(self._run)

    def wait(self, seconds: float, enough: int | None = None) -> None:
        """Until the scan is over, or `enough` pictures have been read, but no longer."""
        end = time.monotonic() + seconds
        while not self._future.done() and (enough is None or len(self._scan.pictures) < enough):
            if time.monotonic() > end:
                return
            time.sleep(0.005)

    def stop(self) -> None:
        """Leave off: nobody asks any more."""
        self._stop.set()

    @property
    def over(self) -> bool:
        """Whether everything has been read. Raises what went wrong in a way that the scan does not tell."""
        return self._future.done() and self._future.result() is not None

    def pictures(self, after: int) -> Sequence[tuple[Picture, Origin]]:
        """Those that have been read, but for the first `after`."""
        return [(p, self._scan.captions.origins[p.path]) for p in self._scan.pictures[after:]]

    def skipped(self, after: int) -> Sequence[Skipped]:
        """Those that the trainer leaves out, but for the first `after`."""
        return self._scan.skipped[after:]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why the trainer would refuse the folder, once it has been read."""
        return self._future.result() if self._future.done() else ()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the trainer would say about the folder, once it has been read."""
        return self._notices.lines() if self._future.done() else ()

    def _run(self) -> tuple[Problem, ...]:
        try:
            self._scan.run(lambda: make_room(self._busy, self._stop))
        except BadInput as e:
            return e.problems
        return ()


@dataclass(frozen=True)
class Seen:
    """What the look found so far: names alike by picture, and why some cannot be read."""

    count: int
    over: bool
    alike: Mapping[int, tuple[str, ...]]
    unreadable: Mapping[int, str]


class Look:
    """Makes every thumbnail, finds pictures whose pixels cannot be read and those that look alike."""

    def __init__(self, pictures: Mapping[int, Picture], thumbnail: Thumbnail, busy: Callable[[], bool]) -> None:
        """`busy`: while True, somebody waits for a thumbnail and this makes room."""
        self._pictures = pictures
        self._thumbnail = thumbnail
        self._busy = busy
        self._stop = threading.Event()
        self._looks: dict[int, int] = {}
        self._unreadable: dict[int, str] = {}
        self._future = in_background(self._run)

    def stop(self) -> None:
        """Leave off; what was found stays."""
        self._stop.set()

    @property
    def seen(self) -> Seen:
        """What was found so far."""
        over = self._future.done()
        alike = self._future.result() if over else {}
        return Seen(len(self._looks) + len(self._unreadable), over, alike, dict(self._unreadable))

    def _run(self) -> dict[int, tuple[str, ...]]:
        for number, picture in self._pictures.items():
            if not make_room(self._busy, self._stop):
                return {}
            try:
                self._looks[number] = look(Image.open(io.BytesIO(self._thumbnail(picture))))
            except BadInput as e:
                self._unreadable[number] = reason(e)
        numbers = list(self._looks)
        found: dict[int, tuple[str, ...]] = {}
        for group in groups_alike([self._looks[n] for n in numbers]):
            names = {numbers[i]: self._pictures[numbers[i]].name for i in group}
            for n in names:
                found[n] = tuple(name for other, name in names.items() if other != n)
        return found


def make_room(busy: Callable[[], bool], stop: threading.Event) -> bool:
    """Wait while others are in a hurry; False when nobody wants the work any more."""
    while busy() and not stop.is_set():
        time.sleep(0.005)
    return not stop.is_set()


def in_background(work: Callable[[], Result]) -> Future[Result]:
    """Run in a thread that does not keep the program alive; what it raises is raised by `result()`."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as e:  # handed on, not swallowed
            future.set_exception(e)

    threading.Thread(target=run, name="lora-ext-pictures", daemon=True).start()
    return future
