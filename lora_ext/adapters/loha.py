"""LoHa: ΔW is the element-wise product of two low-rank matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lora_ext.adapters.base import Adapter
from lora_ext.adapters.operation import apply_weight, in_float32, recomputed
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
from lora_ext.adapters.start import check_rank, normal
from lora_ext.layers import ConvGeometry

W1A, W1B, W2A, W2B = "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"
T1, T2 = "hada_t1", "hada_t2"


class LohaAdapter(Adapter):
    """ΔW = alpha / rank · (w1_a w1_b) ∘ (w2_a w2_b) (FedPara, arXiv 2108.06098 prop. 1; names as LyCORIS' LohaModule).

    `w?_a` [out, r], `w?_b` [r, in·kh·kw]. With the Tucker cores `t1`, `t2` [r, r, kh, kw] (prop. 3) the factors are
    `w?_a` [r, out], `w?_b` [r, in] and each half is Σ t[i, j] · w_a[i] · w_b[j]. What was trained is LyCORIS' forward,
    which scales once; the merge of its 4.1 scales twice.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({W1A, W1B, W2A, W2B, T1, T2}) | SCALES

    def __init__(
        self,
        first: tuple[Tensor, Tensor],
        second: tuple[Tensor, Tensor],
        cores: tuple[Tensor, Tensor] | None,
        alpha: float,
    ) -> None:
        super().__init__()
        self.w1_a, self.w1_b = (nn.Parameter(t) for t in first)
        self.w2_a, self.w2_b = (nn.Parameter(t) for t in second)
        self.t1: nn.Parameter | None = None if cores is None else nn.Parameter(cores[0])
        self.t2: nn.Parameter | None = None if cores is None else nn.Parameter(cores[1])
        self.alpha = float32(alpha)

    @classmethod
    def create(
        cls, shape: Shape, rank: int, alpha: float, generator: torch.Generator | None = None, *, tucker: bool = False
    ) -> LohaAdapter:
        """A fresh adapter that changes nothing yet: `w2_a` is zero. The rest is drawn as LyCORIS does."""
        check_layer(shape, "LoHa")
        check_rank(rank, alpha)
        split = tucker and any(k > 1 for k in shape[2:])
        a, b = _halves(shape, rank, split)
        first = normal(a, 0.1, generator), normal(b, 1, generator)
        second = torch.zeros(a), normal(b, 1, generator)
        core = (rank, rank, *shape[2:])
        cores = (normal(core, 0.1, generator), normal(core, 0.1, generator)) if split else None
        return cls(first, second, cores, alpha)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> LohaAdapter:
        """Read one layer; `w?_b` may come as [r, in, kh, kw] too. A missing alpha means alpha = rank."""
        check_layer(shape, "LoHa")
        cored = T1 in tensors or T2 in tensors
        found = checked(tensors, (W1A, W1B, W2A, W2B, *((T1, T2) if cored else ())))
        rank = rank_of(W1B, found[W1B])
        a, b = _halves(shape, rank, cored)
        second = b if cored else (b, (rank, *shape[1:]))
        wanted: dict[str, Shape | tuple[Shape, ...]] = {W1A: a, W1B: second, W2A: a, W2B: second}
        if cored:
            wanted |= {T1: (rank, rank, *shape[2:]), T2: (rank, rank, *shape[2:])}
        w1_a, w1_b, w2_a, w2_b, *cores = fitted(found, wanted, shape)
        pair = (cores[0], cores[1]) if cored else None
        alpha = scale_of(tensors, rank) * rank
        return cls((with_scalar(w1_a, tensors), w1_b), (w2_a, w2_b), pair, alpha)

    @property
    def rank(self) -> int:
        """Of each half; ΔW may have the square of it."""
        return self.w1_b.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def to_tensors(self) -> dict[str, Tensor]:
        """LyCORIS' names."""
        out = {W1A: self.w1_a, W1B: self.w1_b, W2A: self.w2_a, W2B: self.w2_b, T1: self.t1, T2: self.t2}
        return {k: t.detach() for k, t in out.items() if t is not None} | {ALPHA: torch.tensor(self.alpha)}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base`, whose values are not looked at."""
        first = _half(self.t1, self.w1_a.float(), self.w1_b.float())
        second = _half(self.t2, self.w2_a.float(), self.w2_b.float())
        return (first * second * self.scale).reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input; ΔW is built again for the backward pass and not kept meanwhile."""
        return recomputed(lambda y: apply_weight(y, self._exact_delta(base), geometry), x)

    def _exact_delta(self, base: Tensor) -> Tensor:
        with in_float32(self.device):
            return self.delta(base)


def _halves(shape: Shape, rank: int, cored: bool) -> tuple[Shape, Shape]:
    """Shapes of `w?_a` and `w?_b`."""
    out, width, *kernel = shape
    if cored:
        return (rank, out), (rank, width)
    for k in kernel:
        width *= k
    return (out, rank), (rank, width)


def _half(core: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if core is None else tucker(core.float(), a, b)


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Σ core[i, j] · a[i, out] · b[j, in]: [r, r, …], [r, out], [r, in] -> [out, in, …]."""
    return torch.einsum("ij...,io,jp->op...", core, a, b)
