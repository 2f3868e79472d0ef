"""What peft's OFT and BOFT do: the columns of the weight are turned, block by block; and its IA3's factor on a bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.operation import along
from lora_ext.adapters.reading import Shape, check_layer, checked, fitted, size
from lora_ext.errors import BadInput, Problem

TURN, FACTOR, BIAS_FACTOR = "input_turn", "output_factor", "bias_factor"


class TurnedInput(Adapter):
    """W = factor · W0 (I + turn), `turn` block-diagonal (OFT, arXiv 2306.07280, as peft has it since 0.16: on a layer's
    input; BOFT, arXiv 2311.06243, with one butterfly factor).

    `turn` [n, s, s] with n·s = in·kh·kw, the rotation less the identity, which keeps the digits of small turns; of one
    block for all, n is 1 in the file. `factor` [out] multiplies the rows.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({TURN, FACTOR})
    marks: ClassVar[frozenset[str]] = frozenset({TURN})
    savable: ClassVar[bool] = False
    linear_in_strength: ClassVar[bool] = False

    def __init__(self, turn: Tensor, factor: Tensor | None) -> None:
        super().__init__()
        self.turn = nn.Parameter(turn)
        self.factor: nn.Parameter | None = None if factor is None else nn.Parameter(factor)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> TurnedInput:
        """Read one layer."""
        check_layer(shape, "OFT")
        found = checked(tensors, (TURN,), (FACTOR,))
        columns, wide = torch.Size(shape[1:]).numel(), found[TURN].shape[-1] if found[TURN].dim() == 3 else 0
        if wide < 1 or columns % wide:
            what = f"has blocks that do not fill the {columns} columns of the layer"
            raise BadInput(Problem(TURN, what, "[blocks, columns, columns]", size(found[TURN].shape)))
        wanted: dict[str, Shape | tuple[Shape, ...]] = {TURN: (columns // wide, wide, wide)}
        if FACTOR in found:
            wanted[FACTOR] = (shape[0],)
        turn, *factor = fitted(found, wanted, shape)
        return cls(turn, factor[0] if factor else None)

    def to_tensors(self) -> dict[str, Tensor]:
        """`input_turn` and, if it has one, `output_factor`: names of this program's own, as peft keeps parameters of
        the rotation that cannot be had back."""
        out = {TURN: self.turn.detach()}
        return out if self.factor is None else {**out, FACTOR: self.factor.detach()}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base` [out, …], which it depends on."""
        blocks, wide, _ = self.turn.shape
        whole = base.float().reshape(base.shape[0], blocks, wide)
        change = torch.einsum("obi,bij->obj", whole, self.turn.float()).reshape(base.shape)
        if self.factor is None:
            return change
        rows = along(self.factor.float(), change, 0)
        return rows * change + (rows - 1) * base.float()


class BiasFactor(Adapter):
    """Δb = b · factor of a bias [out]: what is left of IA3 where a layer's whole output is scaled, bias and all."""

    tensor_names: ClassVar[frozenset[str]] = frozenset({BIAS_FACTOR})
    marks: ClassVar[frozenset[str]] = frozenset({BIAS_FACTOR})
    savable: ClassVar[bool] = False

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> BiasFactor:
        """Read one bias."""
        check_layer(shape, "a bias's factor", (1,))
        return cls(fitted(checked(tensors, (BIAS_FACTOR,)), {BIAS_FACTOR: shape}, shape)[0])

    def to_tensors(self) -> dict[str, Tensor]:
        """`bias_factor`, a name of this program's own."""
        return {BIAS_FACTOR: self.factor.detach()}

    def delta(self, base: Tensor) -> Tensor:
        """Δb in the shape of `base` [out]."""
        return base.float() * self.factor.float()
