"""The one place of the process where a job runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lora_ext.errors import BadInput, Problem
from lora_ext.training.job import Job, Run
from lora_ext.training.snapshot import JobSnapshot, idle


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

    def snapshot(self, after: int = 0) -> JobSnapshot:
        """The running or last job; an idle snapshot before the first."""
        return self._job.snapshot(after) if self._job is not None else idle()


board = JobBoard()
"""The process's one board: modules stay loaded when a host reloads its UI."""


def _busy() -> BadInput:
    return BadInput(Problem("", "a training is already running", fix="Stop it or wait for its end."))
