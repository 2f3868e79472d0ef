"""LoKr: ΔW is the Kronecker product of a small matrix and a block, each perhaps low-rank itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

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
    size,
    with_scalar,
)
from lora_ext.adapters.start import check_rank, factorization, uniform
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

W1, W1A, W1B = "lokr_w1", "lokr_w1_a", "lokr_w1_b"
W2, W2A, W2B, T2 = "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"


class Block(NamedTuple):
    """One side of the product: `whole`, or `a` and `b` (and a Tucker `core`) whose product it is."""

    whole: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    core: Tensor | None = None


class Sides(NamedTuple):
    """How the two sides are cut: `factor` is the wanted size of `w1` (-1: as even as it goes); a side stays whole where
    the rank would not make it smaller, and both do with `full`; `w1` is split with `decompose_both` only."""

    factor: int = -1
    decompose_both: bool = False
    full: bool = False


EVEN = Sides()


class LokrAdapter(Adapter):
    """ΔW = alpha / rank · w1 ⊗ w2 (LyCORIS, arXiv 2309.14859 section 3.3; names as its LokrModule).

    `w1` [p, q] or `w1_a` [p, r] · `w1_b` [r, q]; `w2` [out/p, in/q, kh, kw] or `w2_a` [out/p, r] · `w2_b`
    [r, in/q·kh·kw], or with `t2` [r, r, kh, kw] the Tucker product of `w2_a` [r, out/p] and `w2_b` [r, in/q]. Nothing
    is scaled where both sides are whole, as in LyCORIS' forward (its 4.1 merge scales the others twice).
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({W1, W1A, W1B, W2, W2A, W2B, T2}) | SCALES

    def __init__(self, small: Block, large: Block, alpha: float) -> None:
        super().__init__()
        self.w1, self.w1_a, self.w1_b = _parameter(small.whole), _parameter(small.a), _parameter(small.b)
        self.w2, self.w2_a, self.w2_b = _parameter(large.whole), _parameter(large.a), _parameter(large.b)
        self.t2 = _parameter(large.core)
        self.alpha = float32(alpha)

    @classmethod
    def create(
        cls,
        shape: Shape,
        rank: int,
        alpha: float,
        generator: torch.Generator | None = None,
        *,
        sides: Sides = EVEN,
        tucker: bool = False,
    ) -> LokrAdapter:
        """A fresh adapter that changes nothing yet: `w2` or `w2_b` is zero, the rest is drawn as LyCORIS does."""
        check_layer(shape, "LoKr")
        check_rank(rank, alpha)
        (p, b), (q, d) = factorization(shape[0], sides.factor), factorization(shape[1], sides.factor)
        kernel = shape[2:]
        if sides.decompose_both and rank < max(p, q) / 2 and not sides.full:
            small = Block(a=uniform((p, rank), generator), b=uniform((rank, q), generator))
        else:
            small = Block(uniform((p, q), generator))
        if sides.full or rank >= max(b, d) / 2:
            large = Block(torch.zeros(b, d, *kernel))
        elif tucker and any(k > 1 for k in kernel):
            core = uniform((rank, rank, *kernel), generator)
            large = Block(None, uniform((rank, b), generator), torch.zeros(rank, d), core)
        else:
            large = Block(a=uniform((b, rank), generator), b=torch.zeros(rank, d * math.prod(kernel)))
        return cls(small, large, alpha)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: Shape) -> LokrAdapter:
        """Read one layer of any factorization. A missing alpha means alpha = rank."""
        check_layer(shape, "LoKr")
        names1 = (W1,) if W1 in tensors else (W1A, W1B)
        names2 = (W2,) if W2 in tensors else (W2A, W2B)
        core = T2 in tensors and W2 not in tensors
        _check_either(tensors)
        found = checked(tensors, (*names1, *names2, *((T2,) if core else ())))
        p, q = found[names1[0]].shape[:1], found[names1[-1]].shape[1:2]
        if not p or not q or shape[0] % max(p[0], 1) or shape[1] % max(q[0], 1) or 0 in (*p, *q):
            what = f"does not divide a layer of shape {size(shape)}"
            raise BadInput(Problem(names1[0], what, "a divisor of both axes", size((*p, *q))))
        wanted = _small(found, p[0], q[0]) | _large(found, shape[0] // p[0], shape[1] // q[0], shape[2:], core)
        fits = dict(zip(wanted, fitted(found, wanted, shape), strict=True))
        rank, scale = _rank_and_scale(tensors, found)
        first = W1 if W1 in fits else W1A
        fits[first] = with_scalar(fits[first], tensors)
        if rank is None:  # nothing says what alpha means, so that a finished factor goes into the numbers
            fits[first] = fits[first] * scale
        small = Block(fits.get(W1), fits.get(W1A), fits.get(W1B))
        large = Block(fits.get(W2), fits.get(W2A), fits.get(W2B), fits.get(T2))
        return cls(small, large, scale * rank if rank else 1.0)

    @property
    def rank(self) -> int | None:
        """Of the split sides; None where both are whole."""
        split = self.w1_b if self.w1_b is not None else self.w2_b
        return None if split is None else split.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank, or 1 where both sides are whole."""
        return 1.0 if self.rank is None else self.alpha / self.rank

    def to_tensors(self) -> dict[str, Tensor]:
        """LyCORIS' names."""
        out = {W1: self.w1, W1A: self.w1_a, W1B: self.w1_b, W2: self.w2, W2A: self.w2_a, W2B: self.w2_b, T2: self.t2}
        return {k: t.detach() for k, t in out.items() if t is not None} | {ALPHA: torch.tensor(self.alpha)}

    def delta(self, base: Tensor) -> Tensor:
        """ΔW in the shape of `base`, whose values are not looked at."""
        kernel = tuple(base.shape[2:])
        small, large = self._small(), self._large(kernel)
        grown = small.reshape(*small.shape, *(1 for _ in large.shape[2:]))
        return (torch.kron(grown, large.contiguous()) * self.scale).reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input without building ΔW: `w2` on each of the q groups of channels, `w1` across them."""
        small, large = self._small().to(x.dtype), self._large(tuple(base.shape[2:])).to(x.dtype)
        q = small.shape[1]
        if geometry is None:
            hidden = apply_weight(x.reshape(*x.shape[:-1], q, -1), large, None)
            return torch.einsum("pq,...qb->...pb", small * self.scale, hidden).flatten(-2)
        hidden = apply_weight(x.reshape(x.shape[0] * q, -1, *x.shape[2:]), large, geometry)
        hidden = hidden.reshape(x.shape[0], q, *hidden.shape[1:])
        return torch.einsum("pq,nqbhw->npbhw", small * self.scale, hidden).flatten(1, 2)

    def _small(self) -> Tensor:
        if self.w1 is not None:
            return self.w1.float()
        assert self.w1_a is not None and self.w1_b is not None
        return self.w1_a.float() @ self.w1_b.float()

    def _large(self, kernel: Shape) -> Tensor:
        if self.w2 is not None:
            return self.w2.float().reshape(*self.w2.shape[:2], *kernel)
        assert self.w2_a is not None and self.w2_b is not None
        a, b = self.w2_a.float(), self.w2_b.float()
        if self.t2 is not None:
            return tucker(self.t2.float(), a, b).reshape(a.shape[1], -1, *kernel)
        return (a @ b).reshape(a.shape[0], -1, *kernel)


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor)


def _check_either(tensors: Mapping[str, Tensor]) -> None:
    """A side comes whole or split; both would leave open which counts."""
    problems = [
        Problem(whole, f"comes whole and as {part}", "one of both")
        for whole, parts in ((W1, (W1A, W1B)), (W2, (W2A, W2B, T2)))
        for part in parts
        if whole in tensors and part in tensors
    ]
    if problems:
        raise BadInput(*problems)


def _small(found: Mapping[str, Tensor], p: int, q: int) -> dict[str, Shape | tuple[Shape, ...]]:
    if W1 in found:
        return {W1: (p, q)}
    rank = rank_of(W1B, found[W1B])
    return {W1A: (p, rank), W1B: (rank, q)}


def _large(
    found: Mapping[str, Tensor], b: int, d: int, kernel: Shape, core: bool
) -> dict[str, Shape | tuple[Shape, ...]]:
    if W2 in found:
        return {W2: (b, d, *kernel)}
    rank = rank_of(W2B, found[W2B])
    if core:
        return {W2A: (rank, b), W2B: (rank, d), T2: (rank, rank, *kernel)}
    return {W2A: (b, rank), W2B: ((rank, d * math.prod(kernel)), (rank, d, *kernel))}


def _rank_and_scale(tensors: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[int | None, float]:
    ranks = {name: found[name].shape[0] for name in (W1B, W2B) if name in found}
    if len(set(ranks.values())) > 1:
        raise BadInput(Problem(W2B, "has another rank than the other side", str(ranks[W1B]), str(ranks[W2B])))
    scale = scale_of(tensors, next(iter(ranks.values()), 1))
    if ranks:
        return next(iter(ranks.values())), scale
    return None, scale if "scale" in tensors else 1.0
