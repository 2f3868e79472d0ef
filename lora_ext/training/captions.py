"""Captions of one, two or three times 75 tokens, read in pieces as hosts read long prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lora_ext.data import TextCache
from lora_ext.model import Conditioning, TextEncoders, Tokenizer, Tokens
from lora_ext.model.architecture import Architecture
from lora_ext.model.tokenizer import END_ID, LENGTH, ROOM, START_ID
from lora_ext.training.precision import Arithmetic


def tokenized(captions: Sequence[str], tokenizer: Tokenizer, arch: Architecture, longest: int) -> list[Tokens]:
    """Per caption one int64 [n, 77] per text encoder, n pieces of 75 tokens; what is beyond `longest` tokens is cut.

    Each piece has its own start and end, as in the WebUI. Up to 75 tokens, also none, are one piece.
    """
    return [_pieces(tokenizer.ids(caption)[:longest], arch) for caption in captions]


def encoded(encoders: TextEncoders, tokens: Tokens, skip: int) -> Conditioning:
    """Conditioning of [B, n, 77] ids per encoder: context [B, n·77, C], pooled [B, P] of the first piece."""
    batch, pieces = tokens[0].shape[:2]
    found = encoders.encode(tuple(ids.flatten(0, 1) for ids in tokens), skip)
    context = found.context.reshape(batch, pieces * found.context.shape[1], -1)
    return Conditioning(context, None if found.pooled is None else found.pooled[::pieces])


def caption_encoder(
    encoders: TextEncoders, tokens: TextCache[Tokens], arithmetic: Arithmetic, skip: int
) -> Callable[[list[str]], list[Conditioning]]:
    """Finished conditioning by caption, on the CPU: context [n·77, C], pooled [P]."""

    def encode(captions: list[str]) -> list[Conditioning]:
        rows = [tokens[caption] for caption in captions]
        found: dict[int, Conditioning] = {}
        with torch.no_grad(), arithmetic.autocast():
            for which in _by_length(rows):
                found |= zip(
                    which, _encode_alike(encoders, [rows[i] for i in which], arithmetic.device, skip), strict=True
                )
        return [found[index] for index in range(len(rows))]

    return encode


def token_batch(rows: Sequence[Tokens], empty: Tokens | None) -> tuple[Tensor, ...]:
    """[B, n, 77] per encoder; shorter captions are filled up with pieces of nothing."""
    most = max(row[0].shape[0] for row in rows)
    filled = [_filled(row, empty, most) for row in rows]
    return tuple(torch.stack(column) for column in zip(*filled, strict=True))


def context_batch(rows: Sequence[Conditioning], empty: Conditioning | None) -> tuple[Tensor, Tensor | None]:
    """Context [B, n·77, C], shorter ones filled up with the encoding of nothing, and pooled [B, P]."""
    most = max(row.context.shape[0] for row in rows)
    contexts = [row.context for row in rows]
    if empty is not None:
        contexts = [torch.cat([c, *[empty.context] * ((most - len(c)) // len(empty.context))]) for c in contexts]
    pooled = [row.pooled for row in rows if row.pooled is not None]
    return torch.stack(contexts), torch.stack(pooled) if pooled else None


def packed(one: Conditioning) -> dict[str, Tensor]:
    """A caption's conditioning as tensors, for a cache folder."""
    return {"context": one.context} if one.pooled is None else {"context": one.context, "pooled": one.pooled}


def unpacked(tensors: Mapping[str, Tensor]) -> Conditioning:
    """The other way round. Raises `KeyError` for tensors that are something else."""
    return Conditioning(tensors["context"], tensors.get("pooled"))


def cut(captions: Sequence[str], tokenizer: Tokenizer, longest: int) -> Iterator[str]:
    """A sentence about captions that are too long, if any."""
    long = [caption for caption in captions if tokenizer.count(caption) > longest]
    if long:
        which = "; ".join(f'"{caption[:60]}…"' for caption in long[:5]) + (" and others" if len(long) > 5 else "")
        yield f"{len(long)} caption(s) are longer than {longest} tokens and are cut: {which}"


def _pieces(ids: list[int], arch: Architecture) -> Tokens:
    parts = [ids[i : i + ROOM] for i in range(0, len(ids), ROOM)] or [[]]
    return tuple(torch.tensor([_row(part, 0 if shape.fused else END_ID) for part in parts]) for shape in arch.text)


def _row(ids: list[int], pad: int) -> list[int]:
    """Hugging Face's CLIP pads with the end token, OpenCLIP with 0."""
    return [START_ID, *ids, END_ID] + [pad] * (LENGTH - len(ids) - 2)


def _by_length(rows: Sequence[Tokens]) -> Iterator[list[int]]:
    """Indices of captions of one length at a time: a batch of one length needs no filling."""
    for length in sorted({row[0].shape[0] for row in rows}):
        yield [index for index, row in enumerate(rows) if row[0].shape[0] == length]


def _encode_alike(
    encoders: TextEncoders, rows: Sequence[Tokens], device: torch.device, skip: int
) -> Iterator[Conditioning]:
    found = encoded(encoders, tuple(ids.to(device) for ids in token_batch(rows, None)), skip)
    pooled = [None] * len(rows) if found.pooled is None else list(found.pooled.cpu())
    for context, other in zip(found.context.cpu(), pooled, strict=True):
        yield Conditioning(context, other)


def _filled(row: Tokens, empty: Tokens | None, most: int) -> Tokens:
    missing = most - row[0].shape[0]
    if not missing:
        return row
    assert empty is not None, "captions of several pieces come with the empty one"
    return tuple(torch.cat([ids, *[nothing] * missing]) for ids, nothing in zip(row, empty, strict=True))
