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

PATIENCE = 30.0
"""Seconds without a byte until the connection counts as lost."""


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
        except urllib.error.HTTPError as e:
            raise _bad(f"the server has not given {place.name} ({e.code} {e.reason})", by_hand) from e
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as e:
            said = getattr(e, "reason", None) or e or type(e).__name__
            raise _bad(f"{place.name} cannot be fetched: there is no connection ({said})", by_hand) from e
        except OSError as e:
            raise _bad(f"{place.name} cannot be written ({e.strerror or e})", "Make room on the disk.") from e
        if size is None:
            return False
        done += size
    return True


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


def _bad(what: str, fix: str) -> BadInput:
    return BadInput(Problem("captioner", what, fix=fix))
