"""A hand-made model for patcher tests: linear, 1x1 and 3x3 convolutions, a fused q/k/v, in any dtype."""

from __future__ import annotations

import torch

from lora_ext.adapters import Adapter, LoraAdapter, Network
from lora_ext.layers import Layer, LayerName, LayerTable


def _layer(component, path, key, shape, *, rows=None, op="linear"):
    return Layer(LayerName(component, path), key, rows, shape, op, path)


LAYERS = (
    _layer("unet", "a.to_q", "a.to_q.weight", (12, 8)),
    _layer("unet", "a.proj_in", "a.proj_in.weight", (8, 8, 1, 1), op="conv"),
    _layer("unet", "b.conv", "b.conv.weight", (6, 4, 3, 3), op="conv"),
    _layer("te2", "attn.q_proj", "attn.in_proj_weight", (8, 8), rows=(0, 8)),
    _layer("te2", "attn.k_proj", "attn.in_proj_weight", (8, 8), rows=(8, 16)),
    _layer("te2", "attn.v_proj", "attn.in_proj_weight", (8, 8), rows=(16, 24)),
)
TABLE = LayerTable("sdxl", {layer.name: layer for layer in LAYERS})


def weights(dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "a.to_q.weight": (12, 8),
        "a.proj_in.weight": (8, 8, 1, 1),
        "b.conv.weight": (6, 4, 3, 3),
        "attn.in_proj_weight": (24, 8),
        "untouched.weight": (5, 5),
    }
    return {k: torch.randn(s, generator=g).mul(0.3).to(dtype) for k, s in shapes.items()}


def adapter(layer: Layer, seed: int, rank: int = 3) -> LoraAdapter:
    g = torch.Generator().manual_seed(seed)
    made = LoraAdapter.create(layer.shape, rank, 2.0, g)
    made.up.data.normal_(0, 0.3, generator=g)
    return made


def network(seed: int, layers: tuple[Layer, ...] = LAYERS) -> Network:
    adapters: dict[LayerName, Adapter] = {layer.name: adapter(layer, seed * 100 + i) for i, layer in enumerate(layers)}
    return Network(f"n{seed}", adapters, identity=f"id{seed}")


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {k: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for k, t in tensors.items()}
