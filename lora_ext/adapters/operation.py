"""What a layer does to its input, by the shape of its weight."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lora_ext.layers import ConvGeometry


def apply_weight(x: Tensor, weight: Tensor, geometry: ConvGeometry | None) -> Tensor:
    """`weight` on `x` in the dtype of `x`: linear on [..., in] (geometry None), else a convolution on [B, in, H, W].

    A weight [out, in, 1, 1] may be used as a linear one and a [out, in] as a 1x1 convolution: diffusers holds
    projections either way.
    """
    weight = weight.to(x.dtype)
    if geometry is None:
        return functional.linear(x, weight.flatten(1))
    return functional.conv2d(x, as_kernel(weight), None, geometry.stride, geometry.padding, geometry.dilation)


def as_kernel(weight: Tensor) -> Tensor:
    """A matrix as the kernel of a 1x1 convolution; kernels as they are."""
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def channel_axis(geometry: ConvGeometry | None) -> int:
    """Where channels stand in a layer's input and output."""
    return -1 if geometry is None else 1


def along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """`values` [n] in the dtype of `x`, shaped to be multiplied onto its `axis`."""
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.to(x.dtype).reshape(shape)


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, whose insides are not kept for the backward pass but computed again there.

    For kinds that build ΔW as a whole: kept, the ΔW of every layer would fill more memory than the model does.
    """
    if not torch.is_grad_enabled():
        return function(x)
    return cast(Tensor, checkpoint(function, x, use_reentrant=False, preserve_rng_state=False))


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Inside, autocast is off, so that what is built of a weight has float32's digits; where there is no autocast to
    switch (torch 2.1 on a Mac) nothing happens."""
    return torch.autocast(device.type, enabled=False) if device.type in {"cpu", "cuda"} else nullcontext()
