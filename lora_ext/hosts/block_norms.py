"""How strongly a network changes each block of the model: the numbers behind the chart in its info window."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, Network
from lora_ext.layers import Layer, LayerName, LayerTable

UNET_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)\.?(\d+)?\b")
SHORT: Mapping[str, str] = {"input_blocks": "IN", "middle_block": "M", "output_blocks": "OUT"}


@dataclass(frozen=True)
class BlockNorm:
    """One bar. `norm` is the Frobenius norm of all changes in the block at strength 1, over `layers` layers."""

    block: str
    norm: float
    layers: int


def block_norms(network: Network, table: LayerTable, tensors: Mapping[str, Tensor]) -> list[BlockNorm]:
    """Norms by block in the order of the model. `tensors` are the model's, for kinds whose change depends on them.

    A change that is a product of factors is not multiplied out: |UD|² = Σ (UᵀU)·(DDᵀ).
    """
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    order = [name for name in table.layers if name in network.adapters]
    for name in order:
        block = block_of(name)
        square = _square(network.adapters[name], table.layers[name], tensors)
        squares[block] = squares.get(block, 0.0) + square
        counts[block] = counts.get(block, 0) + 1
    blocks = sorted(squares, key=_place)
    return [BlockNorm(block, math.sqrt(squares[block]), counts[block]) for block in blocks]


def block_of(name: LayerName) -> str:
    """`IN04`, `M00`, `OUT11` as block weights name them; `TE1`, `TE2`; `REST` for layers of no block."""
    if name.component != "unet":
        return name.component.upper()
    found = UNET_BLOCK.match(name.path)
    return f"{SHORT[found[1]]}{0 if found[1] == 'middle_block' else int(found[2] or 0):02}" if found else "REST"


def _place(block: str) -> tuple[int, str]:
    starts = ("TE", "IN", "M", "OUT", "REST")
    return next(i for i, start in enumerate(starts) if block.startswith(start)), block


@torch.no_grad()
def _square(adapter: Adapter, layer: Layer, tensors: Mapping[str, Tensor]) -> float:
    factors = adapter.factors()
    if factors is not None:
        up, down = factors.up.float(), factors.down.float()
        return float(((up.T @ up).double() * (down @ down.T).double()).sum().clamp(min=0)) * factors.scale**2
    base = layer.view(tensors[layer.key]).detach().to(adapter.device, torch.float32)
    return float(adapter.delta(base.reshape(layer.shape)).double().square().sum())
