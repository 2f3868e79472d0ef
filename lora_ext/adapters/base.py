"""The contract of an adapter: a trainable module that knows its own change of the weight, ΔW."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lora_ext.adapters.operation import apply_weight
from lora_ext.layers import ConvGeometry


class Factors(NamedTuple):
    """ΔW as one matrix product, flattened: `scale` · `up` [out, r] @ `down` [r, in·k·k].

    Both may have the half precision that their file had.
    """

    up: Tensor
    down: Tensor
    scale: float = 1.0

    def product(self) -> Tensor:
        """ΔW [out, in·k·k], float32."""
        return (self.up.float() * self.scale) @ self.down.float()


class Adapter(nn.Module, abc.ABC):
    """Change of one layer's weight.

    `delta` is the single truth for applying, merging and testing; `forward_delta` and `factors` are fast paths that
    must agree with it.
    """

    tensor_names: ClassVar[frozenset[str]]
    """File names of the tensors this class reads, without the layer prefix (`lora_up.weight`, `alpha`)."""

    marks: ClassVar[frozenset[str]] = frozenset()
    """Names of which at least one must be there for a layer to be of this kind; empty when any of its names will do."""

    savable: ClassVar[bool] = True
    """False where no other program knows names for what this kind holds, so that a file of it would be read by none."""

    linear_in_strength: ClassVar[bool] = True
    """False when W(s) != W0 + s·delta's own formula; callers always use W0 + s·(W(1) − W0)."""

    @classmethod
    def reads(cls, names: Collection[str]) -> bool:
        """Whether this kind understands *every* one of a layer's tensor names, and they are its own."""
        names = set(names)
        return bool(names) and names <= cls.tensor_names and (not cls.marks or not names.isdisjoint(cls.marks))

    @classmethod
    @abc.abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> Adapter:
        """Build from one layer's tensors of a file for a layer of `shape`.

        Raises `BadInput` when they do not fit (missing, transposed, ranks that disagree, not finite).
        """

    @abc.abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by file name without the layer prefix."""

    @abc.abstractmethod
    def delta(self, base: Tensor) -> Tensor:
        """ΔW, float32, in the shape of `base`, on the adapter's device. Only kinds like DoRA look at its values."""

    def factors(self) -> Factors | None:
        """ΔW as a low-rank product for the one-addmm fast path of the patcher, or None."""
        return None

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW applied to the layer's input: `x` [..., in] for linear (geometry None), [B, in, H, W] for conv.

        The default is the slow truth; kinds override it with something cheaper.
        """
        return apply_weight(x, self.delta(base), geometry)

    @property
    def device(self) -> torch.device:
        """Where the adapter's tensors are."""
        return next(self.parameters()).device
