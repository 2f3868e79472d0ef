"""A running average of the adapters: smoother than where the last steps happened to end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters, on their device.

    The decay grows to the one given as (1 + n) / (10 + n) after n steps, as in diffusers' `EMAModel`, so that the
    first steps are soon forgotten.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values: list[Tensor] = [p.detach().clone() for p in parameters]
        self.steps = 0

    def take(self) -> None:
        """Move towards the parameters as they are now."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    def show(self) -> None:
        """Write the average into the parameters; the caller keeps what was there."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.values, strict=True):
                parameter.copy_(value)
