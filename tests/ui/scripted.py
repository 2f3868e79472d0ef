"""A run made of words: the events of a training, with no model behind them. Its speed and end are set by the test."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from scripted_model import model

from lora_ext.adapters import LoraAdapter, Network
from lora_ext.api import sheets
from lora_ext.config import TrainConfig, flat, read
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, network_metadata, write_network
from lora_ext.layers import Family, Layer
from lora_ext.model import default_targets
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
from lora_ext.training.comparison import Painted, Plan, Row
from lora_ext.training.hearing import Wishes, hearing
from lora_ext.ui import Service


@dataclass
class Script:
    """What the next run does."""

    pause: float = 0.02  # seconds per step
    hold: threading.Event = field(default_factory=threading.Event)
    """While clear, the run waits before its first step."""
    folder: threading.Event = field(default_factory=threading.Event)
    """While clear, looking at the pictures takes its time."""
    failing: BaseException | None = None
    """Raised at half-way."""
    runs: list[TrainConfig] = field(default_factory=list)
    """Settings of every run that began."""
    brush: threading.Event = field(default_factory=threading.Event)
    """While clear, a sheet waits before its next picture."""
    spoiled: BaseException | None = None
    """Raised before the next picture of a sheet."""
    sheets: list[Plan] = field(default_factory=list)
    """Every sheet that began."""

    def __post_init__(self) -> None:
        self.hold.set()
        self.folder.set()
        self.brush.set()

    def check(self, model: object, config: TrainConfig, output: Path) -> None:
        """In place of `lora_ext.training.check`."""
        self.folder.wait(60)
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
        asked = replace(wishes)  # one that comes while these are granted is for the next step
        wishes.save = wishes.preview = wishes.pause = False
        prompts = [line for line in config.preview.preview_prompt.splitlines() if line.strip()]
        if asked.preview or step % config.preview.preview_every == 0:
            for number, prompt in enumerate(prompts):
                yield Preview(step, prompt, picture(step / total, number))
        if asked.save or asked.pause:
            halfway = output.with_name(f"{output.stem}-step{step:06}.safetensors")
            halfway.write_bytes(b"half")
            yield Saved(step, halfway, final=False)
        if asked.pause:
            yield Paused(step)
            yield Stage("Training", step, total)

    def compare(
        self, model: object, wanted: Plan, interrupted: Callable[[], bool] = lambda: False
    ) -> Generator[Painted, None, None]:
        """In place of `lora_ext.training.comparison.compare`: columns differ in colour, rows in what is on them."""
        self.sheets.append(wanted)
        for at, row in enumerate(wanted.rows):
            everything = tuple(range(len(wanted.files)))
            for columns in [(column,) for column in everything] if row.strength else [everything]:
                self.brush.wait(600)
                if self.spoiled:
                    raise self.spoiled
                time.sleep(self.pause)
                yield Painted(columns, at, cell(wanted, columns, row))


def cell(wanted: Plan, columns: tuple[int, ...], row: Row) -> Image.Image:
    """A picture that shows which it is."""
    share = (columns[0] + 1) / len(wanted.files) if row.strength else 0.0
    made = Image.new("RGB", (wanted.picture.width, wanted.picture.height), (40, 60 + int(150 * share), 110))
    size = int(min(made.size) * min(1.0, 0.1 + 0.6 * abs(row.strength)))
    ImageDraw.Draw(made).ellipse((4, 4, size, size), fill=(240, 180, 60 + row.seed * 37 % 190))
    return made


def loss(step: int) -> float:
    """A loss that falls and shakes."""
    return 0.09 + 0.1 * math.exp(-step / 200) + 0.03 * math.sin(step * 12.9898) * math.sin(step * 78.233)


def picture(progress: float, number: int = 0) -> Image.Image:
    """A picture that shows how far it is."""
    image = Image.new("RGB", (256, 256), [(40, 60, 110), (80, 40, 60)][number % 2])
    ImageDraw.Draw(image).ellipse((40, 40, 40 + int(170 * progress), 40 + int(170 * progress)), fill=(240, 180, 90))
    return image


@cache
def spellings(family: Family) -> tuple[NameTable, Layer]:
    """How files name the layers of a model, and one of them; made once, it takes a moment."""
    table = model(family).table
    return NameTable(table), default_targets(table, conv=False)[0]


def saved(path: Path, config: TrainConfig, step: int, begun: float, family: Family = "sd1") -> Path:
    """A file as a run writes it, with one layer only."""
    names, layer = spellings(family)
    adapter = LoraAdapter.create(layer.shape, 2, 2.0, torch.Generator().manual_seed(step))
    known = {**flat(config), "output": Path(config.save.output).stem}
    metadata = network_metadata(
        family=family, name=path.stem, rank=2, alpha=2.0, steps=step, epochs=1, settings=known,
        started=begun, finished=begun + step,
    )  # fmt: skip
    write_network(path, Network(path.stem, {layer.name: adapter}, metadata), names, metadata, torch.float16)
    return path


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

    def save_run(
        self,
        name: str,
        steps: tuple[int, ...] = (100, 200, 300),
        losses: Mapping[int, float] | None = None,
        final: int = 0,
        begun: float = 1_700_000_000.0,
        family: Family = "sd1",
        **more: object,
    ) -> list[Path]:
        """The files that a run of this name leaves behind, small but whole; `final` is its last step, if it came so
        far, `losses` the validation losses of its log, `begun` and one second a step its times."""
        config = read(TrainConfig, {**self.values(output=name, **more)})
        wanted = {step: f"{name}-step{step:06d}" for step in steps} | ({final: name} if final else {})
        paths = [
            saved(self.outputs / f"{one}.safetensors", config, step, begun, family) for step, one in wanted.items()
        ]
        if losses is not None:
            lines = ["step,epoch,loss,validation,learning_rate,seconds"]
            lines += [f"{step},1,0.1,{loss},0.0001,{step}" for step, loss in losses.items()]
            (self.outputs / f"{name}.log.csv").write_text("\n".join(lines) + "\n", encoding="utf8")
        return paths

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
        self.script.brush.set() if self.script else None
        if sheets.easel.sheet is not None:
            sheets.easel.sheet.cancel()
            sheets.easel.sheet.join(60)
        self.wait("idle", "done", "stopped", "aborted", "failed")
