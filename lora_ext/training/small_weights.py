"""Frozen weights held in 8 or 4 bits for a run, by bitsandbytes' block-wise formats."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_ext.errors import BadInput, Problem
from lora_ext.training.optimizers import install_line

Bits = Literal["8bit", "4bit"]
BLOCK: dict[Bits, int] = {"8bit": 256, "4bit": 64}
"""Numbers that share a scale."""

BYTES: dict[Bits, float] = {"8bit": 1 + 4 / 256, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Of a weight, with its part of the scales (those of 4 bits are held in 8 bits themselves)."""


def check_small(bits: Bits, device: torch.device) -> Iterator[Problem]:
    """What stands in the way of holding weights so on a device: one small weight is tried."""
    try:
        small = SmallLinear(nn.Linear(64, 64, device=device), bits)
        small(torch.zeros(1, 64, device=device))
    except BadInput as e:
        yield from e.problems
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, OSError, AssertionError) as e:
        why = " ".join(str(e).split())[:200]
        where = "an NVIDIA card" if device.type != "cuda" else "a bitsandbytes made for this version of CUDA"
        yield Problem("base_weights", f"bitsandbytes cannot hold weights in {bits} on {device.type}", where, why)


def shrink(root: nn.Module, bits: Bits, device: torch.device) -> None:
    """Hold every linear layer below `root` in few bits on `device` and bring the rest there as it is.

    The tensors that `root` was made over stay what and where they are, so that nothing has to be restored.
    """
    linear = [(path, module) for path, module in root.named_modules() if type(module) is nn.Linear]
    for path, module in linear:
        parent, _, leaf = path.rpartition(".")
        setattr(root.get_submodule(parent), leaf, SmallLinear(module, bits, device))
    root.to(device)


class SmallLinear(nn.Module):
    """x W^T + b with W in few bits; W is unpacked for each product and for each gradient, never kept.

    4 bits are NF4 with double quantization (QLoRA, arXiv 2305.14314 section 3), 8 bits block-wise dynamic ones
    (arXiv 2110.02861 section 2.1). Raises `BadInput` (field "base_weights") without bitsandbytes.
    """

    def __init__(self, linear: nn.Linear, bits: Bits, device: torch.device | None = None) -> None:
        super().__init__()
        self.bits: Bits = bits
        self.shape = tuple(linear.weight.shape)
        weight = linear.weight.detach().to(device or linear.weight.device)
        self._pack, self._unpack = _functions(bits)
        self.codes, self.scales = self._pack(weight.contiguous())
        self.kind = weight.dtype
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """W as it is understood [out, in], unpacked at each look."""
        return self.unpacked(self.kind)

    @property
    def outline(self) -> Tensor:
        """Something of W's shape and nothing of its values."""
        return torch.empty((), device=self.codes.device, dtype=self.kind).expand(self.shape)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """W in a precision."""
        found: Tensor = self._unpack(self.codes, self.scales)
        return found.reshape(self.shape).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as of the layer it stands for."""
        compute = _autocast_dtype(x)
        out = cast(Tensor, _Product.apply(x.to(compute), self))  # type: ignore[no-untyped-call]  # torch's own
        return out if self.bias is None else out + self.bias.to(compute)


class _Product(torch.autograd.Function):
    """Remembers the layer, not its unpacked weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: SmallLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.unpacked(grads[0].dtype), None


def _functions(bits: Bits) -> tuple[Any, Any]:
    try:
        found = importlib.import_module("bitsandbytes.functional")
    except ImportError as e:
        what = "is not installed" if isinstance(e, ModuleNotFoundError) else "cannot be used"
        raise BadInput(
            Problem("base_weights", f"the package bitsandbytes {what}", got=str(e), fix=install_line("bitsandbytes"))
        ) from e
    if bits == "4bit":

        def pack(weight: Tensor) -> Any:
            return found.quantize_4bit(weight, blocksize=BLOCK[bits], compress_statistics=True, quant_type="nf4")

        return pack, found.dequantize_4bit

    def pack_bytes(weight: Tensor) -> Any:
        return found.quantize_blockwise(weight, blocksize=BLOCK[bits])

    return pack_bytes, found.dequantize_blockwise


def _autocast_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if kind == "cuda":  # torch 2.1 asks for each kind of device by another name
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else x.dtype
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else x.dtype
