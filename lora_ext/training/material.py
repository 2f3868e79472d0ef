"""What the loop is fed with: latents and captions, each encoded once, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.config import TrainConfig
from lora_ext.data import Batches, DataReport, LatentCache, Picture, Sample, Store, TextCache, fingerprint
from lora_ext.live import LiveModel, Session
from lora_ext.model import Conditioning, Tokenizer, Tokens, build_vae
from lora_ext.model.architecture import Architecture
from lora_ext.model.tokenizer import ROOM
from lora_ext.training.caption_supply import CaptionSupply, caption_bytes
from lora_ext.training.captions import context_batch, cut, packed, token_batch, unpacked
from lora_ext.training.events import Event, Notice, Stage
from lora_ext.training.precision import Arithmetic
from lora_ext.training.schedule import Length

VAE_PREFIX = "first_stage_model."


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the training device. `text` is finished conditioning, or tokens when the encoders learn too.

    Tokens are [B, n, 77] per encoder. `latents` [B, 4, h, w]; `sizes` [B, 6] is SDXL's size conditioning; `weights` [B]
    is how much each sample counts and `mask` [B, 1, h, w] in 0..1 where, None for alike and everywhere.
    """

    latents: Tensor
    text: Conditioning | Tokens
    sizes: Tensor
    weights: Tensor | None = None
    mask: Tensor | None = None

    def __getitem__(self, which: slice) -> Batch:
        """Some of the samples."""
        text: Conditioning | Tokens
        if isinstance(self.text, Conditioning):
            pooled = None if self.text.pooled is None else self.text.pooled[which]
            text = Conditioning(self.text.context[which], pooled)
        else:
            text = tuple(ids[which] for ids in self.text)
        weights = None if self.weights is None else self.weights[which]
        mask = None if self.mask is None else self.mask[which]
        return Batch(self.latents[which], text, self.sizes[which], weights, mask)


@dataclass(frozen=True)
class Material:
    """Everything cached; `report` is without pictures whose pixels could not be read."""

    report: DataReport
    batches: Batches
    latents: LatentCache
    supply: CaptionSupply
    prior_weight: float = 1.0
    fills: bool = False
    """Whether captions may differ in length; then the empty one, which fills them up, is cached too."""

    def batch(self, samples: Sequence[Sample], device: torch.device) -> Batch:
        """Put samples of one bucket together on the device."""
        seen = [(self.batches.picture(s), s.flipped) for s in samples]
        return self._batch(seen, [s.caption for s in samples], device, self._weights([p for p, _ in seen]))

    def held_out(self, picture: Picture, device: torch.device) -> Batch:
        """A picture of `report.validation` with its caption, as a batch of one."""
        return self._batch([(picture, False)], [picture.caption], device, None)

    def _batch(
        self,
        seen: Sequence[tuple[Picture, bool]],
        captions: Sequence[str],
        device: torch.device,
        weights: Tensor | None,
    ) -> Batch:
        sizes = torch.tensor([picture.time_ids(flipped) for picture, flipped in seen])
        mask = self.latents.masks(seen)
        return Batch(
            _send(self.latents.batch(seen), device),
            self._text(captions, device),
            _send(sizes, device),
            None if weights is None else _send(weights, device),
            None if mask is None else _send(mask, device),
        )

    def _text(self, captions: Sequence[str], device: torch.device) -> Conditioning | Tokens:
        if self.supply.conditioning is not None:
            return self._joined(self.supply.conditioning, captions, device)
        tokens = self.supply.tokens
        empty = tokens[""] if self.fills else None
        rows = token_batch([tokens[caption] for caption in captions], empty)
        return tuple(_send(ids, device) for ids in rows)

    def _joined(self, known: TextCache[Conditioning], captions: Sequence[str], device: torch.device) -> Conditioning:
        empty = known[""] if self.fills else None
        context, pooled = context_batch([known[caption] for caption in captions], empty)
        return Conditioning(_send(context, device), None if pooled is None else _send(pooled, device))

    def _weights(self, pictures: Sequence[Picture]) -> Tensor | None:
        """How much each picture counts; None when all count 1."""
        found = [p.weight * (self.prior_weight if p.regularisation else 1.0) for p in pictures]
        return None if all(weight == 1.0 for weight in found) else torch.tensor(found)


