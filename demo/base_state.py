"""What a training stage keeps on disk so that it can be stopped at any moment, and what it tells meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from demo.muon import Both


@dataclass
class Progress:
    """Counts the steps of one stage, sets its learning rate, saves its state, logs its losses.

    Everything random in a step is drawn from `generator(step)`, so a resumed run goes on as if it had never stopped.
    """

    folder: Path
    stage: str
    steps: int
    seed: int
    save_every: float = 120.0
    """Seconds between saved states."""
    log_every: int = 25
    _losses: list[dict[str, float]] = field(default_factory=list)

    def run(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | Both, peak: float) -> Iterator[int]:
        """The steps still to do, each with its learning rate set; the body trains, we save and log."""
        step, seconds = self._load(modules, optimizer)
        started = saved = time.monotonic()
        for now in range(step, self.steps):
            for group in optimizer.param_groups:
                group["lr"] = peak * group.get("share", 1.0) * rate(now, self.steps)
            yield now
            done = now + 1
            elapsed = seconds + time.monotonic() - started
            if done % self.log_every == 0:
                self._log(done, elapsed)
            if time.monotonic() - saved > self.save_every or done == self.steps:
                self._save(modules, optimizer, done, elapsed)
                saved = time.monotonic()

    def generator(self, step: int) -> torch.Generator:
        """The randomness of one step."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def note(self, **losses: float) -> None:
        """Remember a step's losses for the log."""
        self._losses.append(losses)

    @property
    def path(self) -> Path:
        """The state file."""
        return self.folder / f"{self.stage}.state"

    def _load(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | Both) -> tuple[int, float]:
        if not self.path.is_file():
            return 0, 0.0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["seconds"])

    def _save(
        self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | Both, step: int, seconds: float
    ) -> None:
        states = {name: module.state_dict() for name, module in modules.items()}
        content = {"modules": states, "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        beside = self.path.with_suffix(".new")
        torch.save(content, beside)
        os.replace(beside, self.path)

    def _log(self, step: int, seconds: float) -> None:
        names = self._losses[0] if self._losses else {}
        means = {n: sum(row[n] for row in self._losses) / len(self._losses) for n in names}
        self._losses.clear()
        words = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        line = f"{self.stage} step {step}/{self.steps} {seconds:.0f} s {words}"
        print(line, flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf8") as file:
            file.write(line + "\n")


def rate(step: int, steps: int, warmup: int = 100, fall: float = 0.3) -> float:
    """Share of the peak learning rate: a linear rise, level, then a linear fall over the last part of the run.

    Level in the middle, so that a run may be made longer or shorter when it is resumed.
    """
    left = (steps - step) / max(fall * steps, 1)
    return min((step + 1) / warmup, 1.0, left)
