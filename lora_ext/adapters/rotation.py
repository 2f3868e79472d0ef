"""OFT: the rows of the weight are turned, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.operation import along, apply_weight, channel_axis
from lora_ext.adapters.reading import ALPHA, Shape, check_layer, checked, fitted, float32, number, size
from lora_ext.adapters.start import check_rank, factorization
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

BLOCKS, RESCALE, DIAG = "oft_blocks", "rescale", "oft_diag"


class OftAdapter(Adapter):
    """W = Rᵀ W0, R = (I + Q)(I − Q)⁻¹ with Q = blocks − blocksᵀ (OFT, arXiv 2306.07280 section 4.1), then each row
    times `rescale`.

    `blocks` [n, s, s] with n·s = out, each turning s neighbouring rows; `rescale` [out]. `constraint`, when not 0,
    bounds the norm of all of Q by constraint · out (COFT as kohya and LyCORIS do it; they keep it as `alpha`). LyCORIS
    before 2.1 wrote the turned R itself as `oft_diag`: then `turned` is set and R is taken as it is.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({BLOCKS, DIAG, RESCALE, ALPHA})
    marks: ClassVar[frozenset[str]] = frozenset({BLOCKS, DIAG})
    linear_in_strength: ClassVar[bool] = False

    def __init__(
        self, blocks: Tensor, rescale: Tensor | None, constraint: float, turned: bool = False, dims: int = 2
    ) -> None:
        """`turned`: read as `oft_diag`; `dims`: of the layer's weight, which LyCORIS wants `rescale` to have too."""
        super().__init__()
        self.dims = dims
        self.blocks = nn.Parameter(blocks)
        self.rescale: nn.Parameter | None = None if rescale is None else nn.Parameter(rescale)
        self.constraint = float32(constraint)
        self.turned = turned

    @classmethod
    def create(cls, shape: Shape, rank: int, constraint: float = 0.0, *, rescale: bool = False) -> OftAdapter:
        """A fresh adapter that changes nothing yet. Blocks are at most `rank` rows wide and never wider than they are
        many, because LyCORIS reads no others."""
        check_layer(shape, "OFT")
        check_rank(rank, 1.0)
        wide, many = factorization(shape[0], rank)
        ones = torch.ones(shape[0]) if rescale else None
        return cls(torch.zeros(many, wide, wide), ones, constraint, dims=len(shape))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> OftAdapter:
        """Read one layer. A missing or zero alpha means no constraint."""
        check_layer(shape, "OFT")
        name = BLOCKS if BLOCKS in tensors else DIAG
        found = checked(tensors, (name,), (RESCALE,))
        wide = found[name].shape[-1] if found[name].dim() == 3 else 0
        if wide < 1 or shape[0] % wide:
            what = f"has blocks that do not fill the {shape[0]} rows of the layer"
            raise BadInput(Problem(name, what, "[blocks, rows, rows]", size(found[name].shape)))
        blocks, rescale = fit_blocks(found, name, (shape[0] // wide, wide, wide), shape)
        return cls(blocks, rescale, constraint_of(tensors), name == DIAG, len(shape))

    def to_tensors(self) -> dict[str, Tensor]:
        """`oft_blocks` (or `oft_diag`), `alpha` and `rescale` if it has one."""
        out = {DIAG if self.turned else BLOCKS: self.blocks.detach(), ALPHA: torch.tensor(self.constraint)}
        if self.rescale is not None:
            out[RESCALE] = self.rescale.detach().reshape(-1, *(1 for _ in range(self.dims - 1)))
        return out

    def delta(self, base: Tensor) -> Tensor:
        """ΔW = rescale · Rᵀ W0 − W0 in the shape of `base` [out, …], which it depends on."""
        rows = base.float().flatten(1)
        return self._turn(rows, 0).reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """W0 on the input, then turned along its channels: cheaper than turning W0."""
        return self._turn(apply_weight(x, base, geometry), channel_axis(geometry))

    def _turn(self, y: Tensor, axis: int) -> Tensor:
        """rescale · Rᵀ y − y along `axis` of length out."""
        n, s, _ = self.blocks.shape
        spread = y.movedim(axis, -1)
        turn = self._rotation_minus_one().to(y.dtype)
        change = torch.einsum("knm,...kn->...km", turn, spread.reshape(*spread.shape[:-1], n, s))
        change = change.reshape(spread.shape).movedim(-1, axis)
        return rescaled(change, y, axis, self.rescale)

    def _rotation_minus_one(self) -> Tensor:
        if self.turned:
            return self.blocks.float() - torch.eye(self.blocks.shape[-1], device=self.blocks.device)
        return cayley_minus_one(self.blocks.float(), self.constraint * self.blocks.shape[0] * self.blocks.shape[1])


def cayley_minus_one(blocks: Tensor, bound: float) -> Tensor:
    """R − I of the turn R = (I + Q)(I − Q)⁻¹, Q = blocks − blocksᵀ, float32 [..., s, s].

    R − I = 2 Q (I − Q)⁻¹ keeps the digits that small turns would lose against the I. When `bound` is not 0, Q is
    shortened to that norm (over all blocks together) if it is longer.
    """
    skew = blocks - blocks.transpose(-1, -2)
    if bound > 0:
        norm = torch.linalg.vector_norm(skew) + 1e-8
        skew = skew * (bound / norm).clamp(max=1.0)
    eye = torch.eye(skew.shape[-1], device=skew.device)
    # Q commutes with (I − Q)⁻¹, so that the order of the product is free
    turned: Tensor = torch.linalg.solve((eye - skew).float(), skew.float())
    return 2 * turned


def rescaled(change: Tensor, y: Tensor, axis: int, rescale: Tensor | None) -> Tensor:
    """rescale · (y + change) − y along `axis`, without losing a small change against y."""
    if rescale is None:
        return change
    return along(rescale, y, axis) * change + along(rescale - 1, y, axis) * y


def fit_blocks(found: Mapping[str, Tensor], name: str, blocks: Shape, shape: Shape) -> tuple[Tensor, Tensor | None]:
    """The blocks in their shape, and `rescale` as [out] from [out], [out, 1, …] or [n, s, 1]."""
    out, ones = shape[0], (1,) * (len(shape) - 1)
    wanted: dict[str, Shape | tuple[Shape, ...]] = {name: blocks}
    if RESCALE in found:
        wanted[RESCALE] = ((out,), (out, 1), (out, *ones), (out, 1, 1, 1), (*blocks[-3:-1], 1))
    taken, *rescale = fitted(found, wanted, shape)
    return taken, rescale[0] if rescale else None


def constraint_of(tensors: Mapping[str, Tensor]) -> float:
    """OFT's `alpha`, 0 where there is none. Raises `BadInput` when it is no finite number of at least 0."""
    value = number(ALPHA, tensors[ALPHA]) if ALPHA in tensors else 0.0
    if value < 0:
        raise BadInput(Problem(ALPHA, "is OFT's constraint and cannot be negative", "0 or more", f"{value:g}"))
    return value
