"""Adapters inside our own modules: each target layer is replaced by itself plus its adapter."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lora_ext.adapters import Adapter, LoraAdapter
from lora_ext.adapters.full import FullAdapter
from lora_ext.adapters.loha import LohaAdapter
from lora_ext.adapters.lokr import LokrAdapter
from lora_ext.layers import ConvGeometry, Layer, LayerName
from lora_ext.model import module_of
from lora_ext.training.dropping import StandIn
from lora_ext.training.small_weights import SmallLinear

BLIND = (LoraAdapter, LohaAdapter, LokrAdapter, FullAdapter)
"""Kinds that do not look at the values of W0."""


class Adapted(nn.Module):
    """A frozen layer and its adapter; stands where the layer stood, so no hook is needed.

    `weight` and `bias` are the layer's own, because some models look at their layers' dtype.
    """

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.geometry = _geometry(base)
        self._outline = isinstance(_bare(adapter), BLIND)

    @property
    def weight(self) -> Tensor:
        """The frozen weight W0."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """W0 x + b + ΔW x; shapes as the layer's."""
        out: Tensor = self.base(x)
        weight = self.base.outline if self._outline and isinstance(self.base, SmallLinear) else self.weight
        delta = self.adapter.forward_delta(x, weight, self.geometry)
        # nothing needs the frozen layer's own output again, so the sum may stand in its place
        return out.add_(delta) if out.dtype == delta.dtype else out + delta


def _bare(adapter: Adapter) -> Adapter:
    return _bare(adapter.adapter) if isinstance(adapter, StandIn) else adapter


def attach(root: nn.Module, layers: Mapping[LayerName, Layer], adapters: Mapping[LayerName, Adapter]) -> None:
    """Put each adapter around its layer's module below `root`, a module built by the model room."""
    paths = {module: path for path, module in root.named_modules()}
    for name, adapter in adapters.items():
        base = module_of(root, layers[name])
        parent, _, leaf = paths[base].rpartition(".")
        setattr(root.get_submodule(parent), leaf, Adapted(base, adapter))


def _geometry(base: nn.Module) -> ConvGeometry | None:
    if not isinstance(base, nn.Conv2d):
        return None
    assert not isinstance(base.padding, str), "Stable Diffusion's convolutions pad by numbers"
    return ConvGeometry(_pair(base.stride), _pair(base.padding), _pair(base.dilation))


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]


__all__ = ["Adapted", "attach"]
