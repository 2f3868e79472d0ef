"""A run made of words: the events of a training, with no model behind them. Its speed and end are set by the test."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

from lora_ext.config import TrainConfig
from lora_ext.errors import BadInput, Problem
from lora_ext.training import (
    Abort,
    Event,
    Finished,
    Notice,
    Paused,
    Preview,
    Saved,
    Stage,
    Step,
    Stop,
    Validated,
)
from lora_ext.training.hearing import Wishes, hearing
from lora_ext.ui import Service


@dataclass
class Script:
    """What the next run does."""

    pause: float = 0.02  # seconds per step
    hold: threading.Event = field(default_factory=threading.Event)
    """While clear, the run waits before its first step."""
    failing: BaseException | None = None
    """Raised at half-way."""
    runs: list[TrainConfig] = field(default_factory=list)
    """Settings of every run that began."""

    def __post_init__(self) -> None:
        self.hold.set()

    def check(self, model: object, config: TrainConfig, output: Path) -> None:
        """In place of `lora_ext.training.check`."""
        if not Path(config.data.images).is_dir():
            raise BadInput(Problem("images", "there is no such folder", "a folder with pictures", config.data.images))
        if output.exists() and not config.save.overwrite:
            raise BadInput(Problem("output", "the file is already there", got=output.name))

    def train(self, model: object, config: TrainConfig, *, output: Path) -> Generator[Event, None, None]:
        """In place of `lora_ext.training.train`; complains at once, as it does."""
        self.check(model, config, output)
        self.runs.append(config)
        wishes = Wishes()
        return hearing(self._run(config, output, wishes), wishes)

    def _run(self, config: TrainConfig, output: Path, wishes: Wishes) -> Generator[Event, None, None]:
        total = config.optim.max_steps or 60
        step, reason = 0, "done"
        try:
            for n in range(5):
                yield Stage("Caching latents", n, 4)
                time.sleep(self.pause)
            yield Notice("<b>3 pictures</b> have no caption; the concept name is used.")
            yield Stage("Training", 0, total)
            self.hold.wait(600)
            for step in range(1, total + 1):
                if self.failing and step == total // 2:
                    raise self.failing
                time.sleep(self.pause)
                epoch = 1 + (step - 1) * config.optim.epochs // total
                rate = config.optim.learning_rate
                yield Step(step, total, epoch, config.optim.epochs, loss(step), rate, step * self.pause)
                if step % 20 == 0:
                    yield Validated(step, 0.1 + 1 / step)
                yield from self._between(config, output, wishes, step, total)
        except Stop:
            reason = "stopped"
        except Abort:
            reason = "aborted"
        if reason != "aborted":
            output.write_bytes(b"file")
            yield Saved(step, output, final=True)
        yield Finished(step, reason)

    def _between(
        self, config: TrainConfig, output: Path, wishes: Wishes, step: int, total: int
    ) -> Generator[Event, None, None]:
        prompts = [line for line in config.preview.preview_prompt.splitlines() if line.strip()]
        if wishes.preview or step % config.preview.preview_every == 0:
            for number, prompt in enumerate(prompts):
                yield Preview(step, prompt, picture(step / total, number))
        if wishes.save or wishes.pause:
            halfway = output.with_name(f"{output.stem}-step{step:06}.safetensors")
            halfway.write_bytes(b"half")
            yield Saved(step, halfway, final=False)
        pause = wishes.pause
        wishes.save = wishes.preview = wishes.pause = False
        if pause:
            yield Paused(step)
            yield Stage("Training", step, total)


def loss(step: int) -> float:
    """A loss that falls and shakes."""
    return 0.09 + 0.1 * math.exp(-step / 200) + 0.03 * math.sin(step * 12.9898) * math.sin(step * 78.233)


def picture(progress: float, number: int = 0) -> Image.Image:
    """A picture that shows how far it is."""
    image = Image.new("RGB", (256, 256), [(40, 60, 110), (80, 40, 60)][number % 2])
    ImageDraw.Draw(image).ellipse((40, 40, 40 + int(170 * progress), 40 + int(170 * progress)), fill=(240, 180, 90))
    return image


@dataclass
class Workplace:
    """A service, the script its runs follow, and where its files go."""

    service: Service
    script: Script | None
    outputs: Path
    pictures: Path
    saved: list[Path]

    def values(self, **more: object) -> dict[str, object]:
        """Settings that start a run."""
        return {"images": str(self.pictures), "output": "my cat", "max_steps": 30, **more}

    def wait(self, *states: str) -> dict[str, object]:
        """The first snapshot in one of these states."""
        for _ in range(1000):
            now = self.service.snapshot()
            if now["state"] in states:
                return now
            time.sleep(0.01)
        raise AssertionError(f"still {now['state']}, not {states}")

    def end(self) -> None:
        """Nothing may go on behind a test's back."""
        self.service.queue.hold()
        self.service.job.abort()
        self.wait("idle", "done", "stopped", "aborted", "failed")
