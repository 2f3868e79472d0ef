"""One optimizer step: clip, refuse what is not finite, update. The loss stays on the device until it is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora_ext.config import OptimConfig
from lora_ext.errors import BadInput, Problem
from lora_ext.training.average import Average
from lora_ext.training.optimizers import kind_of, make_optimizer


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
    """An optimizer that skips steps whose gradients are not finite.

    On CUDA the check stays on the device: the fused AdamW kernel is handed the verdict, and other optimizers step
    blindly and are undone by a `where`, so no step waits for the GPU (but for optimizers that wait by themselves,
    `Kind.reads_back`, and for the first step of a layer). On a CPU a look is free.
    """

    def __init__(self, groups: Sequence[ParameterGroup], optim: OptimConfig, device: torch.device, half: bool) -> None:
        self.on_cuda = device.type == "cuda"
        self.parameters = [p for g in groups for p in g.parameters]
        self.peaks = [g.learning_rate for g in groups]
        self.longest = optim.max_grad_norm or math.inf
        self.clipped = [g.parameters for g in groups] if optim.clip_each else [self.parameters]
        self.optimizer = make_optimizer([(g.parameters, g.learning_rate) for g in groups], optim, device)
        self.fused = bool(self.optimizer.param_groups[0].get("fused"))
        self.reads_back = kind_of(optim).reads_back
        self.average = Average(self.parameters, optim.ema_decay) if optim.ema_decay else None
        self.scaler = _scaler(half, self.on_cuda)
        self.scaler.scale(torch.zeros((), device=device))  # wakes it: the first step may have others' gradients alone
        self.lowered = 1.0
        """A factor on all learning rates, made smaller after a roll-back."""
        self.patience = optim.bad_steps
        self.rolls_back = optim.on_divergence == "roll_back"
        self.loss_sum, self.accepted, self.refused, self.streak = torch.zeros(4, device=device).unbind()
        self.pending = torch.zeros((), device=device)
        self._away: list[tuple[dict[str, Any], str, torch.device]] = []
        _train_mode(self.optimizer)

    def backward(self, loss: Tensor, share: float = 1.0) -> None:
        """Add a micro-batch's gradients; `share` is its part of the step (shares add up to 1)."""
        with torch.enable_grad():  # the thread's own mode is the host's business
            part = loss * share
            if part.requires_grad:  # unless chance has left every layer out
                torch.autograd.backward(self.scaler.scale(part))
        self.pending = self.pending + part.detach().float()

    def forget(self) -> None:
        """Drop the gradients of a step that is to be done again."""
        self.optimizer.zero_grad(set_to_none=True)
        self.pending = torch.zeros_like(self.pending)

    def step(self, factor: float) -> None:
        """Update the adapters from the gradients so far, with every learning rate multiplied by `factor`."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor * self.lowered
        learning = [parameters for parameters in self.clipped if any(p.grad is not None for p in parameters)]
        good = torch.isfinite(self.pending)
        if learning:
            self.scaler.unscale_(self.optimizer)
            lengths = [nn.utils.clip_grad_norm_(parameters, self.longest) for parameters in learning]
            good = good & torch.isfinite(torch.stack(lengths)).all()
        self._count(good)
        if learning:
            self._update(good)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.take()

    def rate(self) -> float:
        """The first group's learning rate, times what the optimizer found by itself (d of Prodigy and D-Adaptation)."""
        group = self.optimizer.param_groups[0]
        found = group.get("d", 1.0)
        return float(group["lr"]) * (found if isinstance(found, float) else 1.0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the adapters hold what is to be used: the average, or schedule-free's own; afterwards, bit for bit,
        what is being trained.
        """
        rests = getattr(self.optimizer, "eval", None)
        if self.average is None and rests is None:
            yield
            return
        held = [p.detach().clone() for p in self.parameters]
        if rests is not None:
            rests()
        if self.average is not None:
            self.average.show()
        try:
            yield
        finally:
            _train_mode(self.optimizer)
            with torch.no_grad():
                for parameter, value in zip(self.parameters, held, strict=True):
                    parameter.copy_(value)

    def read(self) -> Reading:
        """Fetch the mean loss since the last reading; on CUDA this waits for the device.

        Raises `Diverged` (field "learning_rate") when the last `patience` steps all failed.
        """
        loss_sum, accepted, refused, streak = torch.stack(
            (self.loss_sum, self.accepted, self.refused, self.streak)
        ).tolist()
        if streak >= self.patience:
            raise Diverged(_diverged(int(streak)))
        self.loss_sum, self.accepted = torch.zeros_like(self.loss_sum), torch.zeros_like(self.accepted)
        return Reading(loss_sum / accepted if accepted else None, int(refused))

    def refusals(self) -> int:
        """How many steps were refused so far; on CUDA this waits for the device."""
        return int(self.refused.item())

    def capture(self) -> dict[str, object]:
        """Everything but the parameters, which belong to the adapters; tensors are the living ones."""
        average = None if self.average is None else {"values": self.average.values, "steps": self.average.steps}
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": average,
            "lowered": self.lowered,
            "counters": torch.stack((self.loss_sum, self.accepted, self.refused, self.streak)),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Put back what `capture` gave, as read from a file."""
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        if self.average is not None and content["average"] is not None:
            self.average.steps = content["average"]["steps"]
            for value, saved in zip(self.average.values, content["average"]["values"], strict=True):
                value.copy_(saved)
        self.lowered = content["lowered"]
        counters = content["counters"].to(self.pending.device)
        self.loss_sum, self.accepted, self.refused, self.streak = counters.unbind()

    def calm(self) -> None:
        """Forget the bad steps in a row: they were answered."""
        self.streak = torch.zeros_like(self.streak)

    def leave(self) -> None:
        """Put the optimizer's own tensors and the average on the CPU (the parameters are moved by their owner)."""
        self._away = [
            (state, key, value.device)
            for state in self.optimizer.state.values()
            for key, value in state.items()
            if isinstance(value, Tensor) and value.device.type != "cpu"
        ]
        for state, key, _ in self._away:
            state[key] = state[key].cpu()
        if self.average is not None:
            self.average.values = [value.cpu() for value in self.average.values]

    def come_back(self) -> None:
        """Undo `leave`, after the parameters came back."""
        for state, key, device in self._away:
            state[key] = state[key].to(device)
        self._away = []
        if self.average is not None:
            pairs = zip(self.average.values, self.parameters, strict=True)
            self.average.values = [value.to(parameter.device) for value, parameter in pairs]

    def _update(self, good: Tensor) -> None:
        if self.on_cuda and self.fused:
            fused_step(self.optimizer, good)
        elif self.on_cuda and not self.reads_back and self._all_begun():
            blind_step(self.optimizer, good)
        elif bool(good):
            self.optimizer.step()
        if self.on_cuda:
            self.scaler.update()

    def _all_begun(self) -> bool:
        """Whether the optimizer has its tensors for all that is stepped: those made in a bad step stay bad."""
        return all(self.optimizer.state.get(p) for p in self.parameters if p.grad is not None)

    def _count(self, good: Tensor) -> None:
        """Book-keeping without branches, so that it needs no answer from the device."""
        self.loss_sum = self.loss_sum + torch.where(good, self.pending, torch.zeros_like(self.pending))
        self.accepted = self.accepted + good
        self.refused = self.refused + ~good
        self.streak = (self.streak + 1) * ~good
        self.pending = torch.zeros_like(self.pending)


def fused_step(optimizer: torch.optim.Optimizer, good: Tensor) -> None:
    """Step with one of torch's fused kernels, which leave everything as it is where told that a gradient is not finite.

    torch's loss scaler tells them in the same way, but knows only of numbers, not of a length that left float32.
    """
    told = vars(optimizer)
    told["grad_scale"], told["found_inf"] = None, (~good).float()
    try:
        optimizer.step()
    finally:
        del told["grad_scale"], told["found_inf"]


def blind_step(optimizer: torch.optim.Optimizer, good: Tensor) -> None:
    """Step, then put everything back on the device where the step was bad: weights and the optimizer's own tensors.

    Costs one copy of both, which are small beside the model. `good` is a bool scalar on the device.
    """
    held = list(_tensors(optimizer))
    before = [tensor.clone() for tensor in held]
    optimizer.step()
    with torch.no_grad():
        for now, was in zip(held, before, strict=True):
            now.copy_(torch.where(good, now, was))


def _tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter.detach()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def _train_mode(optimizer: torch.optim.Optimizer) -> None:
    train = getattr(optimizer, "train", None)
    if train is not None:
        train()


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
