"""Writing a file so that its name never stands for half of it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from lora_ext.errors import BadInput, Problem


def write_atomically(path: Path, pieces: Iterable[bytes]) -> None:
    """Write to a temporary file in the same folder, flush it to the disk, then rename it over `path`.

    Whatever happens on the way, `path` is either as it was or whole, and the temporary file is gone (a killed process
    leaves it behind as `.<name>.<random>.tmp`, which no host lists). Raises `BadInput` when the disk or the folder
    refuses.
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        try:
            _write(temporary, pieces)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except (OSError, ValueError) as e:
        if isinstance(e, BadInput):
            raise
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
        raise BadInput(
            Problem(
                os.fspath(path), "the file could not be written", got=reason, fix="Check the folder and its free space."
            )
        ) from e


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open folders; its rename is journaled
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        # network file systems may refuse; the file itself is already on the disk
        pass
    finally:
        os.close(handle)
