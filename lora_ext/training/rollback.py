"""The last good state in memory, to go back to when learning goes astray."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import Tensor

from lora_ext.training.optimizer import Reading, Stepper

if TYPE_CHECKING:
    from lora_ext.training.learner import Learner

REMEMBER_EVERY = 50  # steps; a copy of adapters and optimizer goes to the CPU
MOST_TIMES = 3
LOWER = 0.5


class Rollback:
    """Remembers adapters and optimizer while all goes well."""

    def __init__(self, learner: Learner, stepper: Stepper) -> None:
        self._learner, self._stepper = learner, stepper
        self._active = stepper.rolls_back
        self._good: tuple[dict[str, object], dict[str, object]] | None = None
        self._step = 0
        self._times = 0
        if self._active:
            self._keep(0)

    @property
    def possible(self) -> bool:
        """False when it was done too often already."""
        return self._active and self._times < MOST_TIMES

    def remember(self, step: int, reading: Reading) -> None:
        """After a reading: keep what there is if it is good and the last copy is old."""
        if self._active and reading.loss is not None and step >= self._step + REMEMBER_EVERY:
            self._keep(step)

    def back(self) -> int:
        """Put the adapters and the optimizer back and lower the learning rate; the step they are from."""
        assert self._good is not None, "kept from the start"
        self._times += 1
        lowered, scaler = self._stepper.lowered * LOWER, self._stepper.scaler.state_dict()
        chance, refused = self._learner.chance(), self._stepper.refused
        adapters, optimizer = copy.deepcopy(self._good)
        self._learner.restore(adapters)
        self._stepper.restore({**optimizer, "scaler": scaler, "lowered": lowered})
        self._learner.set_chance(chance)  # other noise than that which led astray
        self._stepper.refused = refused
        self._stepper.calm()
        return self._step

    def _keep(self, step: int) -> None:
        self._good = (_copies(self._learner.capture()), _copies(self._stepper.capture()))
        self._step = step


def _copies(captured: dict[str, object]) -> dict[str, object]:
    return {key: _on_cpu(value) for key, value in captured.items()}


def _on_cpu(value: object) -> object:
    """A copy of nested tensors on the CPU, everything else copied."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(inner) for inner in value)
    return copy.deepcopy(value)
