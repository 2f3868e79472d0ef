"""How a run hears what is wished of it between two events."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from lora_ext.training.events import Abort, Event, Pause, Paused, PreviewNow, SaveNow, Stop, Wish
from lora_ext.training.world import ABORT, GO, STOP


@dataclass
class Wishes:
    """What was asked of a run and not yet done."""

    pause: bool = False
    save: bool = False
    preview: bool = False
    end: int = GO
    """How the run shall end (`STOP` or `ABORT`), where several processes have to agree first."""
    together: bool = False
    """Whether they have to."""

    def take(self, wish: Wish) -> None:
        """Remember one."""
        self.pause |= isinstance(wish, Pause)
        self.save |= isinstance(wish, SaveNow)
        self.preview |= isinstance(wish, PreviewNow)


def hearing(run: Generator[Event, None, None], wishes: Wishes) -> Generator[Event, None, None]:
    """The run, which a `Wish` thrown in at any event reaches as one: it is granted when a step is whole.

    A wish in a pause does not end the pause. Everything else that is thrown goes to the run itself.
    """
    try:
        event = next(run)
        while True:
            try:
                yield event
            except Wish as wish:
                if not isinstance(event, Paused):
                    wishes.take(wish)
                    event = next(run)
                elif not isinstance(wish, Pause):
                    wishes.take(wish)
            except (Stop, Abort) as end:
                if wishes.together:
                    wishes.end = ABORT if isinstance(end, Abort) else STOP
                    event = next(run)
                else:
                    event = run.throw(end)
            except BaseException as e:  # not handled: handed on to where it was meant for
                event = run.throw(e)
            else:
                event = next(run)
    except StopIteration:
        return
