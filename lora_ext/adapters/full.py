"""Full and Norm: ΔW as it is; of weights, biases and norms alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.operation import apply_weight, recomputed
from lora_ext.adapters.reading import ALPHA, Shape, check_layer, checked, fitted, size
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

DIFF, DIFF_B, W_NORM, B_NORM = "diff", "diff_b", "w_norm", "b_norm"
NAMES = (DIFF, DIFF_B, W_NORM, B_NORM)


class FullAdapter(Adapter):
    """ΔW = diff (LyCORIS' FullModule and NormModule).

    `diff` has the layer's shape: [out, in, …] of a weight, [out] of a bias or a norm. `name` is what the file calls
    it: `diff` or `w_norm` of a weight, `diff_b` or `b_norm` of a bias. An `alpha` beside it says nothing and is left
    alone, as in every reader.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({*NAMES, ALPHA})
    marks: ClassVar[frozenset[str]] = frozenset(NAMES)

    def __init__(self, diff: Tensor, name: str) -> None:
        super().__init__()
        self.diff = nn.Parameter(diff)
        self.name = name

    @classmethod
    def create(cls, shape: Shape, name: str = DIFF) -> FullAdapter:
        """A fresh adapter that changes nothing yet: zeros."""
        check_layer(shape, "a full difference", (1, 2, 4))
        return cls(torch.zeros(shape), name)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> FullAdapter:
        """Read one layer; `tensors` holds one of the four names."""
        check_layer(shape, "a full difference", (1, 2, 4))
        names = [name for name in NAMES if name in tensors]
        if len(names) != 1:
            raise BadInput(Problem(", ".join(names) or DIFF, "is not one difference", "one of " + ", ".join(NAMES)))
        found = checked(tensors, names)
        if found[names[0]].dim() == 0:
            raise BadInput(Problem(names[0], "has a strange shape", size(shape), "one number"))
        return cls(fitted(found, {names[0]: shape}, shape)[0], names[0])

    def to_tensors(self) -> dict[str, Tensor]:
        """The difference under its name."""
        return {self.name: self.diff.detach()}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base`, whose values are not looked at."""
        return self.diff.float().reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input. Only for linear layers and convolutions."""
        return recomputed(lambda y: apply_weight(y, self.diff, geometry), x)
