"""BOFT: turns of rows near and far, stage after stage, as in a fast Fourier transform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.operation import apply_weight, channel_axis
from lora_ext.adapters.reading import ALPHA, Shape, check_layer, checked, float32, size
from lora_ext.adapters.rotation import (
    BLOCKS,
    RESCALE,
    OftAdapter,
    cayley_minus_one,
    constraint_of,
    fit_blocks,
    rescaled,
)
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry


class BoftAdapter(Adapter):
    """W = B_m … B_1 W0, each B_i a block-diagonal turn between two shuffles of the rows (BOFT, arXiv 2311.06243
    section 4; the shuffles and names are those of LyCORIS' ButterflyOFTModule), then each row times `rescale`.

    `blocks` [m, n, b, b] with n·b = out and b even; stage i turns b rows that stand 2^i · b/2 apart in pairs.
    `constraint` as for OFT, over all stages together.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({BLOCKS, RESCALE, ALPHA})
    marks: ClassVar[frozenset[str]] = frozenset({BLOCKS})
    linear_in_strength: ClassVar[bool] = False

    def __init__(self, blocks: Tensor, rescale: Tensor | None, constraint: float) -> None:
        super().__init__()
        self.blocks = nn.Parameter(blocks)
        self.rescale: nn.Parameter | None = None if rescale is None else nn.Parameter(rescale)
        self.constraint = float32(constraint)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> BoftAdapter:
        """Read one layer. A missing or zero alpha means no constraint."""
        check_layer(shape, "BOFT")
        found = checked(tensors, (BLOCKS,), (RESCALE,))
        stages, many, wide, _ = found[BLOCKS].shape if found[BLOCKS].dim() == 4 else (0, 0, 0, 0)
        if not stages or many * wide != shape[0] or wide % 2 or many % 2 ** min(stages - 1, 40):
            what = f"has blocks that do not fit the {shape[0]} rows of the layer"
            raise BadInput(Problem(BLOCKS, what, "[stages, blocks, rows, rows]", size(found[BLOCKS].shape)))
        blocks, rescale = fit_blocks(found, BLOCKS, (stages, many, wide, wide), shape)
        return cls(blocks, rescale, constraint_of(tensors))

    def to_tensors(self) -> dict[str, Tensor]:
        """`oft_blocks`, `alpha` and `rescale` if it has one."""
        out = {BLOCKS: self.blocks.detach(), ALPHA: torch.tensor(self.constraint)}
        if self.rescale is not None:
            out[RESCALE] = self.rescale.detach().reshape(-1, 1)
        return out

    def delta(self, base: Tensor) -> Tensor:
        """ΔW = rescale · B_m … B_1 W0 − W0 in the shape of `base` [out, …], which it depends on."""
        return self._turn(base.float().flatten(1), 0).reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """W0 on the input, then turned along its channels."""
        return self._turn(apply_weight(x, base, geometry), channel_axis(geometry))

    def _turn(self, y: Tensor, axis: int) -> Tensor:
        """rescale · B_m … B_1 y − y along `axis` of length out; small changes are summed apart from y."""
        _, many, wide, _ = self.blocks.shape
        turns = cayley_minus_one(self.blocks.float(), self.constraint * many * wide).to(y.dtype)
        rows = y.movedim(axis, 0)
        change = torch.zeros_like(rows)
        for stage, turn in enumerate(turns):
            near = _gather(rows + change, stage, wide)
            change = change + _scatter(torch.einsum("kij,kj...->ki...", turn, near), stage, wide)
        return rescaled(change.movedim(0, axis), y, axis, self.rescale)


def turning(tensors: Mapping[str, Tensor]) -> type[OftAdapter] | type[BoftAdapter]:
    """OFT or BOFT: both have the same names, and BOFT's blocks one axis more."""
    return BoftAdapter if BLOCKS in tensors and tensors[BLOCKS].dim() == 4 else OftAdapter


def _gather(rows: Tensor, stage: int, wide: int) -> Tensor:
    """[out, …] -> [n, b, …]: rows that stand `far` apart come to stand beside each other."""
    far = 2**stage * wide // 2
    paired = rows.reshape(-1, 2, far, *rows.shape[1:]).transpose(1, 2)
    return paired.reshape(-1, wide, *rows.shape[1:])


def _scatter(blocks: Tensor, stage: int, wide: int) -> Tensor:
    """`_gather` undone."""
    far = 2**stage * wide // 2
    rest = blocks.shape[2:]
    return blocks.reshape(-1, far, 2, *rest).transpose(1, 2).reshape(-1, *rest)
