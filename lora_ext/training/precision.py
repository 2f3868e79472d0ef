"""Which arithmetic a run uses, and over which tensors its modules are built."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_ext.errors import BadInput, Problem

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AMPERE = 8  # first CUDA compute capability with bfloat16 matrix units; older cards emulate it slowly


@dataclass(frozen=True)
class Arithmetic:
    """The dtype that matrix products and convolutions run in; weights keep theirs, adapters are float32."""

    compute: torch.dtype
    device: torch.device

    @classmethod
    def choose(cls, precision: str, device: torch.device) -> Arithmetic:
        """Turn the setting into a dtype. Raises `BadInput` (field "precision") for what the device cannot do."""
        compute = _automatic(device) if precision == "auto" else DTYPES[precision]
        if compute is not torch.float32 and not _autocasts(device, compute):
            raise BadInput(
                Problem("precision", f"{device.type} cannot train in {precision}", "fp32 or auto", precision)
            )
        return cls(compute, device)

    @property
    def scales_loss(self) -> bool:
        """float16 gradients underflow without a loss scale."""
        return self.compute is torch.float16

    @property
    def spoils_fused_attention(self) -> bool:
        """Whether the backward pass of torch's fused attention writes outside of its memory and may end the process.

        So torch 2.0 and 2.1 do with bfloat16 on a CPU with several threads (pytorch issues 115253 and 132871).
        """
        old = torch.__version__.startswith(("2.0.", "2.1."))
        return old and self.device.type == "cpu" and self.compute is torch.bfloat16

    def autocast(self) -> AbstractContextManager[object]:
        """Context for forward passes; nothing at all in float32, so that float32 stays exact."""
        if self.compute is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)

    def tensors(self, live: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        """The live tensors under `prefixes`, themselves where the arithmetic allows it, else float32 copies.

        Copies are needed where no autocast would help: float32 arithmetic over half weights, and half weights on a CPU,
        whose normalisation kernels do not mix half types.
        """
        chosen = {k: t for k, t in live.items() if k.startswith(prefixes)}
        if not any(self._needs_copy(t) for t in chosen.values()):
            return chosen
        return {k: t.detach().float() if t.is_floating_point() else t for k, t in chosen.items()}

    def _needs_copy(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.dtype is torch.float32:
            return False
        return self.compute is torch.float32 or (self.device.type == "cpu" and tensor.dtype is not self.compute)


def _automatic(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= AMPERE else torch.float16


def _autocasts(device: torch.device, compute: torch.dtype) -> bool:
    # torch 2.1's CPU autocast knows bfloat16 alone, and float16 on a CPU would be slower than float32 anyway.
    return device.type == "cuda" or (device.type == "cpu" and compute is torch.bfloat16)
