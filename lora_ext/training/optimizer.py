"""One optimizer step: clip, refuse what is not finite, update. The loss stays on the device until it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_ext.config import OptimConfig
from lora_ext.errors import BadInput, Problem

PATIENCE = 20  # steps in a row that may fail; float16's loss scale needs up to 16 halvings from 2**16 to 1


@dataclass(frozen=True)
class ParameterGroup:
    """Adapters that share a learning rate."""

    parameters: list[nn.Parameter]
    learning_rate: float


@dataclass(frozen=True)
class Reading:
    """What was read back from the device. `loss` is None when every step since the last reading was refused."""

    loss: float | None
    refused: int


class Diverged(BadInput):
    """Too many steps in a row were refused. The adapters are as after the last good one."""


class Stepper:
    """AdamW (Loshchilov & Hutter 2019) that skips steps whose gradients are not finite.

    On CUDA the check stays on the device: torch's loss scaler hands its verdict to the fused AdamW kernel, so no step
    waits for the GPU. With a scale of 1 the scaler does the same for float32 and bfloat16. On a CPU a look is free.
    """

    def __init__(self, groups: Sequence[ParameterGroup], optim: OptimConfig, device: torch.device, half: bool) -> None:
        self.on_cuda = device.type == "cuda"
        self.parameters = [p for g in groups for p in g.parameters]
        self.peaks = [g.learning_rate for g in groups]
        self.longest = optim.max_grad_norm or math.inf
        self.adamw = torch.optim.AdamW(
            [{"params": g.parameters, "lr": g.learning_rate} for g in groups],
            weight_decay=optim.weight_decay,
            fused=self.on_cuda or None,
        )
        self.scaler = _scaler(half, self.on_cuda)
        self.loss_sum, self.accepted, self.refused, self.streak = torch.zeros(4, device=device).unbind()
        self.pending = torch.zeros((), device=device)

    def backward(self, loss: Tensor, share: float = 1.0) -> None:
        """Add a micro-batch's gradients; `share` is its part of the step (shares add up to 1)."""
        with torch.enable_grad():  # the thread's own mode is the host's business
            part = loss * share
            torch.autograd.backward(self.scaler.scale(part))
        self.pending = self.pending + part.detach().float()

    def step(self, factor: float) -> None:
        """Update the adapters from the gradients so far, with every learning rate multiplied by `factor`."""
        for group, peak in zip(self.adamw.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.scaler.unscale_(self.adamw)
        length = nn.utils.clip_grad_norm_(self.parameters, self.longest)
        self._count(torch.isfinite(length) & torch.isfinite(self.pending))
        if self.on_cuda:
            self.scaler.step(self.adamw)
            self.scaler.update()
        elif not self.streak.item():
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)

    def read(self) -> Reading:
        """Fetch the mean loss since the last reading; on CUDA this waits for the device.

        Raises `Diverged` (field "learning_rate") when the last `PATIENCE` steps all failed.
        """
        loss_sum, accepted, refused, streak = torch.stack(
            (self.loss_sum, self.accepted, self.refused, self.streak)
        ).tolist()
        if streak >= PATIENCE:
            raise Diverged(_diverged(int(streak)))
        self.loss_sum, self.accepted = torch.zeros_like(self.loss_sum), torch.zeros_like(self.accepted)
        return Reading(loss_sum / accepted if accepted else None, int(refused))

    def refusals(self) -> int:
        """How many steps were refused so far; on CUDA this waits for the device."""
        return int(self.refused.item())

    def _count(self, good: Tensor) -> None:
        """Book-keeping without branches, so that it needs no answer from the device."""
        self.loss_sum = self.loss_sum + torch.where(good, self.pending, torch.zeros_like(self.pending))
        self.accepted = self.accepted + good
        self.refused = self.refused + ~good
        self.streak = (self.streak + 1) * ~good
        self.pending = torch.zeros_like(self.pending)


def _scaler(half: bool, enabled: bool) -> torch.amp.GradScaler:
    """float16's loss scaler; or one that stays at 1 (a factor of exactly 1 is not allowed) and only checks."""
    make = torch.amp.GradScaler if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler  # torch 2.1
    return make(
        init_scale=2.0**16 if half else 1.0,
        growth_interval=2000 if half else 2**31 - 1,
        backoff_factor=0.5 if half else 1.0 - 2.0**-20,
        enabled=enabled,
    )


def _diverged(steps: int) -> Problem:
    return Problem(
        "learning_rate",
        f"the last {steps} steps gave numbers that are not finite, so the run was stopped",
        fix="Try a lower learning rate, or precision fp32 or bf16. Nothing that was learnt before is spoilt.",
    )
