"""Captions being edited: every change can be taken back and done again."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

MOST = 200
"""Changes that can be taken back; older ones stay as they are."""

Text = str | None
"""A caption; None: there is no caption file."""


@dataclass(frozen=True)
class Change:
    """One thing the user did: texts by picture before and after."""

    what: str
    before: Mapping[int, Text]
    after: Mapping[int, Text]


class History:
    """Texts by picture, and how they came to be so."""

    def __init__(self) -> None:
        self.texts: dict[int, Text] = {}
        self._done: deque[Change] = deque(maxlen=MOST)
        self._undone: list[Change] = []

    def change(self, what: str, after: Mapping[int, Text]) -> tuple[int, ...]:
        """Set texts; the pictures whose text is another now. What is already so is no change."""
        real = {n: text for n, text in after.items() if self.texts[n] != text}
        if not real:
            return ()
        self._done.append(Change(what, {n: self.texts[n] for n in real}, real))
        self._undone.clear()
        self.texts.update(real)
        return tuple(real)

    def undo(self) -> tuple[int, ...]:
        """Take the last change back; the pictures it was about."""
        if not self._done:
            return ()
        change = self._done.pop()
        self._undone.append(change)
        return self._set(change.before)

    def redo(self) -> tuple[int, ...]:
        """Do again what was last taken back."""
        if not self._undone:
            return ()
        change = self._undone.pop()
        self._done.append(change)
        return self._set(change.after)

    @property
    def undoable(self) -> str:
        """What would be taken back; empty when nothing is left."""
        return self._done[-1].what if self._done else ""

    @property
    def redoable(self) -> str:
        """What would be done again."""
        return self._undone[-1].what if self._undone else ""

    def _set(self, texts: Mapping[int, Text]) -> tuple[int, ...]:
        known = {n: text for n, text in texts.items() if n in self.texts}
        self.texts.update(known)
        return tuple(known)
