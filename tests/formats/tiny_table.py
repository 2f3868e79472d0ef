"""A small hand-made SD1-like and SDXL-like table, and networks over it."""

from __future__ import annotations

import torch

from lora_ext.adapters import LoraAdapter, Network
from lora_ext.formats import NameTable
from lora_ext.layers import Layer, LayerName, LayerTable

BLOCK = "input_blocks.1.1.transformer_blocks.0"
MODULE = "down_blocks.0.attentions.0.transformer_blocks.0"
TEXT = "text_model.encoder.layers.0"


def _layer(component, path, module, shape, op="linear"):
    return Layer(LayerName(component, path), f"{component}.{path}.weight", None, shape, op, module)


def table(family="sd1", context=12):
    layers = [
        _layer("unet", "input_blocks.1.1.proj_in", "down_blocks.0.attentions.0.proj_in", (8, 8, 1, 1), "conv"),
        _layer("unet", f"{BLOCK}.attn1.to_q", f"{MODULE}.attn1.to_q", (8, 8)),
        _layer("unet", f"{BLOCK}.attn1.to_out.0", f"{MODULE}.attn1.to_out.0", (8, 8)),
        _layer("unet", f"{BLOCK}.attn2.to_k", f"{MODULE}.attn2.to_k", (8, context)),
        _layer("unet", "input_blocks.1.0.in_layers.2", "down_blocks.0.resnets.0.conv1", (8, 4, 3, 3), "conv"),
        _layer("te1", f"{TEXT}.self_attn.q_proj", f"{TEXT}.self_attn.q_proj", (12, 12)),
        _layer("te1", f"{TEXT}.mlp.fc1", f"{TEXT}.mlp.fc1", (24, 12)),
    ]
    if family == "sdxl":
        layers.append(_layer("te2", f"{TEXT}.self_attn.q_proj", f"{TEXT}.self_attn.q_proj", (10, 10)))
    return LayerTable(family, {layer.name: layer for layer in layers})


def names(family="sd1", context=12):
    return NameTable(table(family, context))


def network(layers: LayerTable, seed=0, rank=2, tucker=False):
    g = torch.Generator().manual_seed(seed)
    adapters = {}
    for layer in layers.layers.values():
        made = LoraAdapter.create(layer.shape, rank, 1.5, g)
        made.up.data.normal_(generator=g)
        if tucker and layer.shape[2:] == (3, 3):
            down = torch.randn(rank, layer.shape[1], 1, 1, generator=g)
            made = LoraAdapter(down, made.up.data, torch.randn(rank, rank, 3, 3, generator=g), 1.5)
        adapters[layer.name] = made
    return Network("net", adapters, identity="x")


def tensors_of(net: Network, prefix, down="lora_down.weight", up="lora_up.weight", alpha="alpha"):
    """`net` as file tensors; `prefix` makes the layer's file prefix from its name, `alpha=None` leaves alpha out."""
    out = {}
    for name, adapter in net.adapters.items():
        own = adapter.to_tensors()
        out[f"{prefix(name)}.{down}"] = own["lora_down.weight"]
        out[f"{prefix(name)}.{up}"] = own["lora_up.weight"]
        if alpha:
            out[f"{prefix(name)}.{alpha}"] = own["alpha"]
    return out
