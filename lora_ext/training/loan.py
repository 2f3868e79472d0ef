"""The host's model, borrowed for the run and given back during a pause."""

from __future__ import annotations

import contextlib
import traceback
from types import TracebackType

from lora_ext.live import LiveModel, Session


class Loan:
    """A context in which the model is ours, but for the time between `give_back` and `take_again`."""

    def __init__(self, model: LiveModel) -> None:
        self.model = model
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Session:
        return self.take_again()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _empty(error)
        self._stack.__exit__(kind, error, trace)

    def take_again(self) -> Session:
        """Wait for the host's lock and make the model ours."""
        return self._stack.enter_context(self.model.session())

    def give_back(self) -> None:
        """Weights, places and the lock go back to the host."""
        self._stack.close()


def _empty(error: BaseException | None) -> None:
    """Let go of what the frames of a failed pass hold: the host's parts come back to the card and need the room."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
