"""A small model as its checkpoint's tensors and as diffusers / transformers modules of their own, for peers to work on.

The modules are a piece of the real ones (first levels, middle, one or two text layers), so that a whole bank of files
takes seconds. What peers make of the modules' weights is compared with what we make of the checkpoint's tensors.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import checkpoints
import torch
from torch import Tensor, nn

from lora_ext.adapters import Network
from lora_ext.formats import NameTable
from lora_ext.layers import Layer, LayerName, LayerTable
from lora_ext.model import build_text, build_unet, detect, layer_table, module_of
from lora_ext.patching import Strengths, WeightPatcher


@dataclass
class Peer:
    """`unet` and `text` (te1, te2) are copies that peers may change; `reference` are the weights they made."""

    family: str
    tensors: Mapping[str, Tensor]
    table: LayerTable
    unet: nn.Module
    text: list[nn.Module]
    inpainting: bool = False
    reference: dict[LayerName, Tensor] = field(default_factory=dict)

    def root(self, name: LayerName) -> nn.Module:
        return self.unet if name.component == "unet" else self.text[0 if name.component == "te1" else 1]

    def module(self, layer: Layer) -> nn.Module | None:
        """The module of a layer, None outside the piece."""
        try:
            return module_of(self.root(layer.name), layer)
        except AttributeError:
            return None

    def weight(self, layer: Layer) -> Tensor | None:
        """The weight (or bias) that the peer's module of `layer` has now, in the checkpoint's shape."""
        module = self.module(layer)
        own = getattr(module, "bias" if layer.op == "bias" else "weight", None)
        return None if own is None else own.detach().reshape(layer.shape)


@functools.cache
def _whole(family: str, inpainting: bool):
    tensors = checkpoints.tensors(family, inpainting=inpainting)
    arch = detect(tensors)
    return tensors, layer_table(arch), build_unet(arch, tensors), list(build_text(arch, tensors).encoders)


@functools.cache
def names(family: str, inpainting: bool = False) -> NameTable:
    return NameTable(_whole(family, inpainting)[1])


def peer(family: str = "sd1", inpainting: bool = False) -> Peer:
    """A fresh piece of a model, float32, changed by nobody yet."""
    tensors, table, unet, text = _whole(family, inpainting)
    kept = [copy.copy(unet), *(copy.copy(one) for one in text)]
    for module in kept:
        module._modules = dict(module._modules)
    kept[0]._modules["down_blocks"] = unet.down_blocks[: 2 if family == "sdxl" else 1]
    kept[0]._modules["up_blocks"] = nn.ModuleList()
    for one in kept[1:]:
        _shorten(one)
    copies = [copy.deepcopy(module).float().requires_grad_(False) for module in kept]
    return Peer(family, tensors, table, copies[0], copies[1:], inpainting)


def _shorten(text: nn.Module) -> None:
    """Leave one layer of a text encoder, without touching the model that is shared."""
    holder = text
    if "text_model" in text._modules:
        holder = copy.copy(text._modules["text_model"])
        holder._modules = dict(holder._modules)
        text._modules["text_model"] = holder
    encoder = copy.copy(holder._modules["encoder"])
    encoder._modules = {**encoder._modules, "layers": encoder._modules["layers"][:1]}
    holder._modules["encoder"] = encoder
    holder._modules["embeddings"] = nn.Module()  # large, and nobody's target here


def randomized(parameters: Mapping[str, Tensor], seed: int = 5) -> None:
    """Give a peer's fresh parameters numbers under which every one of them counts."""
    g = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(parameters.items()):
        noise = torch.randn(tensor.shape, generator=g)
        if any(sign in name for sign in ("dora_scale", "magnitude", "rescale", "boft_s", "ia3")):
            tensor.data.mul_(1 + 0.1 * noise)
        elif any(sign in name for sign in ("oft_", "boft_")):
            tensor.data.copy_(noise * 0.05)
        elif name.endswith(("scalar",)):
            tensor.data.fill_(0.7)
        else:
            tensor.data.copy_(noise * 0.15)


@functools.cache
def _originals(family: str, inpainting: bool) -> Mapping[str, Tensor]:
    return {key: tensor.clone() for key, tensor in _whole(family, inpainting)[0].items()}


def check(peer: Peer, wanted: Mapping[Network, Strengths], bound: float, least: int = 20) -> None:
    """Apply and compare every layer with the peer's weights: relative error <= `bound`, and small against the change
    too; what the peer left alone, and everything after removal, is bit for bit as it was."""
    tensors = peer.tensors
    before = _originals(peer.family, peer.inpainting)
    patcher = WeightPatcher(lambda: tensors, peer.table)
    try:
        patcher.apply(wanted)
        changed = [layer for layer in peer.table.layers.values() if _compared(peer, layer, before, bound)]
        keys = {layer.key for layer in changed}
        assert len(changed) >= least, f"only {len(changed)} layers were changed"
        assert all(torch.equal(tensor, before[key]) for key, tensor in tensors.items() if key not in keys)
    finally:
        patcher.clear()
    assert all(torch.equal(tensors[key], before[key]) for key in keys)


def _compared(peer: Peer, layer: Layer, before: Mapping[str, Tensor], bound: float) -> bool:
    """Whether the peer changed this layer; then ours has to be the same."""
    want = peer.reference.get(layer.name)
    base = layer.view(before[layer.key])
    step = 0.0 if want is None else float((want - base).norm())
    if want is None or step <= 1e-6 * float(base.norm()):
        return False
    error = float((layer.view(peer.tensors[layer.key]) - want).norm())
    assert error <= bound * float(want.norm()), f"{layer.name}: {error / float(want.norm())}"
    assert error <= 20 * bound * step, f"{layer.name}: {error / step} of the change"
    return True
