"""Captions encoded in time: all of a run's beforehand, or epoch by epoch where so many would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_ext.data import Batches, TextCache
from lora_ext.live import LiveModel, Session
from lora_ext.model import Conditioning, Tokenizer, Tokens, build_text
from lora_ext.model.architecture import Architecture
from lora_ext.model.tokenizer import LENGTH, ROOM
from lora_ext.training.captions import caption_encoder, tokenized
from lora_ext.training.events import Stage
from lora_ext.training.precision import Arithmetic


@dataclass
class CaptionSupply:
    """Fills `tokens` and, unless the text encoders learn, `conditioning` (else None) with what batches ask for.

    `prefixes`: of the text encoders' tensors. `always` are captions that every epoch may use; they are never forgotten.
    What is encoded for an epoch hangs on that epoch alone, so that a resumed run has the very bits of an unbroken one.
    """

    model: LiveModel
    arithmetic: Arithmetic
    batches: Batches
    prefixes: tuple[str, ...]
    always: tuple[str, ...]
    tokens: TextCache[Tokens]
    conditioning: TextCache[Conditioning] | None
    skip: int
    longest: int
    by_epoch: bool = False
    """Whether `of_epoch` has anything to do."""
    _epoch: int = -1

    def encode(self, captions: Sequence[str], session: Session) -> Iterator[Stage]:
        """Encode captions not yet known, the text encoders on the device meanwhile; tells how far it is."""
        tokenizer = Tokenizer()
        for _ in self.tokens.build(
            captions, lambda texts: tokenized(texts, tokenizer, self.model.architecture, self.longest)
        ):
            pass
        if self.conditioning is None:
            return
        session.place("te")
        arch = self.model.architecture
        encoders = build_text(arch, self.arithmetic.tensors(self.model.tensors, self.prefixes))
        encode = caption_encoder(encoders, self.tokens, self.arithmetic, self.skip)
        total, known = len(captions), len(self.conditioning)
        yield Stage("Caching captions", 0, total)
        for done in self.conditioning.build(captions, encode):
            yield Stage("Caching captions", done - known, total)

    def lacks(self, n: int) -> bool:
        """Whether `of_epoch` has something to encode for epoch `n` (from 0)."""
        return self.by_epoch and n != self._epoch and bool(self._missing(n))

    def of_epoch(self, n: int, session: Session) -> Iterator[Stage]:
        """Encode the captions of epoch `n` and forget those of others.

        Only the text encoders are on the device then; whoever goes on places again.
        """
        missing = self._missing(n)
        for cache in (self.tokens, self.conditioning):
            if cache is not None:
                cache.keep(self.always)
        yield from self.encode(missing, session)
        self._epoch = n

    def _missing(self, n: int) -> list[str]:
        always = set(self.always)
        return [caption for caption in self.batches.captions(n) if caption not in always]


def caption_bytes(arch: Architecture, longest: int) -> int:
    """Of one caption's conditioning in float32: context [n·77, C] and, of SDXL, the pooled [P]."""
    pieces = -(-longest // ROOM)
    pooled = arch.text[-1].projection if arch.family == "sdxl" else 0
    return 4 * (pieces * LENGTH * arch.unet.context_dim + pooled)
