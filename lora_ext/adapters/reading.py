"""From a file's tensors to numbers that can be trusted: present, real, finite, of the right size, float32."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem

Shape = tuple[int, ...]

ALPHA, SCALE, SCALAR = "alpha", "scale", "scalar"
SCALES = frozenset({ALPHA, SCALE, SCALAR})
"""What may stand beside the factors: `alpha` (divided by the rank), `scale` (a finished factor that takes alpha's
place) and LyCORIS' trained `scalar` (a factor on top)."""
LARGEST = 1e30
"""No factor is as large; products with it would leave float32."""


STORED = frozenset({torch.float32, torch.float16, torch.bfloat16})
"""Dtypes whose every number is a float32."""


def checked(
    tensors: Mapping[str, Tensor], needed: Iterable[str], optional: Iterable[str] = (), *, finite: bool = False
) -> dict[str, Tensor]:
    """The named tensors as they are, sure to be there and to hold finite real numbers. `BadInput` lists all faults.

    `finite`: the caller knows that already of every number, and that all are real.
    """
    found: dict[str, Tensor] = {}
    problems: list[Problem] = []
    names = list(needed)
    for name in names:
        if name not in tensors:
            problems.append(Problem(name, "is missing", " and ".join(names)))
    for name in [*names, *optional]:
        if name in tensors:
            found[name] = tensors[name]
            problems += () if finite else _number_problems(name, tensors[name])
    if problems:
        raise BadInput(*problems)
    return found


def fitted(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, Shape | tuple[Shape, ...]],
    layer: Shape,
    *,
    as_stored: bool = False,
) -> list[Tensor]:
    """Float32 copies of the tensors in `wanted`'s order and shapes, sharing nothing with the file's buffer.

    `as_stored`: no copies, but the tensors themselves in their own precision. Of several shapes for one tensor the
    first is the one that comes back. The two ones that a 1x1 convolution adds may be there or not. `BadInput` lists
    every tensor that has another size than a layer of shape `layer` asks for.
    """
    out: list[Tensor] = []
    problems: list[Problem] = []
    for name, shapes in wanted.items():
        tensor = found[name]
        if as_stored and tensor.shape == shapes and tensor.is_contiguous():  # nearly always, and three times as fast
            out.append(tensor.detach())
            continue
        options = _options(shapes)
        if all(_bare(tuple(tensor.shape)) != _bare(option) for option in options):
            what = f"does not fit a layer of shape {size(layer)}"
            problems.append(Problem(name, what, " or ".join(map(size, options)), size(tensor.shape)))
        elif not problems:
            own = tensor.detach() if as_stored else tensor.detach().to(torch.float32, copy=True)
            out.append(own.reshape(options[0]).contiguous())
    if problems:
        raise BadInput(*problems)
    return out


def rank_of(name: str, tensor: Tensor, axis: int = 0) -> int:
    """The length of `axis`, at least 1, else `BadInput`."""
    if tensor.dim() < 2:
        raise BadInput(Problem(name, "has a strange shape", "2 or more axes", size(tensor.shape)))
    if tensor.shape[axis] == 0:
        raise BadInput(Problem(name, "has rank 0", "at least 1", size(tensor.shape)))
    return tensor.shape[axis]


def scale_of(tensors: Mapping[str, Tensor], rank: int) -> float:
    """The factor in front of the product: `scale`, else `alpha` / rank, else 1, as every host reads it.

    Raises `BadInput` when it is no finite number other than 0.
    """
    if SCALE in tensors:
        return _factor(SCALE, tensors[SCALE])
    if ALPHA in tensors:
        return _factor(ALPHA, tensors[ALPHA]) / rank
    return 1.0


def with_scalar(tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """`tensor` times LyCORIS' trained factor (`use_scalar`), if there is one. It may be 0. Raises `BadInput`."""
    return tensor * number(SCALAR, tensors[SCALAR]) if SCALAR in tensors else tensor


def number(name: str, tensor: Tensor) -> float:
    """A tensor that is one finite number of sensible size, of any real or integer dtype. Raises `BadInput`."""
    if tensor.numel() != 1 or tensor.is_complex():
        raise BadInput(Problem(name, "is not one number", "a scalar", size(tensor.shape)))
    # one step where every number of the dtype is a float32: asked for once or twice per layer of a file
    value = float(tensor.item() if tensor.dtype in STORED else tensor.detach().float().item())
    if not abs(value) <= LARGEST:  # NaN is not either
        raise BadInput(Problem(name, "is not usable", "a finite number", f"{value:g}"))
    return value


def check_layer(shape: Shape, kind: str, axes: tuple[int, ...] = (2, 4)) -> None:
    """Raise `BadInput` unless a layer of `shape` is one that `kind` fits: by default linear or a 2-D convolution."""
    if len(shape) not in axes or 0 in shape:
        wanted = " or ".join(map(str, axes)) + (" axes" if axes != (1,) else " axis")
        raise BadInput(Problem("shape", f"{kind} does not fit this kind of layer", wanted, size(shape)))


def float32(value: float) -> float:
    """The number that a file would give back."""
    return ctypes.c_float(value).value


def size(shape: Iterable[int]) -> str:
    """A shape as people write it: [6, 8]."""
    return "[" + ", ".join(map(str, shape)) + "]"


def _number_problems(name: str, tensor: Tensor) -> Iterable[Problem]:
    if not tensor.is_floating_point():
        yield Problem(name, "holds no real numbers", "float32, float16 or bfloat16", str(tensor.dtype))
    elif not _finite(tensor.detach().float()):
        yield Problem(name, "holds NaN or infinity", "finite numbers", fix="The training run that made it broke.")


def _finite(numbers: Tensor) -> bool:
    """Whether no number of a float32 tensor is NaN or infinity.

    Either shows in the sum, which takes half the time of anything else; but a sum may leave float32 by itself.
    """
    return math.isfinite(numbers.sum()) or bool(torch.isfinite(numbers).all())


def _factor(name: str, tensor: Tensor) -> float:
    value = number(name, tensor)
    if value == 0:
        raise BadInput(Problem(name, "is not usable", "a finite number other than 0", "0"))
    return value


def _options(shapes: Shape | tuple[Shape, ...]) -> tuple[Shape, ...]:
    several = [shape for shape in shapes if isinstance(shape, tuple)]
    return tuple(several) or (tuple(n for n in shapes if isinstance(n, int)),)


def _bare(shape: Shape) -> Shape:
    """Shape without the trailing ones that a 1x1 convolution adds."""
    return shape[:2] if shape[2:] == (1, 1) else shape
