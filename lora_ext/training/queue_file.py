"""The jobs of a queue as a small file beside the outputs: after a crash or a restart they are still known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ext.config import Value
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import write_atomically

NAME = "lora_ext_queue.json"
VERSION = 1


@dataclass(frozen=True)
class StoredJob:
    """A job that is not over. `begun`: it ran when this was written."""

    id: str
    name: str
    begun: bool
    values: Mapping[str, Value]


@dataclass(frozen=True)
class QueueFile:
    """The file; there is none while nothing waits."""

    path: Path

    def write(self, jobs: Sequence[StoredJob]) -> None:
        """Raises `BadInput` when the disk refuses; then the file is as it was."""
        if not jobs:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as e:
                raise BadInput(Problem(str(self.path), "the file could not be removed", got=e.strerror or "")) from e
            return
        listed = [{"id": j.id, "name": j.name, "begun": j.begun, "settings": {**j.values}} for j in jobs]
        text = json.dumps({"version": VERSION, "jobs": listed}, ensure_ascii=False, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise BadInput(Problem(str(self.path), "the folder could not be made", got=e.strerror or "")) from e
        write_atomically(self.path, [text.encode()])

    def read(self) -> list[StoredJob]:
        """What was written last. A file that cannot be understood is set aside under another name.

        Raises `BadInput` then, and when it cannot be read.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as e:
            raise BadInput(Problem(str(self.path), "the queue could not be read", got=e.strerror or "")) from e
        try:
            return _jobs(json.loads(text))
        except (ValueError, LookupError, TypeError, RecursionError):
            raise BadInput(self._set_aside()) from None

    def _set_aside(self) -> Problem:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            os.replace(self.path, aside)
        except OSError:
            aside = self.path  # it is there still, and is replaced when the next job is added
        return Problem(str(self.path), "the queue of an earlier run is damaged", got=f"set aside as {aside.name}")


def _jobs(found: Mapping[str, object]) -> list[StoredJob]:
    jobs = found["jobs"]
    if found["version"] != VERSION or not isinstance(jobs, list):
        raise ValueError
    return [_job(one) for one in jobs]


def _job(one: Mapping[str, object]) -> StoredJob:
    number, name, begun, values = one["id"], one["name"], one["begun"], one["settings"]
    if not (isinstance(number, str) and isinstance(name, str) and isinstance(begun, bool) and isinstance(values, dict)):
        raise TypeError
    if not all(isinstance(k, str) and isinstance(v, (bool, int, float, str)) for k, v in values.items()):
        raise TypeError
    return StoredJob(number, name, begun, values)
