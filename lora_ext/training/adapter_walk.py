"""What the adapters keep for the backward pass, and how many numbers they and their files hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch

from lora_ext.adapters import AdapterKind, CreateOptions, create_adapter
from lora_ext.adapters.start import factorization
from lora_ext.config import NetworkConfig
from lora_ext.layers import Layer, LayerName
from lora_ext.training.creation import create_options
from lora_ext.training.tape import FULL, Ghost, Tape
from lora_ext.training.targets import Target

Shapes = Mapping[str, tuple[int, ...]]
"""Tensors of a file by name, without the layer's prefix."""


def learnt_numbers(target: Target, network: NetworkConfig) -> int:
    """How many numbers of the layer's adapter are parameters."""
    return _made(target, network).learnt


def file_shapes(target: Target, network: NetworkConfig) -> Shapes:
    """The tensors that the file holds for the layer."""
    return _made(target, network).file


@dataclass(frozen=True)
class AdapterWalk:
    """Notes on a tape what each adapter keeps; `targets` by layer."""

    targets: Mapping[LayerName, Target]
    network: NetworkConfig

    def __call__(self, tape: Tape, layer: Layer, x: Ghost, out: Ghost) -> None:
        """The layer's input and output are rows x channels."""
        target = self.targets.get(layer.name)
        if target is None or target.extra or self.network.kind == "norm":
            return
        if target.rate and target.dropout:
            tape.keep(tape.like(x))
            x = tape.like(x)
        inside = math.prod(layer.shape[1:])
        if target.rate and self.network.weight_dropout:  # the mask, and ΔW under it
            tape.keep(*(Ghost(layer.shape[0], inside, item, learns=False) for item in (FULL, tape.compute)))
            tape.keep(tape.halved(x))
            return
        if self.network.dora:
            tape.keep(x)
            x = tape.like(x, item=x.item)
            tape.gradients(*([Ghost(layer.shape[0], inside, FULL, False)] * 3))
        {"lora": _lora, "loha": _built, "full": _built, "lokr": _lokr, "oft": _turned, "ia3": _scaled}[
            self.network.kind
        ](tape, target, x, out, inside)


def _lora(tape: Tape, target: Target, x: Ghost, out: Ghost, inside: int) -> None:
    """down's gradient needs the input, up's the hidden activations; both are cast where products are in half."""
    rank, width = target.rank, target.layer.shape[0]
    learns = target.rate > 0 or x.learns
    hidden = Ghost(out.rows, rank, tape.compute, learns)
    if target.rate:
        tape.keep(tape.halved(x), hidden)
    if learns and tape.half:
        tape.keep(Ghost(rank, inside, tape.compute, False), Ghost(width, rank, tape.compute, False))
    tape.work(2.0 * out.rows * rank * (inside + width), once=learns, times=2.0)


def _built(tape: Tape, target: Target, x: Ghost, out: Ghost, inside: int) -> None:
    """ΔW as a whole, made again in the backward pass: only the input is kept."""
    width = target.layer.shape[0]
    tape.keep(x)
    tape.gradients(*([Ghost(width, inside, FULL, False)] * 5))
    tape.work(2.0 * out.rows * width * inside + 4.0 * width * inside * target.rank, once=True, times=2.0)


def _lokr(tape: Tape, target: Target, x: Ghost, out: Ghost, inside: int) -> None:
    """The large side on every group of channels, then the small side across them."""
    width, channels = target.layer.shape[:2]
    (p, b), (q, d) = factorization(width), factorization(channels)
    hidden = Ghost(out.rows, q * b, tape.compute, True)
    tape.keep(tape.halved(x), hidden, Ghost(b, d * (inside // channels), tape.compute, False))
    tape.work(2.0 * out.rows * q * b * (d * (inside // channels) + p), once=True, times=2.0)


def _turned(tape: Tape, target: Target, x: Ghost, out: Ghost, inside: int) -> None:
    """The layer's own output, computed a second time, then its rows turned."""
    width = target.layer.shape[0]
    tape.keep(tape.like(out))
    _again(tape, width, x, inside)
    tape.work(2.0 * out.rows * width * (inside + target.rank), once=True, times=1.5)


def _scaled(tape: Tape, target: Target, x: Ghost, out: Ghost, inside: int) -> None:
    """Factors on the input or the output of the layer, which is computed a second time."""
    conv = target.layer.op == "conv"
    tape.keep(x if conv else tape.like(out))
    _again(tape, target.layer.shape[0], x, inside)
    tape.work(2.0 * out.rows * target.layer.shape[0] * inside, once=True)


def _again(tape: Tape, width: int, x: Ghost, inside: int) -> None:
    """The frozen weight in the input's precision, and from there in that of products."""
    if x.learns and tape.half and x.item == FULL:
        tape.keep(Ghost(width, inside, tape.compute, False))


@dataclass(frozen=True)
class _Made:
    learnt: int
    file: Shapes


def _made(target: Target, network: NetworkConfig) -> _Made:
    kind = "norm" if target.extra else network.kind
    op = "norm" if target.layer.op == "bias" else target.layer.op
    name = "bias" if target.layer.op == "bias" else op
    return _of_shape(cast(AdapterKind, kind), name, target.layer.shape, target.rank, create_options(network))


@lru_cache(maxsize=4096)
def _of_shape(kind: AdapterKind, op: str, shape: tuple[int, ...], rank: int, options: CreateOptions) -> _Made:
    """One adapter is made for each shape there is; a model has a few dozen."""
    if options.pissa and kind == "lora":
        rank = min(rank, shape[0], math.prod(shape[1:]))
        plain = _of_shape(kind, op, shape, rank, CreateOptions())
        return _Made(plain.learnt, _of_shape(kind, op, shape, 2 * rank, CreateOptions()).file)
    layer = Layer(LayerName("unet", "x"), "x", None, shape, op, "x")  # type: ignore[arg-type]  # as in a table
    if kind == "norm":
        options = CreateOptions()
    base = torch.ones(()).expand(shape) if options.dora else None
    adapter = create_adapter(kind, layer, rank, 1.0, options, torch.Generator().manual_seed(0), base)
    learnt = sum(p.numel() for p in adapter.parameters())
    return _Made(learnt, {name: tuple(t.shape) for name, t in adapter.to_tensors().items()})
