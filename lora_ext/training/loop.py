"""The run, from top to bottom."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_ext.config import TrainConfig
from lora_ext.data import DataReport, Sample
from lora_ext.errors import BadInput, Problem
from lora_ext.live import LiveModel, RenderRequest
from lora_ext.patching import Strengths
from lora_ext.training.check import check, remarks
from lora_ext.training.events import Event, Finished, Notice, Preview, Saved, Stage, Step, Stop
from lora_ext.training.keeper import Keeper
from lora_ext.training.optimizer import Diverged, Stepper
from lora_ext.training.precision import Arithmetic
from lora_ext.training.schedule import Length, rate_factor

if TYPE_CHECKING:
    from lora_ext.training.learner import Learner
    from lora_ext.training.material import Material

READ_EVERY = 10  # steps between readings of the loss on a GPU; each reading waits for all queued work


def train(model: LiveModel, config: TrainConfig, *, output: Path) -> Generator[Event, None, None]:
    """Train a LoRA on `model` and write it to `output` (a `.safetensors` path).

    Checks everything at the call, before anything is touched, and raises `BadInput` with all problems, each naming its
    setting. The returned generator does the work; whoever drains it shows it.

    To stop early and keep what was learnt, either `throw(Stop())` (the file's `Saved` and `Finished("stopped")` follow)
    or `close()` (the file is written all the same, but a closed generator can say nothing). Without a finished step no
    file is written. However it ends, the model is given back as it was.
    """
    report = check(model, config, output)
    return _run(model, config, output, report)


def _run(model: LiveModel, config: TrainConfig, output: Path, report: DataReport) -> Generator[Event, None, None]:
    # They need diffusers, which takes seconds to import: that belongs to a run, not to the start of a WebUI.
    from lora_ext.training.learner import Learner  # noqa: PLC0415
    from lora_ext.training.material import prepare  # noqa: PLC0415

    run: Run | None = None
    reason = "done"
    with model.session() as session:
        try:
            yield from map(Notice, (*remarks(model, config), *report.notices))
            arithmetic = Arithmetic.choose(config.optim.precision, model.device)
            material = yield from prepare(model, session, config, arithmetic, report)
            yield Stage("Building the model")
            learner = Learner(model, session, config, arithmetic)
            run = Run(model, config, material, learner, Keeper(model, config, material, learner, output))
            yield from run.learn()
        except Stop:
            reason = "stopped"
        except (GeneratorExit, KeyboardInterrupt):
            if run and run.learnt():
                run.keeper.final(run.step, run.epoch)
            raise
        except (Diverged, torch.cuda.OutOfMemoryError) as e:
            if run and run.learnt():
                yield Saved(run.step, run.keeper.rescue(run.step, run.epoch), final=False)
            if isinstance(e, BadInput):
                raise
            raise BadInput(_out_of_memory()) from e
        with contextlib.suppress(Stop):  # too late to stop
            if run and run.step:
                if not run.learnt():
                    raise BadInput(_nothing_learnt(run.step))
                yield Saved(run.step, run.keeper.final(run.step, run.epoch), final=True)
    with contextlib.suppress(Stop):
        yield Finished(run.step if run else 0, reason)


@dataclass
class Run:
    """A run between its steps."""

    model: LiveModel
    config: TrainConfig
    material: Material
    learner: Learner
    keeper: Keeper
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    refused: int = 0
    length: Length = field(init=False)
    stepper: Stepper = field(init=False)

    def __post_init__(self) -> None:
        half = self.learner.arithmetic.scales_loss
        self.length = Length.of(self.material.batches.steps_per_epoch, self.config.optim)
        self.stepper = Stepper(self.learner.groups(), self.config.optim, self.model.device, half)

    def learn(self) -> Iterator[Event]:
        """Every step, with the saves and previews between them."""
        optim, total = self.config.optim, self.length.total
        if optim.warmup >= total:
            yield Notice(f"The warm-up of {optim.warmup} steps is as long as the run of {total}: it never ends.")
        yield Stage("Training", 0, total)
        for step, (epoch, group) in enumerate(itertools.islice(self._groups(), total), 1):
            seen = sum(map(len, group))
            for number, samples in enumerate(group, 1):
                began = time.perf_counter()
                loss = self.learner.loss(self.material.batch(samples, self.model.device))
                self.stepper.backward(loss, len(samples) / seen)  # so that every picture counts alike
                self.seconds += time.perf_counter() - began
                if number < len(group):
                    yield Stage("Training", self.step, total)  # a place to stop at inside a long step

            began = time.perf_counter()
            factor = rate_factor(step, total, optim)
            self.stepper.step(factor)
            self.step, self.epoch = step, epoch
            reading = self.stepper.read() if self._reads(step) else None
            self.seconds += time.perf_counter() - began

            rate = (optim.learning_rate or optim.text_encoder_lr) * factor
            yield Step(step, total, epoch, self.length.epochs, reading.loss if reading else None, rate, self.seconds)
            if reading and reading.refused > self.refused:
                yield self._tell_refused(reading.refused)
            if step < total:
                yield from self.keeper.between(step, epoch, self.length)
            if self.config.preview.preview_prompt.strip() and step % self.config.preview.preview_every == 0:
                yield self._preview()

    def learnt(self) -> bool:
        """Whether any step so far changed the adapters; on a GPU this waits for it."""
        return self.step > self.stepper.refusals()

    def _groups(self) -> Iterator[tuple[int, list[tuple[Sample, ...]]]]:
        """Epoch (from 1) and the micro-batches of each step, for ever; a step never spans two epochs."""
        for epoch in itertools.count(1):
            batches = self.material.batches.epoch(epoch - 1)
            while group := list(itertools.islice(batches, self.config.optim.accumulate)):
                yield epoch, group

    def _reads(self, step: int) -> bool:
        return self.model.device.type == "cpu" or step % READ_EVERY == 0 or step in (1, self.length.total)

    def _tell_refused(self, refused: int) -> Notice:
        self.refused = refused
        normal = " (a few at the start are normal in fp16)" if self.learner.arithmetic.scales_loss else ""
        return Notice(f"{refused} step(s) so far gave numbers that are not finite and were left out{normal}.")

    def _preview(self) -> Preview | Notice:
        """A picture with the adapters in the live weights, rendered by the host; then the weights are put back.

        A preview is not worth a run: when it cannot be made, the run goes on without.
        """
        wish = self.config.preview
        request = RenderRequest(
            wish.preview_prompt,
            wish.preview_negative,
            wish.preview_seed,
            wish.preview_steps,
            wish.preview_cfg,
            wish.preview_width,
            wish.preview_height,
        )
        network = self.learner.network("preview", f"preview at step {self.step}")
        strength = Strengths(wish.preview_strength, wish.preview_strength)
        try:
            with torch.no_grad():
                self.model.patcher.apply({network: strength})
                image = self.model.render(request)
        except torch.cuda.OutOfMemoryError:
            return Notice("There was not enough memory for the preview; a smaller preview size may fit.")
        except BadInput as e:
            return Notice(f"There is no preview at step {self.step}: {e}")
        finally:
            self.model.patcher.clear()
            self.learner.settle()
        return Preview(self.step, wish.preview_prompt, image)


def _out_of_memory() -> Problem:
    return Problem(
        "batch_size",
        "the card ran out of memory",
        fix="Turn on gradient checkpointing, or lower the batch size or the resolution.",
    )


def _nothing_learnt(steps: int) -> Problem:
    return Problem(
        "precision",
        f"all {steps} step(s) gave numbers that are not finite: nothing was learnt and no file was written",
        fix="Try fp32 or bf16. If that does not help, the checkpoint's own weights are damaged.",
    )
