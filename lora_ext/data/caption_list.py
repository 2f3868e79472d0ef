"""Captions of many pictures in one file: JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from lora_ext.data.captions import decode_text
from lora_ext.errors import BadInput, Problem

NAMES = ("metadata.jsonl", "metadata.csv", "captions.json", "metadata.json", "image_captions.json")
"""Found by themselves in a picture folder, best first; the first two are those of Hugging Face's image folders."""

_NAME_COLUMNS = ("file_name", "image", "path", "file", "filename", "name")
_TEXT_COLUMNS = ("text", "caption", "prompt", "tags")


class CaptionList:
    """Captions by picture, looked up by path below the list's folder, by file name or by stem."""

    def __init__(self, path: Path, captions: Mapping[str, str]) -> None:
        self.path = path
        self._captions = {_key(name): text for name, text in captions.items()}

    @classmethod
    def read(cls, path: Path) -> CaptionList:
        """Read a list by its extension; see `caption_file` for its forms.

        Raises `BadInput` (field `caption_file`) when it cannot be read or holds no captions.
        """
        try:
            text = decode_text(path.read_bytes())[0]
            captions = dict(_entries(path.suffix.lower(), text))
        except OSError as e:
            raise _bad(path, f"the caption list cannot be read ({e.strerror or type(e).__name__})") from e
        except RecursionError:
            raise _bad(path, "the caption list is nested too deeply") from None
        except (ValueError, csv.Error) as e:
            raise _bad(path, f"the caption list is damaged ({' '.join(str(e).split())})") from None
        if not captions:
            raise _bad(path, "the caption list holds no captions")
        return cls(path, captions)

    def find(self, picture: Path) -> str | None:
        """The caption of a picture, None when it is not in the list. A whole path beats a file name beats a stem."""
        try:
            below = picture.relative_to(self.path.parent)
        except ValueError:
            below = Path(picture.name)
        names = (below.as_posix(), below.with_suffix("").as_posix(), picture.as_posix(), picture.name, picture.stem)
        return next((self._captions[key] for name in names if (key := _key(name)) in self._captions), None)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(name.replace("\\", "/"))))


def _entries(extension: str, text: str) -> Iterator[tuple[str, str]]:
    if extension == ".csv":
        yield from _rows(csv.DictReader(io.StringIO(text)))
    elif extension == ".jsonl":
        yield from _rows(json.loads(line) for line in text.splitlines() if line.strip())
    else:
        raw = json.loads(text)
        if isinstance(raw, list):
            yield from _rows(iter(raw))
        elif isinstance(raw, dict):
            yield from ((name, caption) for name, value in raw.items() if (caption := _caption(value)) is not None)
        else:
            raise ValueError("an object or a list is expected")


def _rows(rows: Iterator[object]) -> Iterator[tuple[str, str]]:
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError("every entry must be an object")
        name = next((row[column] for column in _NAME_COLUMNS if isinstance(row.get(column), str)), None)
        if name and (caption := _caption(row)) is not None:
            yield name, caption


def _caption(value: object) -> str | None:
    """A caption itself, or an object's caption with its tags behind (as sd-scripts' metadata files have)."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    found = [value[column] for column in _TEXT_COLUMNS if isinstance(value.get(column), str)]
    return ", ".join(text.strip() for text in found if text.strip()) if found else None


def _bad(path: Path, what: str) -> BadInput:
    expected = 'JSON ({"name": "caption"}), JSONL or CSV with file_name and text'
    return BadInput(Problem("caption_file", what, expected, path.name))
