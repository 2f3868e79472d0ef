"""The foreign files of these tests, and what became of their keys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lora_ext.config_import import Import, read_foreign
from lora_ext.config_import.outcome import Entry

FILES = Path(__file__).parent / "files"


def imported(name: str) -> Import:
    out = read_foreign(FILES / name)
    assert out is not None
    return out


def why(out: Import, key: str) -> str:
    (entry,) = [e for e in (*out.refused, *out.meaningless) if e.key == key]
    return entry.what


def keys(entries: Iterable[Entry]) -> list[str]:
    return [e.key for e in entries]
