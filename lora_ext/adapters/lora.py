"""LoRA and LoCon: ΔW = alpha / rank · up · down, with Tucker's `mid` between them where a file has one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_ext.adapters.base import Adapter, Factors
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import ConvGeometry

DOWN, UP, MID, ALPHA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"


class LoraAdapter(Adapter):
    """Low-rank change of a linear layer or a convolution (LoRA, arXiv 2106.09685 eq. 3; LoCon as in LyCORIS).

    `down` [r, in] or [r, in, kh, kw], `up` [out, r] or [out, r, 1, 1]; with `mid` [r, r, kh, kw] `down` is
    [r, in, 1, 1]. Parameters are float32 whatever the file held; a layer of shape [out, in, 1, 1] gets factors with
    the two trailing ones, as hosts write them.
    """

    tensor_names: ClassVar[frozenset[str]] = frozenset({DOWN, UP, MID, ALPHA})

    def __init__(self, down: Tensor, up: Tensor, mid: Tensor | None, alpha: float) -> None:
        super().__init__()
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.mid: nn.Parameter | None = None if mid is None else nn.Parameter(mid)
        self.alpha = alpha

    @classmethod
    def create(
        cls, shape: tuple[int, ...], rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> LoraAdapter:
        """A fresh adapter for a layer of `shape` that changes nothing yet: `up` is zero.

        `down` is drawn on the CPU as kohya and peft do: `kaiming_uniform(a=√5)`, i.e. uniform in ±1/√fan_in.
        """
        _check_shape(shape)
        if rank < 1 or not math.isfinite(alpha) or alpha == 0:
            raise BadInput(
                Problem("rank", "an adapter needs rank and alpha", "rank >= 1, alpha not 0", f"{rank}, {alpha}")
            )
        out, width, *kernel = shape
        bound = 1 / math.sqrt(width * math.prod(kernel))
        down = torch.empty(rank, width, *kernel).uniform_(-bound, bound, generator=generator)
        return cls(down, torch.zeros(out, rank, *(1 for _ in kernel)), None, float(alpha))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> LoraAdapter:
        """Read one layer. 1x1 convolutions may come with linear-shaped factors and the other way round.

        A missing alpha means alpha = rank, as every host reads it. `Problem.field` is the tensor's file name.
        """
        _check_shape(shape)
        _check_present(tensors)
        down, up, mid = tensors[DOWN], tensors[UP], tensors.get(MID)
        for name in (DOWN, UP, MID):
            if name in tensors:
                _check_numbers(name, tensors[name])
        rank = _rank(down, up, mid, shape)
        _, width, *kernel = shape
        ones = [1] * len(kernel)
        return cls(
            _own(down, (rank, width, *(ones if mid is not None else kernel))),
            _own(up, (shape[0], rank, *ones)),
            None if mid is None else _own(mid, (rank, rank, *kernel)),
            _alpha(tensors.get(ALPHA), rank),
        )

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
        out = {DOWN: self.down.detach(), UP: self.up.detach(), ALPHA: torch.tensor(self.alpha)}
        if self.mid is not None:
            out[MID] = self.mid.detach()
        return out

    def factors(self) -> Factors:
        """`up`·scale [out, r] and `down` [r, in·kh·kw]; a Tucker core is multiplied into `down`."""
        down = self.down.float().flatten(1)
        if self.mid is not None:
            mid = self.mid.float()
            down = (mid.flatten(2).transpose(1, 2) @ down).transpose(1, 2).reshape(mid.shape[0], -1)
        return Factors(self.up.float().flatten(1) * self.scale, down)

    def delta(self, base: Tensor) -> Tensor:
        """ΔW = scale · up · down in the shape of `base`, whose values are not looked at."""
        up, down = self.factors()
        return (up @ down).reshape(base.shape)

    def forward_delta(self, x: Tensor, base: Tensor, geometry: ConvGeometry | None) -> Tensor:
        """ΔW on the layer's input without building ΔW: two (Tucker: three) small products.

        A layer whose weight is [out, in, 1, 1] may be fed as a linear one (geometry None, `x` [..., in]): diffusers
        holds such projections as linear layers.
        """
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if geometry is None:
            return self._linear(x, down, up)
        if self.mid is None:
            hidden = _conv(x, _as_kernel(down), geometry)
        else:
            hidden = _conv(functional.conv2d(x, _as_kernel(down)), _as_kernel(self.mid.to(x.dtype)), geometry)
        return functional.conv2d(hidden * self.scale, _as_kernel(up))

    def _linear(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        hidden = functional.linear(x, down.flatten(1))
        if self.mid is not None:
            hidden = functional.linear(hidden, self.mid.to(x.dtype).flatten(1))
        return functional.linear(hidden * self.scale, up.flatten(1))


def _conv(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    return functional.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation)


def _as_kernel(weight: Tensor) -> Tensor:
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def _own(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A float32 copy that shares nothing with the file's buffer."""
    return tensor.detach().to(torch.float32, copy=True).reshape(shape).contiguous()


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 4) or 0 in shape:
        raise BadInput(Problem("shape", "LoRA fits linear layers and 2-D convolutions", "2 or 4 axes", _size(shape)))


