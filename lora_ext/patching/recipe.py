"""What a layer's weight should be made of: which networks, how strong, in one order that never varies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lora_ext.adapters import Adapter, Network
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import LayerName


@dataclass(frozen=True)
class Strengths:
    """The user's numbers for one network: on the UNet and on the text encoders.

    `by_layer`, where block weights ask for it, stands in place of both; layers not in it get 0.
    """

    unet: float = 1.0
    text: float = 1.0
    by_layer: Mapping[LayerName, float] | None = field(default=None, hash=False)

    def of(self, layer: LayerName) -> float:
        """The strength that counts for `layer`."""
        if self.by_layer is not None:
            return self.by_layer.get(layer, 0.0)
        return self.unet if layer.component == "unet" else self.text


@dataclass(frozen=True, eq=False)
class Part:
    """One network's share in one layer."""

    network: Network
    adapter: Adapter
    strength: float

    def stamp(self) -> tuple[int, float, tuple[int, ...]]:
        """Equal exactly while this part would give the same ΔW.

        Counts in-place changes of the parameters, so an adapter in training is seen as changed after each step.
        """
        adapter = self.adapter
        # asked for at every prompt, and `parameters()` takes ten times as long where there is nothing below
        own = adapter.parameters() if adapter._modules else adapter._parameters.values()
        return id(adapter), self.strength, tuple(_version(p) for p in own if p is not None)


Recipe = tuple[Part, ...]


def recipes(wanted: Mapping[Network, Strengths]) -> dict[LayerName, Recipe]:
    """The recipe of every layer that `wanted` changes. Parts stand in an order independent of `wanted`'s.

    Networks are sorted by identity; equal identity means equal content, so then strengths decide.
    Raises `BadInput` for strengths that are no finite numbers.
    """
    _check(wanted)
    out: dict[LayerName, list[Part]] = {}
    order = sorted(wanted.items(), key=lambda item: (item[0].identity, item[0].name, item[1].unet, item[1].text))
    for network, strengths in order:
        for layer, adapter in network.adapters.items():
            strength = strengths.of(layer)
            if strength != 0:
                out.setdefault(layer, []).append(Part(network, adapter, strength))
    return {layer: tuple(parts) for layer, parts in out.items()}


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # tensors made in inference mode do not count changes


def _check(wanted: Mapping[Network, Strengths]) -> None:
    problems = [
        Problem(network.name, f"the {what} strength is no number", "a finite number", str(value))
        for network, strengths in wanted.items()
        for what, value in (
            ("UNet", strengths.unet),
            ("text encoder", strengths.text),
            *((str(layer), strength) for layer, strength in (strengths.by_layer or {}).items()),
        )
        if not math.isfinite(value)
    ]
    if problems:
        raise BadInput(*problems)
