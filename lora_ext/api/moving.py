"""Files that change their names without ever taking another's, and what was made on the way taken back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lora_ext.errors import BadInput, Problem
from lora_ext.formats import write_atomically
from lora_ext.hosts.card import PICTURES

NOTES = (".json", ".txt", ".description.txt", ".civitai.info")
BESIDE = (*NOTES, *(middle + "." + ending for middle in ("", ".preview") for ending in PICTURES))
"""Endings of what belongs to a LoRA file, in place of its own."""


def beside(path: Path) -> list[Path]:
    """Where notes and pictures of a LoRA file would be."""
    return [path.with_name(path.stem + ending) for ending in BESIDE]


def move(source: Path, target: Path) -> None:
    """Rename; `target` is the whole file or not there. Raises `BadInput` for "name" when it is taken, `OSError`."""
    try:
        if target.exists() and target.samefile(source):  # only upper and lower case differ, and the system sees none
            os.rename(source, target)
            return
        _claim(source, target)
    except FileExistsError:
        fix = "Choose another name."
        raise BadInput(Problem("name", "a file of this name is there already", got=target.name, fix=fix)) from None


def _claim(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # not every file system has a second name for a file
        with target.open("xb"):
            pass  # the name is ours
        try:
            os.replace(source, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return
    try:
        source.unlink()
    except BaseException:
        target.unlink(missing_ok=True)
        raise


class Moved:
    """Copies and changes that can be undone until all is well."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._old: list[Path] = []

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file, if it is there, to a name that is free. Raises `FileExistsError`."""
        if not source.is_file() or (target.exists() and target.samefile(source)):
            return
        with target.open("xb"):
            self._undo.append(target.unlink)
        shutil.copy2(source, target)
        self._old.append(source)

    def write(self, target: Path, content: bytes) -> None:
        """Write a file, or write it anew."""
        self.keep(target)
        write_atomically(target, [content])

    def keep(self, target: Path) -> None:
        """Remember a file that is about to be written."""
        if target.is_file():
            before = target.read_bytes()
            self._undo.append(lambda: target.write_bytes(before))
        else:
            self._undo.append(lambda: target.unlink(missing_ok=True))

    def undo(self) -> None:
        """Everything as it was."""
        for step in reversed(self._undo):
            step()

    def remove_old(self) -> None:
        """The copies stand; what they were made from goes. One that cannot be deleted hurts nobody."""
        for path in self._old:
            try:
                path.unlink()
            except OSError:
                continue
