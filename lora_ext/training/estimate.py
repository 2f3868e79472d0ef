"""How much memory of the card, time and disk a run will take, told before it starts; and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch

from lora_ext.config import TrainConfig
from lora_ext.data import DataReport, data_sets
from lora_ext.errors import BadInput
from lora_ext.layers import BIAS, Layer, LayerTable
from lora_ext.live import LiveModel
from lora_ext.model.architecture import Architecture
from lora_ext.model.vae_parts import vae_parts
from lora_ext.training.adapter_walk import AdapterWalk, learnt_numbers
from lora_ext.training.file_size import file_bytes
from lora_ext.training.levels import checkpoints
from lora_ext.training.precision import Arithmetic
from lora_ext.training.small_weights import BYTES, Bits
from lora_ext.training.tape import FULL, Ghost, Tape
from lora_ext.training.targets import Target, plan, text_rates
from lora_ext.training.text_walk import walk_text
from lora_ext.training.unet_walk import Walk

PASSING = 0.1
"""Part of the activations that is in use besides: results on their way, workspaces of the kernels."""

UNDONE = frozenset({"adamw8bit", "adafactor", "lion", "adamw_schedulefree", "came"})
"""Optimizers that step blindly on a card, while copies of all that they change are kept (`optimizer.blind_step`)."""

STATE_BYTES: Mapping[str, int] = {
    "adamw": 8,
    "adamw8bit": 2,
    "paged_adamw8bit": 2,
    "adafactor": 0,
    "lion": 4,
    "prodigy": 16,
    "adamw_schedulefree": 8,
    "dadapt_adam": 12,
    "came": 4,
    "custom": 8,
}
"""What each optimizer remembers of a number; Adafactor and CAME hold sums over rows and columns besides, which are few.
Of a class of the user's own nothing is known: two float32 are common."""


@dataclass(frozen=True)
class Card:
    """What the run is to fit on. `free_bytes`: all that a run may use, with what the loaded model takes of it already;
    None when nobody knows. `flops`: what it really reaches in such a run, per second; None when nobody measured.
    """

    compute: torch.dtype = torch.bfloat16
    weights: torch.dtype = torch.float16
    free_bytes: int | None = None
    flops: float | None = None

    @classmethod
    def of(cls, model: LiveModel, precision: str) -> Card:
        """The card that a model lives on, as it is now. Raises `BadInput` for a precision that it cannot do."""
        arithmetic = Arithmetic.choose(precision, model.device)
        free = None
        if model.device.type == "cuda":
            loaded = sum(t.numel() * t.element_size() for t in model.tensors.values() if t.device.type == "cuda")
            spare = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
            free = free_and_total(model.device)[0] + spare + loaded
        return cls(arithmetic.compute, model.dtype, free)


def free_and_total(device: torch.device) -> tuple[int, int]:
    """Bytes of a card that nobody has taken, and all of them.

    Hosts name their card "cuda", without a number, which torch 2.1 refuses here and nowhere else.
    """
    return torch.cuda.mem_get_info(device.index)


