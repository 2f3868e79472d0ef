"""CLIP's tokenizer (Radford et al. 2021): captions to ids, offline, whatever the versions of the libraries.

CLIP repairs text with ftfy first. Where that is installed, as in every WebUI, it is used here too; elsewhere what
of it matters for captions is done by hand: composed characters and straight quotes.
"""

from __future__ import annotations

import contextlib
import html
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from lora_ext.model import vocabulary
from lora_ext.model.architecture import Architecture

Tokens = tuple[Tensor, ...]
"""One [B, 77] int64 tensor of ids per text encoder."""

START_ID, END_ID = 49406, 49407
LENGTH = 77
ROOM = LENGTH - 2
"""Ids of a caption that an encoder sees; the rest is cut."""

_STRAIGHT = str.maketrans("‘’‚‛“”„‟", "'" * 4 + '"' * 4)
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


class Tokenizer:
    """Captions to ids. Text is plain: no emphasis syntax, no special tokens inside."""

    def tokens(self, texts: Sequence[str], arch: Architecture) -> Tokens:
        """One [B, 77] int64 tensor per text encoder of `arch`: start, at most 75 ids, end, padding.

        Hugging Face's CLIP pads with the end token, OpenCLIP with 0.
        """
        found = [self.ids(text)[:ROOM] for text in texts]
        return tuple(_padded(found, 0 if shape.fused else END_ID) for shape in arch.text)

    def count(self, text: str) -> int:
        """How many ids a caption has, start and end not counted; more than 75 are cut by `tokens`."""
        return len(self.ids(text))

    def ids(self, text: str) -> list[int]:
        """All ids of a text, without start and end."""
        return [i for word in _words(_clean(text)) for i in _word_ids(word)]


def _padded(rows: list[list[int]], pad: int) -> Tensor:
    full = [[START_ID, *row, END_ID] for row in rows]
    return torch.tensor([row + [pad] * (LENGTH - len(row)) for row in full], dtype=torch.int64).view(-1, LENGTH)


def _clean(text: str) -> str:
    return " ".join(html.unescape(html.unescape(_repair(text))).split()).lower()


def _by_hand(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(_STRAIGHT)


_repair: Callable[[str], str] = _by_hand
with contextlib.suppress(ImportError):
    from ftfy import fix_text

    _repair = fix_text


def _words(text: str) -> Iterator[str]:
    """Split like CLIP's pattern: contractions, runs of letters, single digits, runs of anything else but spaces."""
    at = 0
    while at < len(text):
        word = next((c for c in _CONTRACTIONS if text.startswith(c, at)), None) or _run(text, at)
        at += len(word)
        if not word.isspace():
            yield word


def _run(text: str, start: int) -> str:
    kind = _kind(text[start])
    end = start + 1
    while kind != "N" and end < len(text) and _kind(text[end]) == kind:
        end += 1
    return text[start:end]


def _kind(character: str) -> str:
    """L(etter), N(umber), space or another."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "."


@lru_cache(maxsize=65536)
def _word_ids(word: str) -> tuple[int, ...]:
    """Byte-pair encoding: join the pair that was merged earliest until no known pair is left."""
    letters, ranks = vocabulary.byte_letters(), _ranks()
    pieces = [letters[b] for b in word.encode("utf8", errors="replace")]
    pieces[-1] += "</w>"
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        pieces = _joined(pieces, best)
    return tuple(vocabulary.ids()[piece] for piece in pieces)


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


@lru_cache(maxsize=1)
def _ranks() -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(vocabulary.merges())}