def _check_present(tensors: Mapping[str, Tensor]) -> None:
    missing = [Problem(n, "is missing", "both lora_down and lora_up") for n in (DOWN, UP) if n not in tensors]
    if missing:
        raise BadInput(*missing)


def _check_numbers(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise BadInput(Problem(name, "holds no real numbers", "float32, float16 or bfloat16", str(tensor.dtype)))
    if tensor.dim() not in (2, 4):
        raise BadInput(Problem(name, "has a strange shape", "2 or 4 axes", _size(tensor.shape)))
    # NaN and infinity both show in the extremes, which are found faster than every number is asked
    if tensor.numel() and not torch.isfinite(torch.stack(torch.aminmax(tensor.float()))).all():
        raise BadInput(
            Problem(name, "holds NaN or infinity", "finite numbers", fix="The training run that made it broke.")
        )


def _rank(down: Tensor, up: Tensor, mid: Tensor | None, shape: tuple[int, ...]) -> int:
    """The rank all tensors agree on for a layer of `shape`, else `BadInput`."""
    out, width, *kernel = shape
    _check_transposed(down, up, mid, shape)
    rank = down.shape[0]
    if rank == 0:
        raise BadInput(Problem(DOWN, "has rank 0", "at least 1 row", _size(down.shape)))
    ones = (1,) * len(kernel)
    fitting = [
        (DOWN, down, (rank, width, *(ones if mid is not None else kernel))),
        (UP, up, (out, rank, *ones)),
    ]
    if mid is not None:
        fitting.append((MID, mid, (rank, rank, *kernel)))
    problems = [
        Problem(name, f"does not fit a layer of shape {_size(shape)}", _size(want), _size(got.shape))
        for name, got, want in fitting
        if _bare(got.shape) != _bare(want)
    ]
    if problems:
        raise BadInput(*problems)
    return rank


def _check_transposed(down: Tensor, up: Tensor, mid: Tensor | None, shape: tuple[int, ...]) -> None:
    if mid is not None or max(down.dim(), up.dim()) > 2:
        return
    out, width = shape[:2]
    looks = down.shape[0] == width and up.shape[1] == out and down.shape[1] == up.shape[0]
    if looks and (down.shape[1] != width or up.shape[0] != out):
        raise BadInput(
            Problem(
                DOWN,
                "is transposed",
                f"[rank, {width}]",
                _size(down.shape),
                "Convert the file with the tool it came from.",
            )
        )


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without the trailing ones that a 1x1 convolution adds."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def _alpha(tensor: Tensor | None, rank: int) -> float:
    if tensor is None:
        return float(rank)
    if tensor.numel() != 1:
        raise BadInput(Problem(ALPHA, "is not one number", "a scalar", _size(tensor.shape)))
    value = float(tensor.float().reshape(()).item())
    if not math.isfinite(value) or value == 0:
        raise BadInput(Problem(ALPHA, "is not usable", "a finite number other than 0", f"{value:g}"))
    return value


def _size(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
