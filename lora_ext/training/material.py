"""What the loop is fed with: latents and captions, each encoded once, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.config import TrainConfig
from lora_ext.data import Batches, DataReport, LatentCache, Picture, Sample, TextCache
from lora_ext.live import LiveModel, Session
from lora_ext.model import Conditioning, TextEncoders, Tokenizer, Tokens, build_text, build_vae
from lora_ext.model.architecture import Architecture
from lora_ext.training.events import Event, Notice, Stage
from lora_ext.training.precision import Arithmetic

LONGEST = 75  # tokens of a caption that CLIP can see; two of its 77 places are start and end
VAE_PREFIX = "first_stage_model."


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the training device. `text` is finished conditioning, or tokens when the encoders learn too.

    `latents` [B, 4, h, w]; `sizes` [B, 6] is SDXL's size conditioning; `weights` [B] is how much each sample counts
    and `mask` [B, 1, h, w] in 0..1 where, None for alike and everywhere.
    """

    latents: Tensor
    text: Conditioning | Tokens
    sizes: Tensor
    weights: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Material:
    """Everything cached; `report` is without pictures whose pixels could not be read."""

    report: DataReport
    batches: Batches
    latents: LatentCache
    conditioning: TextCache[Conditioning] | None
    tokens: TextCache[Tokens]
    prior_weight: float = 1.0

    def batch(self, samples: Sequence[Sample], device: torch.device) -> Batch:
        """Put samples of one bucket together on the device."""
        seen = [(self.report.pictures[s.picture_index], s.flipped) for s in samples]
        captions = [picture.caption for picture, _ in seen]
        sizes = torch.tensor([picture.time_ids(flipped) for picture, flipped in seen])
        text: Conditioning | Tokens
        if self.conditioning is None:
            rows = [self.tokens[caption] for caption in captions]
            text = tuple(_send(torch.stack(column), device) for column in zip(*rows, strict=True))
        else:
            text = _join([self.conditioning[caption] for caption in captions], device)
        weights = self._weights([picture for picture, _ in seen])
        return Batch(
            _send(self.latents.batch(seen), device),
            text,
            _send(sizes, device),
            None if weights is None else _send(weights, device),
        )

    def _weights(self, pictures: Sequence[Picture]) -> Tensor | None:
        if self.prior_weight == 1.0 or not any(p.regularisation for p in pictures):
            return None
        return torch.tensor([self.prior_weight if p.regularisation else 1.0 for p in pictures])


def prepare(
    model: LiveModel, session: Session, config: TrainConfig, arithmetic: Arithmetic, report: DataReport
) -> Generator[Event, None, Material]:
    """Encode pictures and captions, one encoder on the device at a time; yields progress."""
    session.place("vae")
    latents = LatentCache()
    encode = _picture_encoder(model)
    total = len(report.pictures)
    yield Stage("Caching latents", 0, total)
    for done in latents.build(report.pictures, encode, config.data.flip):
        yield Stage("Caching latents", done, total)
    del encode
    for skipped in latents.skipped:
        yield Notice(f"Picture skipped: {skipped.name} ({skipped.reason}).")
    report = report.without(latents.skipped)

    tokenizer, tokens = Tokenizer(), TextCache[Tokens]()
    for _ in tokens.build(report.captions, lambda texts: _by_caption(tokenizer.tokens(texts, model.architecture))):
        pass
    yield from map(Notice, _cut(report.captions, tokenizer))
    conditioning = None
    if not config.optim.text_encoder_lr:
        session.place("te")
        conditioning = TextCache[Conditioning]()
        live = arithmetic.tensors(model.tensors, text_prefixes(model.architecture))
        encoders = build_text(model.architecture, live)
        total = len(report.captions)
        yield Stage("Caching captions", 0, total)
        finished = _caption_encoder(encoders, tokens, arithmetic, clip_skip(model, config))
        for done in conditioning.build(report.captions, finished):
            yield Stage("Caching captions", done, total)
    batches = Batches(report, config.data.batch_size, config.optim.seed, config.data.flip)
    return Material(report, batches, latents, conditioning, tokens, config.loss.prior_weight)


def text_prefixes(arch: Architecture) -> tuple[str, ...]:
    """Where the text encoders' tensors are in the checkpoint."""
    return tuple(text.prefix for text in arch.text)


def clip_skip(model: LiveModel, config: TrainConfig) -> int:
    """SDXL was trained on one layer only and always uses it; `check.remarks` says so."""
    return 0 if model.architecture.family == "sdxl" else config.text.clip_skip


def _picture_encoder(model: LiveModel) -> Callable[[Tensor], Tensor]:
    """Pixels to scaled latents, in float32 throughout: SDXL's VAE overflows float16, and this is done once.

    The mean of the VAE's posterior is taken, not a sample: its spread is a thousandth of the latents', and so the same
    picture always gives the same latents.
    """
    exact = Arithmetic(torch.float32, model.device)
    vae = build_vae(model.architecture, exact.tensors(model.tensors, (VAE_PREFIX,)))
    scale = model.architecture.vae.scale

    def encode(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            mean: Tensor = vae.encode(pixels.to(model.device)).latent_dist.mode()
            return mean * scale

    return encode


def _caption_encoder(
    encoders: TextEncoders, tokens: TextCache[Tokens], arithmetic: Arithmetic, skip: int
) -> Callable[[list[str]], list[Conditioning]]:
    def encode(captions: list[str]) -> list[Conditioning]:
        rows = [tokens[caption] for caption in captions]
        columns = tuple(torch.stack(column).to(arithmetic.device) for column in zip(*rows, strict=True))
        with torch.no_grad(), arithmetic.autocast():
            found = encoders.encode(columns, skip)
        context = found.context.cpu()
        pooled = [None] * len(captions) if found.pooled is None else found.pooled.cpu()
        return [Conditioning(one, other) for one, other in zip(context, pooled, strict=True)]

    return encode


def _by_caption(tokens: Tokens) -> list[Tokens]:
    return list(zip(*tokens, strict=True))


def _join(rows: Sequence[Conditioning], device: torch.device) -> Conditioning:
    pooled = [row.pooled for row in rows if row.pooled is not None]
    context = _send(torch.stack([row.context for row in rows]), device)
    return Conditioning(context, _send(torch.stack(pooled), device) if pooled else None)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for the work already queued there, which a copy from pageable memory would."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _cut(captions: Sequence[str], tokenizer: Tokenizer) -> Iterator[str]:
    long = [caption for caption in captions if tokenizer.count(caption) > LONGEST]
    if long:
        which = "; ".join(f'"{caption[:60]}…"' for caption in long[:5]) + (" and others" if len(long) > 5 else "")
        yield f"{len(long)} caption(s) are longer than {LONGEST} tokens and are cut: {which}"
