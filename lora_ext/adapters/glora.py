"""GLoRA: a low-rank change of the weight and a low-rank mixing of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.loha import tucker
from lora_ext.adapters.operation import apply_weight
from lora_ext.adapters.reading import (
    ALPHA,
    SCALES,
    Shape,
    check_layer,
    checked,
    fitted,
    float32,
    rank_of,
    scale_of,
    with_scalar,
)
from lora_ext.errors import BadInput
from lora_ext.layers import ConvGeometry

A1, A2, B1, B2, BM = "a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"
POINT = ConvGeometry()


class GloraAdapter(Adapter):
    """ΔW = alpha / rank · (W0 · a1 a2 + b1 b2), W0 · A on the input axis (GLoRA, arXiv 2306.07967 eq. 10, of which
    LyCORIS' GLoRAModule keeps A and B).

    `a1` [in, r], `a2` [r, in], `b1` [out, r], `b2` [r, in, kh, kw]; with `bm` [r, r, kh, kw] `b2` is [r, in] and the
    second part is Tucker's. LyCORIS before 3.0, and A1111's reader to this day, have the two of each pair the other
    way round (`a1` [r, in], `a2` [in, r], `b1` [r, in], `b2` [out, r]); the shapes tell.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({A1, A2, B1, B2, BM}) | SCALES
    marks: ClassVar[frozenset[str]] = frozenset({A1, A2, B1, B2})

    def __init__(
        self, mixing: tuple[Tensor, Tensor], change: tuple[Tensor, Tensor], core: Tensor | None, alpha: float
    ) -> None:
        super().__init__()
        self.a1, self.a2 = (nn.Parameter(t) for t in mixing)
        self.b1, self.b2 = (nn.Parameter(t) for t in change)
        self.bm: nn.Parameter | None = None if core is None else nn.Parameter(core)
        self.alpha = float32(alpha)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> GloraAdapter:
        """Read one layer in either order of the factors. A missing alpha means alpha = rank."""
        check_layer(shape, "GLoRA")
        found = checked(tensors, (A1, A2, B1, B2), (BM,))
        a1, a2, b1, b2, *core = _fit_either(found, shape)
        alpha = scale_of(tensors, a2.shape[0]) * a2.shape[0]
        return cls((a1, with_scalar(a2, tensors)), (b1, with_scalar(b2, tensors)), core[0] if core else None, alpha)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.a2.shape[0]

    def to_tensors(self) -> dict[str, Tensor]:
        """Names and order of LyCORIS since 3.0."""
        out = {A1: self.a1, A2: self.a2, B1: self.b1, B2: self.b2, BM: self.bm}
        return {k: t.detach() for k, t in out.items() if t is not None} | {ALPHA: torch.tensor(self.alpha)}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base` [out, in, …], which it depends on."""
        mixed = torch.einsum("oi...,ir,rj->oj...", base.float(), self.a1.float(), self.a2.float())
        return (mixed + self._change().reshape(base.shape)) * self.scale

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """W0 on the mixed input plus the low-rank change on the input; ΔW is not built."""
        point = None if geometry is None else POINT
        mixed = apply_weight(apply_weight(x, self.a2, point), self.a1, point)
        if self.bm is not None:
            hidden = apply_weight(apply_weight(x, self.b2, point), self.bm, geometry)
        else:
            hidden = apply_weight(x, self.b2.reshape(len(self.b2), *base.shape[1:]), geometry)
        return (apply_weight(mixed, base, geometry) + apply_weight(hidden, self.b1, point)) * self.scale

    def _change(self) -> Tensor:
        if self.bm is None:
            return self.b1.float() @ self.b2.float().flatten(1)
        return tucker(self.bm.float(), self.b1.float().t(), self.b2.float())


def _fit_either(found: Mapping[str, Tensor], shape: Shape) -> list[Tensor]:
    """The factors in today's order, or the old one; what does not fit is said of today's."""
    try:
        return _fit(found, (A1, A2, B1, B2), shape)
    except BadInput as today:
        try:
            return _fit(found, (A2, A1, B2, B1), shape)
        except BadInput:
            raise today from None


def _fit(found: Mapping[str, Tensor], order: tuple[str, str, str, str], shape: Shape) -> list[Tensor]:
    """The factors as [in, r], [r, in], [out, r], [r, in, …] and Tucker's core if there is one."""
    left_a, right_a, left_b, right_b = order
    out, width, *kernel = shape
    ones = (1,) * len(kernel)
    rank = rank_of(right_a, found[right_a])
    wanted: dict[str, Shape | tuple[Shape, ...]] = {
        left_a: ((width, rank), (width, rank, *ones)),
        right_a: ((rank, width), (rank, width, *ones)),
        left_b: ((out, rank), (out, rank, *ones)),
        right_b: ((rank, width), (rank, width, *ones)) if BM in found else (rank, width, *kernel),
    }
    if BM in found:
        wanted[BM] = (rank, rank, *kernel)
    return fitted(found, wanted, shape)
