"""Which settings have a test that fails when they are ignored."""

from __future__ import annotations

SEEN: set[str] = set()


def about(*names):
    """Marks a test as the one that fails when these settings are ignored."""
    SEEN.update(names)
    return lambda test: test
