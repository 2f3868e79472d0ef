"""LoRA and LoCon: ΔW = alpha / rank · up · down, with Tucker's `mid` between them where a file has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_ext.adapters.base import Adapter, Factors
from lora_ext.adapters.operation import along, apply_weight, as_kernel
from lora_ext.adapters.reading import (
    ALPHA,
    SCALAR,
    SCALES,
    STORED,
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
from lora_ext.adapters.start import check_rank, uniform
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"
POINT = ConvGeometry()


class LoraAdapter(Adapter):
    """Low-rank change of a linear layer or a convolution (LoRA, arXiv 2106.09685 eq. 3; LoCon as in LyCORIS).

    `down` [r, in] or [r, in, kh, kw], `up` [out, r] or [out, r, 1, 1]; with `mid` [r, r, kh, kw] `down` is
    [r, in, 1, 1]. Parameters are float32 whatever the file held, unless they were asked for as stored; a layer of
    shape [out, in, 1, 1] gets factors with the two trailing ones, as hosts write them. rsLoRA (arXiv 2312.03732) is the
    same with alpha·√r for alpha, which is how kohya's trainer and LyCORIS store it.

    `mask` [r], when set, is multiplied onto the hidden activations in `forward_delta` and nowhere else: a trainer's
    rank dropout.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({DOWN, UP, MID}) | SCALES
    mask: Tensor | None = None

    def __init__(self, down: Tensor, up: Tensor, mid: Tensor | None, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.mid: nn.Parameter | None = None if mid is None else nn.Parameter(mid)
        self.alpha = float32(alpha)

    @classmethod
    def create(
        cls,
        shape: tuple[int, ...],
        rank: int,
        alpha: float,
        generator: torch.Generator | None = None,
        *,
        tucker: bool = False,
    ) -> LoraAdapter:
        """A fresh adapter for a layer of `shape` that changes nothing yet: `up` is zero.

        `down`, and `mid` where `tucker` is asked for and the kernel is wider than 1x1, are drawn on the CPU as kohya,
        peft and LyCORIS do: `kaiming_uniform(a=√5)`.
        """
        check_layer(shape, "LoRA")
        check_rank(rank, alpha)
        out, width, *kernel = shape
        ones = [1] * len(kernel)
        split = tucker and any(k > 1 for k in kernel)
        down = uniform((rank, width, *(ones if split else kernel)), generator)
        mid = uniform((rank, rank, *kernel), generator) if split else None
        return cls(down, torch.zeros(out, rank, *ones), mid, alpha)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> LoraAdapter:
        """Read one layer. 1x1 convolutions may come with linear-shaped factors and the other way round.

        A missing alpha means alpha = rank, as every host reads it. `Problem.field` is the tensor's file name.
        """
        return cls._read(tensors, shape, as_stored=False)

    @classmethod
    def as_stored(cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> LoraAdapter:
        """`from_tensors` of tensors that are known to be finite and are nobody else's.

        They become the parameters themselves, in their own precision where that is float32 or half of it. ΔW is the
        same, bit for bit; not for training.
        """
        return cls._read(tensors, shape, as_stored=True)

    @classmethod
    def _read(cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...], as_stored: bool) -> LoraAdapter:
        check_layer(shape, "LoRA")
        as_stored = as_stored and SCALAR not in tensors and all(t.dtype in STORED for t in tensors.values())
        found = checked(tensors, (DOWN, UP), (MID,), finite=as_stored)
        _check_transposed(found, shape)
        out, width, *kernel = shape
        rank, ones = rank_of(DOWN, found[DOWN]), [1] * len(kernel)
        wanted: dict[str, Shape] = {
            DOWN: (rank, width, *(ones if MID in found else kernel)),
            UP: (out, rank, *ones),
        }
        if MID in found:
            wanted[MID] = (rank, rank, *kernel)
        down, up, *mid = fitted(found, wanted, shape, as_stored=as_stored)
        return cls(down, with_scalar(up, tensors), mid[0] if mid else None, scale_of(tensors, rank) * rank)

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def to_tensors(self) -> dict[str, Tensor]:
        """`lora_down.weight`, `lora_up.weight`, `alpha` and, for Tucker, `lora_mid.weight`."""
        out = {DOWN: self.down.detach().float(), UP: self.up.detach().float(), ALPHA: torch.tensor(self.alpha)}
        if self.mid is not None:
            out[MID] = self.mid.detach().float()
        return out

    def factors(self) -> Factors:
        """`up` [out, r], `down` [r, in·kh·kw] and alpha / rank; a Tucker core is multiplied into `down`."""
        up: Tensor = self.up  # once: a module looks for its parameters anew each time
        down: Tensor = self.down
        rank = len(down)
        if down.dim() > 2:
            up, down = up.flatten(1), down.flatten(1)
        if self.mid is not None:
            mid = self.mid.float().reshape(rank, rank, -1)
            down = (mid.transpose(1, 2) @ down.float()).transpose(1, 2).reshape(rank, -1)
        return Factors(up, down, self.alpha / rank)

    def delta(self, base: Tensor) -> Tensor:
        """ΔW = scale · up · down in the shape of `base`, whose values are not looked at."""
        return self.factors().product().reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input without building ΔW: two (Tucker: three) small products.

        A layer whose weight is [out, in, 1, 1] may be fed as a linear one (geometry None, `x` [..., in]): diffusers
        holds such projections as linear layers.
        """
        if geometry is None:
            hidden = functional.linear(x, self.down.to(x.dtype).flatten(1))
            if self.mid is not None:
                hidden = functional.linear(hidden, self.mid.to(x.dtype).flatten(1))
            return functional.linear(self._scaled(hidden, -1), self.up.to(x.dtype).flatten(1))
        if self.mid is None:
            hidden = apply_weight(x, self.down, geometry)
        else:
            hidden = apply_weight(apply_weight(x, self.down, POINT), self.mid, geometry)
        return functional.conv2d(self._scaled(hidden, 1), as_kernel(self.up.to(x.dtype)))

    def _scaled(self, hidden: Tensor, axis: int) -> Tensor:
        hidden = hidden * self.scale
        return hidden if self.mask is None else hidden * along(self.mask, hidden, axis)


def _check_transposed(found: Mapping[str, Tensor], shape: Shape) -> None:
    down, up = found[DOWN], found[UP]
    if MID in found or down.dim() != 2 or up.dim() != 2:
        return
    out, width = shape[:2]
    looks = down.shape[0] == width and up.shape[1] == out and down.shape[1] == up.shape[0]
    if looks and (down.shape[1] != width or up.shape[0] != out):
        fix = "Convert the file with the tool it came from."
        raise BadInput(Problem(DOWN, "is transposed", f"[rank, {width}]", size(down.shape), fix))
