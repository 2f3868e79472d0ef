"""LoRA plus a few single weights: what LyCORIS' extractor keeps of the difference that the rank could not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.lora import LoraAdapter
from lora_ext.adapters.operation import apply_weight
from lora_ext.adapters.reading import Shape, checked, size
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

INDICES, VALUES, SIZE = "bias_indices", "bias_values", "bias_size"


class SparseAdapter(Adapter):
    """ΔW = alpha / rank · (up · down + rest). LyCORIS calls the rest a bias, but it is one of the weight.

    `indices` [2, n] are rows and columns of the weight as a matrix [out, in·kh·kw], `values` [n].
    """

    tensor_names: ClassVar[frozenset[str]] = LoraAdapter.tensor_names | {INDICES, VALUES, SIZE}
    marks: ClassVar[frozenset[str]] = frozenset({INDICES, VALUES, SIZE})

    def __init__(self, lora: LoraAdapter, indices: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lora = lora
        self.indices: Tensor
        self.register_buffer("indices", indices)
        self.values = nn.Parameter(values)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> SparseAdapter:
        """Read one layer. `bias_size` must say the size of the weight as a matrix."""
        lora = LoraAdapter.from_tensors({k: t for k, t in tensors.items() if k not in cls.marks}, shape)
        values = checked(tensors, (VALUES,))[VALUES]
        indices, told = _whole(tensors, INDICES), _whole(tensors, SIZE)
        matrix = (shape[0], torch.Size(shape[1:]).numel())
        if tuple(told.tolist() if told.dim() == 1 else ()) != matrix:
            raise BadInput(Problem(SIZE, "is not the size of the layer's weight", size(matrix), f"{told.tolist()}"))
        if values.dim() != 1 or indices.shape != (2, len(values)):
            raise BadInput(Problem(INDICES, "does not fit bias_values", size((2, values.numel())), size(indices.shape)))
        if indices.numel() and (indices.amin() < 0 or (indices.amax(1) >= torch.tensor(matrix)).any()):
            raise BadInput(Problem(INDICES, "points outside of the layer's weight", f"indices below {size(matrix)}"))
        return cls(lora, indices, values.detach().to(torch.float32, copy=True))

    def to_tensors(self) -> dict[str, Tensor]:
        """LyCORIS' names; places as int32, because int16 ends at 32767."""
        lora = self.lora
        matrix = (lora.up.shape[0], lora.factors().down.shape[1])
        places = {INDICES: self.indices.to(torch.int32), SIZE: torch.tensor(matrix, dtype=torch.int32)}
        return lora.to_tensors() | {VALUES: self.values.detach()} | places

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base`, whose values are not looked at."""
        rows, columns = self.indices
        rest = torch.zeros(base.shape[0], base[0].numel(), device=self.device)
        rest = rest.index_put((rows, columns), self.values.float() * self.lora.scale, accumulate=True)
        return self.lora.delta(base) + rest.reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input, built: such files are applied, not trained."""
        return apply_weight(x, self.delta(base), geometry)


def _whole(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise BadInput(Problem(name, "is missing", f"{INDICES}, {VALUES} and {SIZE}"))
    tensor = tensors[name]
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise BadInput(Problem(name, "holds no whole numbers", "int16, int32 or int64", str(tensor.dtype)))
    return tensor.detach().to(torch.int64, copy=True)
