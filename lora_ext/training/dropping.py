"""Dropout of four kinds around an adapter, with random numbers of its own."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.adapters import Adapter, LoraAdapter
from lora_ext.adapters.operation import apply_weight
from lora_ext.layers import ConvGeometry


@dataclass(frozen=True)
class Rates:
    """Odds of being left out: inputs, ranks, the whole layer, single numbers of ΔW."""

    inputs: float = 0.0
    ranks: float = 0.0
    module: float = 0.0
    weights: float = 0.0


@dataclass
class Roll:
    """The numbers that all dropout and the strength of a forward pass hang on.

    Masks are drawn anew from it in every pass over the same pictures, so that gradient checkpointing, which computes a
    layer twice, sees the same masks twice.
    """

    value: int = 0
    first: int = 0
    """Place in the whole batch of the first sample of this pass."""
    samples: int = 1
    strength: float = 1.0
    """What every ΔW of this pass is multiplied by."""
    resting: bool = False
    """Nothing is dropped or weakened, for measuring."""


class StandIn(Adapter):
    """Stands for an adapter while it learns; what is saved and shown is the adapter itself."""

    tensor_names = frozenset()

    def __init__(self, adapter: Adapter, roll: Roll) -> None:
        super().__init__()
        self.adapter, self.roll = adapter, roll

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> StandIn:
        """No file holds one."""
        raise TypeError(f"{cls.__name__} is not read from files")

    def to_tensors(self) -> dict[str, Tensor]:
        """Those of the adapter."""
        return self.adapter.to_tensors()


class Dropping(StandIn):
    """Leaves out parts of an adapter at random.

    What stays is scaled up by 1 / (1 − odds), so that the mean is as without (Srivastava et al. 2014). Rank dropout
    masks LoRA's hidden activations, and the outputs of kinds without ranks, as in LyCORIS. A module that rests gives 0
    and is not scaled (sd-scripts' `module_dropout`).
    """

    def __init__(self, adapter: Adapter, rates: Rates, roll: Roll, salt: str, device: torch.device) -> None:
        super().__init__(adapter, roll)
        self.rates = rates
        self.salt = zlib.crc32(salt.encode())
        self.source = torch.Generator(device)

    def delta(self, base: Tensor) -> Tensor:
        """ΔW without dropout."""
        return self.adapter.delta(base)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the input, with what this pass leaves out."""
        if self.roll.resting:
            return self.adapter.forward_delta(x, base, geometry)
        seed = self.roll.value ^ self.salt
        if self.rates.module and random.Random(seed).random() < self.rates.module:
            return x.new_zeros(())
        x = x * self._input_mask(x, seed) if self.rates.inputs else x
        self.source.manual_seed(seed)
        if self.rates.weights:
            delta = self.adapter.delta(base)
            return apply_weight(x, delta * self._mask(delta.shape, self.rates.weights, delta), geometry)
        if self.rates.ranks and isinstance(self.adapter, LoraAdapter):
            self.adapter.mask = self._mask((self.adapter.rank,), self.rates.ranks, x)
            try:
                return self.adapter.forward_delta(x, base, geometry)
            finally:
                self.adapter.mask = None
        out = self.adapter.forward_delta(x, base, geometry)
        if self.rates.ranks:
            shape = (out.shape[-1],) if geometry is None else (out.shape[1], 1, 1)
            out = out * self._mask(shape, self.rates.ranks, out)
        return out

    def _input_mask(self, x: Tensor, seed: int) -> Tensor:
        """A sample's hangs on its place in the whole batch: the same in whichever piece or process it is computed."""
        mask = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for place, part in enumerate(mask.chunk(self.roll.samples), self.roll.first):
            self.source.manual_seed(zlib.crc32(place.to_bytes(8, "little"), seed))
            part.bernoulli_(1 - self.rates.inputs, generator=self.source)
        return mask.div_(1 - self.rates.inputs)

    def _mask(self, shape: tuple[int, ...], odds: float, like: Tensor) -> Tensor:
        mask = torch.empty(shape, dtype=like.dtype, device=like.device)
        return mask.bernoulli_(1 - odds, generator=self.source) / (1 - odds)
