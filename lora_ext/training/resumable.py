"""Runs that were broken off: a saved state beside an output that is older, or that never came."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_ext.training.state import UNREADABLE

END = ".state"


@dataclass(frozen=True)
class BrokenOff:
    """A run that can go on. `settings`: the file that holds its settings, if it wrote one."""

    name: str
    step: int
    age: float
    """Seconds since the state was saved."""
    settings: Path | None


def broken_off(folder: Path) -> list[BrokenOff]:
    """The runs with outputs in `folder` that can go on, the newest first. Reads little of each state."""
    try:
        states = [path for path in folder.glob(f"*{END}") if path.is_file()]
    except OSError:
        return []
    return sorted(_found(states), key=lambda run: run.age)


def _found(states: list[Path]) -> Iterator[BrokenOff]:
    for path in states:
        name = path.name.removesuffix(END)
        saved = path.stat().st_mtime
        output, settings = (path.with_name(name + end) for end in (".safetensors", ".config.toml"))
        if output.exists() and output.stat().st_mtime >= saved:
            continue  # the run came to its end
        step = _step(path)
        if step:
            age = max(0.0, time.time() - saved)
            yield BrokenOff(name, step, age, settings if settings.is_file() else None)


def _step(path: Path) -> int | None:
    """The tensors stay on the disk; old versions of torch want a text for that."""
    try:
        return int(torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)["step"])
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, *UNREADABLE):
        return None
