"""IA3: each input or output of the layer gets a factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.operation import along, apply_weight, channel_axis
from lora_ext.adapters.reading import ALPHA, Shape, check_layer, checked, fitted, number
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

WEIGHT, ON_INPUT = "weight", "on_input"


class Ia3Adapter(Adapter):
    """W = W0 · (1 + weight) along the inputs or the outputs (IA³, arXiv 2205.05638 section 3.3; stored less the 1, as
    LyCORIS' IA3Module does).

    `weight` [in] when `on_input`, else [out]. Files hold [n] for linear layers and [1, n, 1, 1] for convolutions,
    whichever axis is meant. A file's `alpha` says nothing here and is left alone, as in every reader.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({WEIGHT, ON_INPUT, ALPHA})
    marks: ClassVar[frozenset[str]] = frozenset({ON_INPUT})  # `weight` alone is a checkpoint's, not an adapter's

    def __init__(self, weight: Tensor, on_input: bool, conv: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.on_input = on_input
        self._conv = conv

    @classmethod
    def create(cls, shape: Shape, on_input: bool | None = None) -> Ia3Adapter:
        """A fresh adapter that changes nothing yet: zeros.

        `on_input` None: on the inputs of convolutions and the outputs of linear layers, because A1111 reads a
        convolution's outputs wrongly.
        """
        check_layer(shape, "IA3")
        on_input = len(shape) == 4 if on_input is None else on_input
        return cls(torch.zeros(shape[1] if on_input else shape[0]), on_input, len(shape) == 4)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> Ia3Adapter:
        """Read one layer."""
        check_layer(shape, "IA3")
        if ON_INPUT not in tensors:
            raise BadInput(Problem(ON_INPUT, "is missing", "0 or 1"))
        switch = number(ON_INPUT, tensors[ON_INPUT])
        if switch not in (0, 1):
            raise BadInput(Problem(ON_INPUT, "is not usable", "0 or 1", f"{switch:g}"))
        found = checked(tensors, (WEIGHT,))
        n = shape[1] if switch else shape[0]
        shapes = ((n,), (1, n), (n, 1), (1, n, 1, 1), (n, 1, 1, 1))
        return cls(fitted(found, {WEIGHT: shapes}, shape)[0], bool(switch), len(shape) == 4)

    def to_tensors(self) -> dict[str, Tensor]:
        """`weight` in LyCORIS' shapes, and `on_input`."""
        weight = self.weight.detach()
        shaped = weight.reshape(1, -1, 1, 1) if self._conv else weight
        return {WEIGHT: shaped, ON_INPUT: torch.tensor(int(self.on_input))}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW = W0 · weight in the shape of `base`, which it depends on."""
        return base.float() * along(self.weight.float(), base.float(), 1 if self.on_input else 0)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """The factors on the layer's input or output."""
        axis = channel_axis(geometry)
        if self.on_input:
            return apply_weight(x * along(self.weight, x, axis), base, geometry)
        y = apply_weight(x, base, geometry)
        return y * along(self.weight, y, axis)
