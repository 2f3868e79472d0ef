"""The user's own presets: one file each in one folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lora_ext.errors import BadInput, Problem
from lora_ext.presets.own import LARGEST, Preset, check_name, parsed, written

ENDING = ".json"


@dataclass(frozen=True)
class Listed:
    """A file of the folder: its preset, or why it cannot be read."""

    name: str
    preset: Preset | None
    problem: str = ""


class Shelf:
    """Presets in a folder, which is made when the first one is saved."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder

    def listed(self) -> list[Listed]:
        """Every preset, by name; a file that cannot be read is listed with its problem."""
        folder = self._folder()
        if not folder.is_dir():
            return []
        files = [path for path in folder.iterdir() if path.suffix.lower() == ENDING and not path.name.startswith(".")]
        return [_listed(path) for path in sorted(files, key=lambda path: path.name.casefold())]

    def preset(self, name: str) -> Preset:
        """The preset of this name. Raises `BadInput`."""
        return _read(self._existing(name))

    def save(self, preset: Preset, overwrite: bool = False) -> Path:
        """Write it to its file, whole or not at all. Raises `BadInput` when there is one already, or no room."""
        check_name(preset.name)
        found = self._find(preset.name)
        if found is not None and not overwrite:
            fix = "Choose another name or allow to replace it."
            raise BadInput(Problem("preset", "there is a preset of this name already", got=found.stem, fix=fix))
        path = found or self._folder() / f"{preset.name}{ENDING}"
        try:
            _write(path, written(preset))
        except OSError as e:
            raise BadInput(Problem("preset", f"{path} cannot be written ({e.strerror})")) from None
        return path

    def delete(self, name: str) -> None:
        """Remove the preset of this name. Raises `BadInput` when there is none."""
        try:
            self._existing(name).unlink()
        except OSError as e:
            raise BadInput(Problem("preset", f"{name} cannot be removed ({e.strerror})")) from None

    def _existing(self, name: str) -> Path:
        check_name(name)
        found = self._find(name)
        if found is None:
            raise BadInput(Problem("preset", "there is no preset of this name", got=repr(name)))
        return found

    def _find(self, name: str) -> Path | None:
        """Its file, whatever the case of its letters: some systems hold no two that differ in that alone."""
        folder = self._folder()
        if not folder.is_dir():
            return None
        wanted = f"{name}{ENDING}".casefold()
        return next((path for path in folder.iterdir() if path.name.casefold() == wanted), None)


def _listed(path: Path) -> Listed:
    try:
        return Listed(path.stem, _read(path))
    except BadInput as e:
        return Listed(path.stem, None, "; ".join(map(str, e.problems)))


def _read(path: Path) -> Preset:
    """The file is known by its own name, whatever the name inside."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            preset = parsed(file.read(LARGEST + 1))
    except OSError as e:
        raise BadInput(Problem("preset", f"{path.name} cannot be read ({e.strerror})")) from None
    except UnicodeDecodeError:
        raise BadInput(Problem("preset", f"{path.name} is not text in UTF-8")) from None
    return Preset(path.stem, preset.settings, preset.note, preset.goal, preset.family)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
