"""Our work as the host's job: what its progress bar, its Interrupt button and its API see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modules import shared

_running: list[str] = []


@contextmanager
def job(name: str) -> Iterator[None]:
    """Be the host's current job. Call it under the host's queue lock."""
    shared.state.begin(job=name)
    shared.state.job_count = 1
    shared.state.textinfo = name
    _running.append(name)
    try:
        yield
    finally:
        _running.remove(name)
        shared.state.interrupted = False
        shared.state.skipped = False
        shared.state.textinfo = None
        shared.state.end()


def interrupted() -> bool:
    """Whether the user pressed the host's Interrupt or Stop while a job of ours runs."""
    return bool(_running) and bool(shared.state.interrupted or shared.state.stopping_generation)


@contextmanager
def aside() -> Iterator[None]:
    """Inside, the host may render; afterwards its progress state is ours again. An Interrupt is not lost."""
    state = shared.state
    pressed = state.interrupted, state.stopping_generation
    state.interrupted = state.stopping_generation = False
    before = {name: value for name, value in vars(state).items() if not name.startswith("_")}
    try:
        yield
    finally:
        pressed = state.interrupted or pressed[0], state.stopping_generation or pressed[1]
        for name in [name for name in vars(state) if not name.startswith("_") and name not in before]:
            delattr(state, name)
        vars(state).update(before)
        state.interrupted, state.stopping_generation = pressed
        state.current_latent = state.current_image = None
        shared.total_tqdm.clear()
