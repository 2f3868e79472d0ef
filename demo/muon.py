"""The autoencoder's optimizer: Muon for matrices and convolutions, AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes each update of a matrix nearly orthogonal, so
that no direction of it is learnt before the others: the autoencoder reaches in 300 steps what takes AdamW 1000. (On a
CPU the UNet gains less than its longer steps cost.) `torch.optim.Muon` knows no convolutions and is missing from older
versions of torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 16
"""Rows and columns a matrix must have to be worth it."""
FASTER = 2.0
"""Muon's learning rate, in shares of AdamW's."""


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised mean of gradients (Nesterov), with decoupled weight decay."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float = 0.95, decay: float = 1e-4) -> None:
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum, "decay": decay, "share": FASTER})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"]).flatten(1)
        size = 0.2 * max(ahead.shape) ** 0.5  # root mean square 0.2, as AdamW's (arXiv 2502.16982)
        parameter.mul_(1 - group["lr"] * group["decay"])
        parameter.add_(orthogonal(ahead).view_as(parameter), alpha=-group["lr"] * size)


class Both:
    """Two optimizers as one, as far as `Progress` asks for it."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """One update of everything."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up both states. The groups are new objects afterwards."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def optimizer(parameters: Iterable[nn.Parameter], decay: float = 1e-4) -> Both:
    """Muon for what it can learn, AdamW for biases, norms and narrow matrices."""
    wide: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in parameters:
        matrix = parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= SMALLEST
        (wide if matrix else rest).append(parameter)
    return Both(Muon(wide, decay=decay), torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=decay))


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest orthogonal matrix [m, n], roughly: singular values end between 0.7 and 1.2 (Newton-Schulz).

    In bf16, which is exact enough for a direction and twice as fast.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    found: Tensor = (x.T if tall else x).to(matrix.dtype)
    return found
