"""DoRA: another adapter gives the direction, a vector the length of every column (or row) of the weight."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.butterfly import BoftAdapter, turning
from lora_ext.adapters.full import FullAdapter
from lora_ext.adapters.glora import GloraAdapter
from lora_ext.adapters.ia3 import Ia3Adapter
from lora_ext.adapters.loha import LohaAdapter
from lora_ext.adapters.lokr import LokrAdapter
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.operation import along, apply_weight, channel_axis, in_float32
from lora_ext.adapters.reading import Shape, check_layer, checked, fitted, size
from lora_ext.adapters.rotation import OftAdapter
from lora_ext.adapters.sparse import SparseAdapter
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

DORA_SCALE, PEFT_MAGNITUDE = "dora_scale", "lora_magnitude_vector"
WRAPPED: tuple[type[Adapter], ...] = (
    *(LoraAdapter, LohaAdapter, LokrAdapter, GloraAdapter, SparseAdapter),
    *(OftAdapter, BoftAdapter, Ia3Adapter, FullAdapter),
)
"""Trainers put a magnitude beside the first three; hosts take one beside any kind."""


class DoraAdapter(Adapter):
    """W = magnitude · (W0 + ΔV) / ‖W0 + ΔV‖, ΔV the inner adapter's (DoRA, arXiv 2402.09353 eq. 5).

    `magnitude` [n] along `axis` 0 (one length per output, as LyCORIS by default and peft) or 1 (one per input, the
    paper's columns and what A1111 and Forge read rightly). The norm is no part of the gradient (section 4.3).
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({DORA_SCALE, PEFT_MAGNITUDE}).union(
        *(kind.tensor_names for kind in WRAPPED)
    )
    marks: ClassVar[frozenset[str]] = frozenset({DORA_SCALE, PEFT_MAGNITUDE})
    linear_in_strength: ClassVar[bool] = False

    def __init__(self, inner: Adapter, magnitude: Tensor, axis: int, axes: int) -> None:
        super().__init__()
        self.inner = inner
        self.magnitude = nn.Parameter(magnitude)
        self.axis = axis
        self._axes = axes

    @classmethod
    def wrap(cls, inner: Adapter, base: Tensor, axis: int = 1) -> DoraAdapter:
        """Around a fresh `inner`: starts from the lengths in the layer's own weight `base`, so that nothing changes.

        Per input by default: that is the axis hosts read rightly.
        """
        return cls(inner, _lengths(base.detach().float(), axis).cpu(), axis, base.dim())

    @classmethod
    def reads(cls, names: Collection[str]) -> bool:
        """Any kind that can be wrapped, and a magnitude."""
        rest = set(names) - cls.marks
        return rest != set(names) and any(kind.reads(rest) for kind in WRAPPED)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> DoraAdapter:
        """Read one layer. `dora_scale` is per output as [out, 1, …] or [out], per input as [1, in, …]; peft's
        `lora_magnitude_vector` is per output whatever its shape ([out] or [1, out, 1, 1])."""
        check_layer(shape, "DoRA")
        names = [name for name in (DORA_SCALE, PEFT_MAGNITUDE) if name in tensors]
        rest = {name: tensor for name, tensor in tensors.items() if name not in cls.marks}
        kind = next((kind for kind in WRAPPED if kind.reads(rest)), None)
        if len(names) != 1 or kind is None:
            raise BadInput(Problem(", ".join(sorted(tensors)), "is no DoRA", "a magnitude and the tensors of one kind"))
        found = checked(tensors, names)
        axis = _axis(names[0], found[names[0]], shape)
        length = shape[axis]
        shapes = ((length,), (length, 1), (1, length), (length, 1, 1, 1), (1, length, 1, 1))
        magnitude = fitted(found, {names[0]: shapes}, shape)[0]
        inner = turning(rest) if kind is OftAdapter else kind
        return cls(inner.from_tensors(rest, shape), magnitude, axis, len(shape))

    def to_tensors(self) -> dict[str, Tensor]:
        """The inner adapter's tensors and `dora_scale`, whose shape tells the axis."""
        shape = [1] * self._axes
        shape[self.axis] = -1
        return {**self.inner.to_tensors(), DORA_SCALE: self.magnitude.detach().reshape(shape)}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW = c · (W0 + ΔV) − W0 in the shape of `base`, which it depends on; c = magnitude / norm."""
        base = base.float()
        inner = self.inner.delta(base)
        c = self._factors(base + inner.detach())
        return along(c, base, self.axis) * inner + along(c - 1, base, self.axis) * base

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """The same factors on the layer's input or output, so that nothing of the weight's size is kept."""
        with torch.no_grad(), in_float32(x.device):
            weight = base.float()
            merged = weight + self.inner.delta(weight)
        c, axis = self._factors(merged), channel_axis(geometry)
        if self.axis == 1:
            own = apply_weight(x * along(c - 1, x, axis), base, geometry)
            return own + self.inner.forward_delta(x * along(c, x, axis), base, geometry)
        own, inner = apply_weight(x, base, geometry), self.inner.forward_delta(x, base, geometry)
        return own * along(c - 1, own, axis) + inner * along(c, inner, axis)

    def _factors(self, merged: Tensor) -> Tensor:
        """magnitude / ‖W0 + ΔV‖ [n]. A row of nothing but zeros stays one."""
        return self.magnitude.float() / _lengths(merged.detach(), self.axis).clamp(min=torch.finfo(torch.float32).eps)


def _lengths(weight: Tensor, axis: int) -> Tensor:
    """The norm over all axes but one: [out, in, …] -> [n]."""
    lengths: Tensor = torch.linalg.vector_norm(weight.transpose(0, axis).flatten(1), dim=1)
    return lengths


def _axis(name: str, tensor: Tensor, shape: Shape) -> int:
    """0 for a magnitude per output, 1 per input, told by where its numbers stand."""
    if name == PEFT_MAGNITUDE:
        return 0
    given = tuple(tensor.shape)
    if given == (shape[0],):
        return 0
    if given == (shape[1],):
        return 1
    if len(given) in (2, 4):
        rest = [n for i, n in enumerate(given) if i > 1]
        for axis in (0, 1):
            if given[axis] == shape[axis] and given[1 - axis] == 1 and all(n == 1 for n in rest):
                return axis
    raise BadInput(
        Problem(
            name, f"fits no axis of a layer of shape {size(shape)}", f"[{shape[0]}, 1] or [1, {shape[1]}]", size(given)
        )
    )
