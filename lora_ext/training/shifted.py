"""Norms and biases that learn: vectors that no adapter's `forward_delta` can reach."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_ext.adapters import Adapter
from lora_ext.layers import Layer, LayerName
from lora_ext.model import module_of


class Shifted(nn.Module):
    """A module whose bias is b0 + Δb, and whose weight is w0 + Δw when it is a norm.

    For other modules `weight` stays what the module inside makes of it.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.weight_adapter: Adapter | None = None
        self.bias_adapter: Adapter | None = None

    @property
    def weight(self) -> Tensor:
        """The module's own weight W0: some models look at their layers' dtype."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The module's own bias b0."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """The module with its vectors shifted; shapes as the module's."""
        if isinstance(self.base, (nn.GroupNorm, nn.LayerNorm)):
            return self._norm(self.base, x)
        out: Tensor = self.base(x)
        if self.bias_adapter is None or self.bias is None:
            return out
        shift = self.bias_adapter.delta(self.bias).to(out.dtype)
        channels_first = isinstance(_inner(self.base), nn.Conv2d)
        return out + (shift[:, None, None] if channels_first else shift)

    def _norm(self, norm: nn.GroupNorm | nn.LayerNorm, x: Tensor) -> Tensor:
        weight, bias = self._moved(self.weight, self.weight_adapter), self._moved(self.bias, self.bias_adapter)
        with torch.autocast(x.device.type, enabled=False):
            y, weight, bias = _alike(x, weight, bias)
            if isinstance(norm, nn.GroupNorm):
                return functional.group_norm(y, norm.num_groups, weight, bias, norm.eps).to(x.dtype)
            return functional.layer_norm(y, norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)

    def _moved(self, vector: Tensor | None, adapter: Adapter | None) -> Tensor | None:
        if vector is None or adapter is None:
            return vector
        return vector.float() + adapter.delta(vector)


def attach_shifts(root: nn.Module, layers: Mapping[LayerName, Layer], adapters: Mapping[LayerName, Adapter]) -> None:
    """Put the adapters of norms and biases around their modules below `root`, after the weights got theirs."""
    for name, adapter in adapters.items():
        layer = layers[name]
        module = module_of(root, layer)
        paths = {found: path for path, found in root.named_modules()}
        if not isinstance(module, Shifted):
            parent, _, leaf = paths[module].rpartition(".")
            module = _put(root, parent, leaf, module)
        if layer.op == "bias":
            module.bias_adapter = adapter
        else:
            module.weight_adapter = adapter


def _put(root: nn.Module, parent: str, leaf: str, module: nn.Module) -> Shifted:
    shifted = Shifted(module)
    setattr(root.get_submodule(parent), leaf, shifted)
    return shifted


def _inner(module: nn.Module) -> nn.Module:
    while isinstance(getattr(module, "base", None), nn.Module):
        module = module.get_submodule("base")
    return module


def _alike(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """All three in float32: norms are computed so anyway, and their kernels do not mix types."""
    return x.float(), None if weight is None else weight.float(), None if bias is None else bias.float()
