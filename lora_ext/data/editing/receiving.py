"""Files that are dropped on the page: checked, named safely, and never over what is there."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from lora_ext.data.captions import EXTENSIONS as CAPTIONS
from lora_ext.data.picture_file import printable, read_header, readable_extensions
from lora_ext.errors import BadInput, Problem

LARGEST = 64 * 2**20
"""Bytes of a picture."""

LARGEST_CAPTION = 2**20
"""Bytes of a caption file."""

LISTS = frozenset({".json", ".jsonl", ".csv"})

_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]')


@dataclass(frozen=True)
class Received:
    """A file that was taken; `name` may differ from the one it came with. `known`: the same was there already."""

    name: str
    known: bool


def safe_name(given: str) -> str:
    """A file name that every system can hold, without any folder. Raises `BadInput` (field `file`)."""
    last = given.replace("\\", "/").rpartition("/")[2]
    name = " ".join(_FORBIDDEN.sub("_", last).split()).strip(". ")
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem.strip("_ ."):
        raise _bad(given, "this name cannot be used", fix="Rename the file.")
    if _RESERVED.fullmatch(name):
        stem = f"{stem}_"
    stem = stem.encode("utf-8")[:120].decode("utf-8", "ignore").rstrip()
    return f"{stem}.{extension.lower()}"


def limit(name: str) -> int:
    """How many bytes a file of this name may have. Raises `BadInput` for kinds of file that are not taken."""
    extension = Path(name).suffix.lower()
    if extension in readable_extensions():
        return LARGEST
    if extension in CAPTIONS or extension in LISTS:
        return LARGEST_CAPTION
    kinds = ", ".join(sorted(e.lstrip(".") for e in readable_extensions()))
    raise _bad(name, "files of this kind are not taken", f"{kinds}, or captions as txt or caption")


async def receive(folder: Path, given: str, body: AsyncIterator[bytes]) -> Received:
    """Take one file into `folder`. Raises `BadInput`: `file` for one that is too large, no picture or ill-named.

    The folder is made when only it is missing; `images` tells when it cannot be used.
    """
    name = safe_name(given)
    most = limit(name)
    try:
        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".lora-ext-", suffix=f".part{Path(name).suffix}")
    except OSError as e:
        raise BadInput(
            Problem("images", f"files cannot be put there ({e.strerror})", got=printable(str(folder)))
        ) from e
    try:
        with os.fdopen(handle, "wb") as file:
            size = 0
            async for part in body:
                size += len(part)
                if size > most:
                    raise _bad(name, "the file is too large", f"at most {most // 2**20} MB")
                file.write(part)
        return _settle(Path(temporary), folder, name, most == LARGEST)
    except OSError as e:
        raise BadInput(Problem("file", f"“{name}”: the file cannot be written ({e.strerror})")) from e
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _settle(temporary: Path, folder: Path, name: str, picture: bool) -> Received:
    if picture:
        try:
            read_header(temporary)
        except BadInput as e:
            raise _bad(name, e.problems[0].what, e.problems[0].expected) from e
    with contextlib.suppress(OSError):
        os.chmod(temporary, 0o644)
    stem, extension = Path(name).stem, Path(name).suffix
    number = 1
    while True:
        place = folder / (name if number == 1 else f"{stem} ({number}){extension}")
        if place.exists() and filecmp.cmp(temporary, place, shallow=False):
            return Received(place.name, known=True)
        if _claim(temporary, place):
            return Received(place.name, known=False)
        number += 1


def _claim(temporary: Path, place: Path) -> bool:
    """Give the file its name, unless something has it. Exclusive creation, so that two pages cannot both have it."""
    try:
        place.open("xb").close()
    except FileExistsError:
        return False
    os.replace(temporary, place)
    return True


def _bad(name: str, what: str, expected: str = "", fix: str = "") -> BadInput:
    return BadInput(Problem("file", f"“{printable(name)}”: {what}", expected, fix=fix))
