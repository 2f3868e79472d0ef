"""Notices: one line for everything of a kind, with how many and the first few names."""

from __future__ import annotations

SHOWN = 5
"""Names in a line; the rest is counted."""


class Notices:
    """Collects names by what is to be said about them."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, what: str, name: str) -> None:
        """Say `what` (a sentence's start, without a stop) about `name`."""
        self._names.setdefault(what, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """One line per kind: `Transparent parts become white: a.png, b.png.`"""
        return tuple(f"{what}: {listed(names)}." for what, names in self._names.items())


def listed(names: list[str]) -> str:
    """`a, b, c, d, e and 7 more (12 in all)`."""
    shown = ", ".join(names[:SHOWN])
    more = len(names) - SHOWN
    return shown if more <= 0 else f"{shown} and {more} more ({len(names)} in all)"
