"""A path as somebody typed it."""

from __future__ import annotations

from pathlib import Path

from lora_ext.errors import BadInput, Problem

SHOWN = 100  # characters of a path that is not usable


def given_path(field: str, text: str) -> Path:
    """The path with `~` resolved; it need not exist.

    Raises `BadInput` for the setting `field` when nothing can ever be there: too long, a loop of links, a closed
    folder on the way, a NUL in it, the home of nobody.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as e:
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e).rstrip(".")
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
        fix = "Check the spelling, or choose another place."
        raise BadInput(Problem(field, f"this path cannot be used ({reason})", got=repr(shown), fix=fix)) from None
    return path
