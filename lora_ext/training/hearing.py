"""How a run hears that it shall pause."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from lora_ext.training.events import Event, Pause


@dataclass
class Wishes:
    """What was asked of a run and not yet done."""

    pause: bool = False


def hearing(run: Generator[Event, None, None], wishes: Wishes) -> Generator[Event, None, None]:
    """The run, which a `Pause` thrown in at any event reaches as a wish: it is granted when a step is whole.

    Everything else that is thrown goes to the run itself.
    """
    try:
        event = next(run)
        while True:
            try:
                yield event
            except Pause:
                wishes.pause = True
                event = next(run)
            except BaseException as e:  # not handled: handed on to where it was meant for
                event = run.throw(e)
            else:
                event = next(run)
    except StopIteration:
        return
