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
from lora_ext.training import Event, Finished, Notice, Preview, Saved, Stage, Step, Stop
from lora_ext.ui import Service


@dataclass
class Script:
    """What the next run does."""

    pause: float = 0.02  # seconds per step
    hold: threading.Event = field(default_factory=threading.Event)
    """While clear, the run waits before its first step."""
    failing: BaseException | None = None
    """Raised at half-way."""

    def __post_init__(self) -> None:
        self.hold.set()

    def train(self, model: object, config: TrainConfig, *, output: Path) -> Generator[Event, None, None]:
        """In place of `lora_ext.training.train`; complains at once, as it does."""
        if not Path(config.data.images).is_dir():
            raise BadInput(Problem("images", "there is no such folder", "a folder with pictures", config.data.images))
        if output.exists() and not config.save.overwrite:
            raise BadInput(Problem("output", "the file is already there", got=output.name))
        return self._run(config, output)

    def _run(self, config: TrainConfig, output: Path) -> Generator[Event, None, None]:
        total = config.optim.max_steps or 60
        step, reason = 0, "done"
        try:
            for n in range(5):
                yield Stage("Caching latents", n, 4)
                time.sleep(self.pause)
            yield Notice("<b>3 pictures</b> have no caption; the concept name is used.")
            yield Stage("Training", 0, total)
            self.hold.wait(30)
            for step in range(1, total + 1):
                if self.failing and step == total // 2:
                    raise self.failing
                time.sleep(self.pause)
                epoch = 1 + (step - 1) * config.optim.epochs // total
                rate = config.optim.learning_rate
                yield Step(step, total, epoch, config.optim.epochs, loss(step), rate, step * self.pause)
                if config.preview.preview_prompt and step % config.preview.preview_every == 0:
                    yield Preview(step, config.preview.preview_prompt, picture(step / total))
        except Stop:
            reason = "stopped"
        output.write_bytes(b"file")
        yield Saved(step, output, final=True)
        yield Finished(step, reason)


def loss(step: int) -> float:
    """A loss that falls and shakes."""
    return 0.09 + 0.1 * math.exp(-step / 200) + 0.03 * math.sin(step * 12.9898) * math.sin(step * 78.233)


def picture(progress: float) -> Image.Image:
    """A picture that shows how far it is."""
    image = Image.new("RGB", (256, 256), (40, 60, 110))
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
