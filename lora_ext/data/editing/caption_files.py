"""Caption files on disk: what state they are in, written whole or not at all, and what they were before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from lora_ext.data.captions import read_caption
from lora_ext.data.editing.history import Text
from lora_ext.errors import BadInput, Problem

FOLDER = ".lora_ext_captions"
"""In the picture folder; hidden, so that scans pass it by."""

_ABSENT = "absent.json"
"""Names of caption files that were not there yet."""

State = tuple[int, int] | None
"""Size and time of a file, None when there is none."""


def state_of(path: Path) -> State:
    """How a file is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def text_of(path: Path) -> Text:
    """What a caption file says; None when there is none. Raises `OSError` when it cannot be read."""
    try:
        return "\n".join(read_caption(path).lines)
    except FileNotFoundError:
        return None


def put(path: Path, text: Text) -> None:
    """Write a caption as UTF-8, whole or not at all; None takes the file away. Raises `OSError`."""
    if text is None:
        path.unlink(missing_ok=True)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".lora-ext-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _mode(path: Path) -> int:
    """Permissions for the new file: those of the old one, else of the folder's, without running."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.parent.stat().st_mode) & 0o666
    return 0o644


@dataclass(frozen=True)
class Backup:
    """Captions as they were before a Save; `name` is when that was."""

    name: str
    count: int


def keep(root: Path, files: Sequence[Path], now: datetime) -> str:
    """Copy caption files as they are into a new backup; its name. Raises `OSError`."""
    stem = now.strftime("%Y-%m-%d %H-%M-%S")
    place = _new_folder(root / FOLDER, stem)
    absent: list[str] = []
    for path in files:
        name = path.relative_to(root)
        if not path.exists():
            absent.append(name.as_posix())
            continue
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place / name)
    (place / _ABSENT).write_bytes(json.dumps(absent).encode("utf-8"))
    return place.name


def _new_folder(above: Path, stem: str) -> Path:
    above.mkdir(exist_ok=True)
    number = 1
    while True:
        place = above / (stem if number == 1 else f"{stem} ({number})")
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
        else:
            return place


def backups(root: Path) -> list[Backup]:
    """Every backup, newest first."""
    try:
        folders = [path for path in (root / FOLDER).iterdir() if (path / _ABSENT).is_file()]
    except OSError:
        return []
    made = sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    return [Backup(path.name, len(_kept(path)) + len(_absent(path))) for path in made]


def kept(root: Path, name: str) -> Mapping[Path, Text]:
    """What a backup holds, by caption file in the picture folder. Raises `BadInput` when there is no such backup."""
    place = root / FOLDER / name
    if name not in {backup.name for backup in backups(root)}:
        raise BadInput(Problem("backup", "these captions are not kept any more", got=name))
    try:
        found: dict[Path, Text] = {root / path.relative_to(place): text_of(path) for path in _kept(place)}
    except OSError as e:
        raise BadInput(Problem("backup", f"these captions cannot be read ({e.strerror})", got=name)) from e
    return {**found, **{root / PurePosixPath(path): None for path in _absent(place)}}


def _kept(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and path != place / _ABSENT)


def _absent(place: Path) -> list[str]:
    try:
        names = json.loads((place / _ABSENT).read_bytes())
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