def prepare(
    model: LiveModel,
    session: Session,
    config: TrainConfig,
    arithmetic: Arithmetic,
    report: DataReport,
    text_learns: bool,
) -> Generator[Event, None, Material]:
    """Encode pictures and captions, one encoder on the device at a time; yields progress.

    When `text_learns`, captions stay tokens: the text encoders give something new in every step.
    """
    session.place("vae")
    stored = _store(model, config, (VAE_PREFIX,))
    latents = LatentCache(stored, config.data.decode_threads)
    encode = _picture_encoder(model)
    total = len(report.views())
    yield Stage("Caching latents", 0, total)
    for done in latents.build(report.views(), encode):
        yield Stage("Caching latents", done, total)
    del encode
    for skipped in latents.skipped:
        yield Notice(f"Picture skipped: {skipped.name} ({skipped.reason}).")
    report = report.without(latents.skipped)
    batches = Batches(report, config.data.batch_size, config.optim.seed)

    longest = int(config.text.caption_tokens)
    yield from map(Notice, cut(report.captions, Tokenizer(), longest))
    text = None
    if not text_learns:
        facts = clip_skip(model, config), longest, str(arithmetic.compute)
        text = _store(model, config, text_prefixes(model.architecture), *facts)
    supply = _supply(model, config, arithmetic, report, batches, text_learns, text)
    captions = supply.always
    if report.captions_vary and not supply.by_epoch:
        epochs = Length.of(batches.steps_per_epoch, config.optim).epochs
        captions = tuple(dict.fromkeys((*batches.all_captions(range(epochs)), *captions)))
    yield from supply.encode(captions, session)
    for store in filter(None, (stored, text)):
        yield from map(Notice, store.leave(config.data.cache_limit))
    return Material(report, batches, latents, supply, config.loss.prior_weight, longest > ROOM)


def _supply(
    model: LiveModel,
    config: TrainConfig,
    arithmetic: Arithmetic,
    report: DataReport,
    batches: Batches,
    text_learns: bool,
    store: Store | None,
) -> CaptionSupply:
    """Encodes epoch by epoch where the captions of all epochs, were none twice, would take more memory than allowed.

    Where captions may differ in length the empty one is always among them: it fills up shorter ones.
    """
    longest = int(config.text.caption_tokens)
    samples = batches.samples_per_epoch * Length.of(batches.steps_per_epoch, config.optim).epochs
    needed = samples * caption_bytes(model.architecture, longest)
    return CaptionSupply(
        model=model,
        arithmetic=arithmetic,
        batches=batches,
        prefixes=text_prefixes(model.architecture),
        always=tuple(dict.fromkeys((*report.captions, "") if longest > ROOM else report.captions)),
        tokens=TextCache(),
        conditioning=None if text_learns else TextCache(store, packed, unpacked),
        skip=clip_skip(model, config),
        longest=longest,
        by_epoch=not text_learns and report.captions_vary and needed > config.text.caption_memory * 1e9,
    )


def _store(model: LiveModel, config: TrainConfig, prefixes: tuple[str, ...], *facts: object) -> Store | None:
    """Where prepared things are kept for later runs, told apart by every bit of the encoder that made them."""
    if config.data.cache != "disk":
        return None
    encoder = {key: t for key, t in model.tensors.items() if key.startswith(prefixes)}
    return Store.open(config.data, fingerprint(encoder, model.architecture.vae.scale, *facts))


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


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for the work already queued there, which a copy from pageable memory would."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
