"""CLIP's byte-pair vocabulary, as data that ships with the project: no hub is ever asked."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

START = "<|startoftext|>"
END = "<|endoftext|>"
SIZE = 49408

_MERGES = Path(__file__).parent / "clip_vocab" / "merges.txt.gz"


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """The 48894 merges, most frequent first."""
    with gzip.open(_MERGES, "rt", encoding="utf8") as file:
        pairs = [tuple(line.split()) for line in file.read().splitlines()]
    return tuple((pair[0], pair[1]) for pair in pairs)


@cache
def ids() -> dict[str, int]:
    """Token -> id: the 256 bytes, the same at the end of a word, the merges in order, then start and end."""
    letters = list(byte_letters().values())
    tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges()), START, END]
    return {token: i for i, token in enumerate(tokens)}


@cache
def byte_letters() -> dict[int, str]:
    """Byte -> the printable character that stands for it in the vocabulary (GPT-2's `bytes_to_unicode`).

    Printable Latin-1 bytes stand for themselves and come first; the others follow as characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def write_files(folder: Path) -> None:
    """Write `vocab.json` and `merges.txt` as Hugging Face's CLIP tokenizers read them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids(), ensure_ascii=False), encoding="utf8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf8")