@dataclass(frozen=True)
class Part:
    """A share of the memory, in words."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Advice:
    """A change that makes the run smaller: the setting it is about, and a sentence."""

    field: str
    text: str


@dataclass(frozen=True)
class Estimate:
    """What a run will take. `parts` add up to `peak_vram_bytes`."""

    peak_vram_bytes: int
    parts: tuple[Part, ...]
    step_flops: float
    seconds_per_step: float | None
    total_seconds: float | None
    file_bytes: int
    advice: tuple[Advice, ...]
    """Empty when it fits or nobody knows how much there is; best first."""
    fits: bool | None = None


def estimate(
    config: TrainConfig,
    architecture: Architecture,
    table: LayerTable,
    report: DataReport | None = None,
    card: Card = Card(),
) -> Estimate:
    """Predict a run on a model of which only shapes are known; takes milliseconds and touches no device.

    Without `report` the pictures are taken to be as large as the resolution allows. Raises `BadInput` for rules of
    layers that cannot be read.
    """
    targets = plan(table, config)
    run = _Run(config, architecture, table, report, card, targets)
    parts, flops = run.parts(), run.flops()
    peak = _total(parts)
    seconds = None if card.flops is None else flops * config.optim.accumulate / card.flops
    steps = _steps(config, report)
    fits = None if card.free_bytes is None else peak <= card.free_bytes
    return Estimate(
        peak_vram_bytes=peak,
        parts=parts,
        step_flops=flops * config.optim.accumulate,
        seconds_per_step=seconds,
        total_seconds=None if seconds is None or steps is None else seconds * steps,
        file_bytes=file_bytes(targets, table, config),
        advice=tuple(_advice(config, architecture, table, report, card)) if fits is False else (),
        fits=fits,
    )


def taped(config: TrainConfig, architecture: Architecture, table: LayerTable, card: Card = Card()) -> Tape:
    """What one micro-batch keeps and computes. Raises `BadInput` as `estimate` does."""
    return _Run(config, architecture, table, None, card, plan(table, config)).tape


class _Run:
    """The arithmetic of one prediction."""

    def __init__(
        self,
        config: TrainConfig,
        arch: Architecture,
        table: LayerTable,
        report: DataReport | None,
        card: Card,
        targets: list[Target],
    ) -> None:
        self.config, self.arch, self.table, self.card = config, arch, table, card
        self.targets = {target.layer.name: target for target in targets}
        self.text_learns = any(name.component != "unet" for name in self.targets)
        self.width, self.height = _largest(config, report)
        self.tape = self._taped()

    def parts(self) -> tuple[Part, ...]:
        """Every share, largest idea first."""
        learnt = sum(learnt_numbers(t, self.config.network) for t in self.targets.values())
        active = sum(learnt_numbers(t, self.config.network) for t in self.targets.values() if t.rate)
        found = [
            Part("UNet", self._weights("unet")),
            Part("Text encoders", self._weights("te1", "te2") if self.text_learns else 0),
            Part("Adapters", FULL * learnt),
            Part("Gradients", FULL * active),
            Part("Optimizer", STATE_BYTES[self.config.optim.optimizer] * active),
            Part("Running average", FULL * active if self.config.optim.ema_decay else 0),
            Part("Activations", self.tape.peak),
            Part("Workspace", int(self.tape.peak * PASSING)),
        ]
        return self._worst(tuple(part for part in found if part.bytes), active)

    def _worst(self, training: tuple[Part, ...], active: int) -> tuple[Part, ...]:
        """The parts of whichever needs most: the passes, the optimizer's step, or preparing pictures."""
        lasting = tuple(part for part in training if part.name not in ("Activations", "Workspace"))
        name = self.config.optim.optimizer
        copies = (FULL + STATE_BYTES[name]) * active if name in UNDONE else 0
        stepping = (*lasting, Part("Copies while stepping", copies)) if copies else lasting
        weights, activations = self._vae()
        preparing = (Part("VAE", weights), Part("Activations while preparing pictures", activations))
        return max((training, stepping, preparing), key=_total)

    def _vae(self) -> tuple[int, int]:
        """Of the VAE in float32 beside its own weights, and of a picture's first level in it: five tensors of that size
        exist at one time (the input, its norm and what is made of it).
        """
        numbers, held = sum(math.prod(part.shape) for part in vae_parts(self.arch.vae)), self.card.weights.itemsize
        level = FULL * self.arch.vae.channels[0] * self.width * self.height
        return numbers * (held + (FULL if held < FULL else 0)), 5 * level

    def flops(self) -> float:
        """Of one micro-batch, forward and backward."""
        return self.tape.flops

    def _weights(self, *components: str) -> int:
        held = self.card.weights.itemsize
        copied = FULL if self.card.compute is torch.float32 and held < FULL else 0
        bits = self.config.memory.base_weights
        total = 0.0
        for layer in self.table.layers.values():
            if layer.name.component in components:
                small = bits != "as_loaded" and layer.op == "linear" and layer.name.component == "unet"
                each = BYTES[cast(Bits, bits)] if small else held + copied
                total += math.prod(layer.shape) * each
        return int(total)

    def _taped(self) -> Tape:
        config, arch = self.config, self.arch
        batch = config.data.batch_size
        held = FULL if self.card.compute is torch.float32 else self.card.weights.itemsize
        tape = Tape(self.card.compute.itemsize, held)
        adapt = AdapterWalk(self.targets, config.network)
        pieces = batch * int(config.text.caption_tokens) // 75
        learns = False
        if self.text_learns:
            for number, shape in enumerate(arch.text, 1):
                layers, learning = self._layers(f"te{number}")
                learns |= walk_text(shape, layers, learning, adapt, tape, pieces).learns
        layers, learning = self._layers("unet")
        context = Ghost(pieces * 77, arch.unet.context_dim, tape.compute, learns)
        walk = Walk(arch.unet, layers, learning, adapt, self._again, tape)
        factor = arch.vae.factor
        walk.run(batch, self.height // factor, self.width // factor, context)
        return tape

    def _again(self, level: int, block: str) -> bool:
        where = self.config.memory.checkpointing_where if self.config.optim.checkpointing else ""
        return checkpoints(where, level, len(self.arch.unet.channels))

    def _layers(self, component: str) -> tuple[dict[str, Layer], frozenset[str]]:
        own = [layer for layer in self.table.layers.values() if layer.name.component == component]
        learning = {
            layer.module.removesuffix(BIAS)
            for layer in own
            if (found := self.targets.get(layer.name)) is not None and found.rate
        }
        return {layer.module: layer for layer in own if layer.op in ("linear", "conv")}, frozenset(learning)


def _total(parts: tuple[Part, ...]) -> int:
    return sum(part.bytes for part in parts)


def _largest(config: TrainConfig, report: DataReport | None) -> tuple[int, int]:
    """Width and height in pixels of the largest pictures there are, or may be."""
    if report is not None and report.pictures:
        return max((p.bucket for p in report.pictures), key=math.prod)
    try:
        side = max(s.resolution for s in data_sets(config.data))
    except BadInput:
        side = config.data.resolution
    return side, side


def _steps(config: TrainConfig, report: DataReport | None) -> int | None:
    if config.optim.max_steps:
        return config.optim.max_steps
    if report is None:
        return None
    counts: dict[tuple[int, int], int] = report.bucket_counts
    batches = sum(-(-n // config.data.batch_size) for n in counts.values())
    return config.optim.epochs * -(-batches // config.optim.accumulate)


def _advice(
    config: TrainConfig, arch: Architecture, table: LayerTable, report: DataReport | None, card: Card
) -> Iterator[Advice]:
    """Changes in the order in which they cost least, each with what it brings."""
    blind = replace(card, free_bytes=None)
    now = estimate(config, arch, table, report, blind).peak_vram_bytes
    for field, text, change in CHANGES:
        changed = change(config)
        if changed is None:
            continue
        then = estimate(changed, arch, table, report, blind).peak_vram_bytes
        if then < 0.98 * now:
            yield Advice(field, f"{text}: {then / 2**30:.1f} GB instead of {now / 2**30:.1f} GB.")


def _optim(config: TrainConfig, **values: object) -> TrainConfig:
    return replace(config, optim=replace(config.optim, **values))  # type: ignore[arg-type]  # names are checked by use


def _checkpointed(config: TrainConfig) -> TrainConfig | None:
    if config.optim.checkpointing and config.memory.checkpointing_where == "all":
        return None
    whole = replace(config, memory=replace(config.memory, checkpointing_where="all"))
    return _optim(whole, checkpointing=True)


def _smaller_batch(config: TrainConfig) -> TrainConfig | None:
    size = config.data.batch_size
    return None if size == 1 else replace(config, data=replace(config.data, batch_size=size // 2))


def _without_text(config: TrainConfig) -> TrainConfig | None:
    return _optim(config, text_encoder_lr=0.0, text_encoder_2_lr=-1.0) if any(text_rates(config)) else None


def _eight_bit(config: TrainConfig) -> TrainConfig | None:
    return _optim(config, optimizer="adamw8bit") if config.optim.optimizer == "adamw" else None


def _in_bits(bits: str) -> Callable[[TrainConfig], TrainConfig | None]:
    def change(config: TrainConfig) -> TrainConfig | None:
        if config.memory.base_weights != "as_loaded":
            return None
        return replace(config, memory=replace(config.memory, base_weights=bits))

    return change


def _half_rank(config: TrainConfig) -> TrainConfig | None:
    rank = config.network.rank
    return None if rank < 2 else replace(config, network=replace(config.network, rank=rank // 2))


def _smaller_pictures(config: TrainConfig) -> TrainConfig | None:
    side = config.data.resolution * 3 // 4 // 64 * 64
    return None if side < 256 else replace(config, data=replace(config.data, resolution=side))


CHANGES: tuple[tuple[str, str, Callable[[TrainConfig], TrainConfig | None]], ...] = (
    ("checkpointing", "Turn on gradient checkpointing (same result, slower)", _checkpointed),
    ("batch_size", "Halve the batch size and double the gradient accumulation (same result, slower)", _smaller_batch),
    ("optimizer", "Take adamw8bit (needs bitsandbytes)", _eight_bit),
    ("base_weights", "Hold the model's weights in 8 bits (needs bitsandbytes)", _in_bits("8bit")),
    ("base_weights", "Hold the model's weights in 4 bits (needs bitsandbytes)", _in_bits("4bit")),
    ("text_encoder_lr", "Leave the text encoder alone", _without_text),
    ("rank", "Halve the rank", _half_rank),
    ("resolution", "Train at three quarters of the resolution", _smaller_pictures),
)

__all__ = ["Advice", "Card", "Estimate", "Part", "estimate"]
