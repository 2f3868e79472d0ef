"""Fetching the files of a model, when a user presses for it and never otherwise."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lora_ext.errors import BadInput, Problem

PART = 1 << 20
"""Bytes read at a time; between them the user may stop."""

PATIENCE = 15.0
"""Seconds without a byte until the connection counts as lost."""

LOST = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


def fetch(
    files: Mapping[str, Path], progress: Callable[[int, int], None], stop: Callable[[], bool], by_hand: str
) -> bool:
    """Fetch what is not there yet, from address to place, each whole or not at all; False when stopped.

    `progress(done, total)` in bytes, total 0 when unknown. `by_hand`: a sentence that says what to do without a
    connection. Raises `BadInput` (field `captioner`): no connection, no such file, disk full.
    """
    done = 0
    for address, place in files.items():
        if place.exists():
            continue
        try:
            size = _one(address, place, partial(_told, progress, done), stop)
        except LOST as e:
            raise _lost(place.name, e, by_hand) from e
        except OSError as e:
            what = f"the file {place.name} cannot be written ({e.strerror or e})"
            raise _bad(what, "Make room on the disk, and see that it may be written to.") from e
        if size is None:
            return False
        done += size
    return True


def reach(address: str, by_hand: str) -> None:
    """Soon raises what `fetch` would, `BadInput`, if a file cannot be fetched: for downloaders that try for minutes."""
    try:
        urllib.request.urlopen(address, timeout=PATIENCE).close()
    except LOST as e:
        raise _lost(address.rpartition("/")[2], e, by_hand) from e


def _told(progress: Callable[[int, int], None], before: int, done: int, total: int) -> None:
    progress(before + done, before + total if total else 0)


def _one(address: str, place: Path, progress: Callable[[int, int], None], stop: Callable[[], bool]) -> int | None:
    """Bytes of the file; None when stopped."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.part")
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer, part.open("wb") as file:
            total = int(answer.headers.get("content-length") or 0)
            done = 0
            while block := answer.read(PART):
                if stop():
                    return None
                file.write(block)
                done += len(block)
                progress(done, total)
        if total and done != total:
            raise ConnectionError(f"only {done} of {total} bytes came")
        os.replace(part, place)
        return done
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _lost(name: str, error: Exception, by_hand: str) -> BadInput:
    if isinstance(error, urllib.error.HTTPError):
        what = f"the server has not given {name} ({error.code} {error.reason})"
        return _bad(what, by_hand)
    said = getattr(error, "reason", None) or error or type(error).__name__
    what = f"the file {name} cannot be fetched: there is no connection ({said})"
    return _bad(what, by_hand)


def _bad(what: str, fix: str) -> BadInput:
    return BadInput(Problem("captioner", what, fix=fix))
