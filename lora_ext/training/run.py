"""The steps of a run, and what happens between them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_ext.config import TrainConfig
from lora_ext.data import Sample
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import Component
from lora_ext.live import LiveModel
from lora_ext.training.charts import Charts
from lora_ext.training.events import Event, Notice, Paused, Preview, Saved, Stage, Step, Validated
from lora_ext.training.hearing import Wishes
from lora_ext.training.keeper import Keeper
from lora_ext.training.loan import Loan
from lora_ext.training.log import RunLog
from lora_ext.training.optimizer import Diverged, Reading, Stepper
from lora_ext.training.pictured import previews
from lora_ext.training.rollback import Rollback
from lora_ext.training.schedule import Length, epoch_ends, rate_factor, warmup_steps
from lora_ext.training.state import Identity, State, StateFile, tensors_digest
from lora_ext.training.validation import validation_loss
from lora_ext.training.world import ALONE, World

if TYPE_CHECKING:
    from lora_ext.training.learner import Draw, Learner
    from lora_ext.training.material import Batch, Material

READ_EVERY = 10  # steps between readings of the loss on a GPU; each reading waits for all queued work


@dataclass
class Run:
    """A run between its steps."""

    model: LiveModel
    config: TrainConfig
    material: Material
    learner: Learner
    keeper: Keeper
    loan: Loan
    wishes: Wishes
    states: StateFile
    log: RunLog
    charts: Charts
    world: World = ALONE
    identity: Identity | None = None
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    refused: int = 0
    most: int | None = None
    """Samples that go through the model at once, after it ran out of memory with more."""
    length: Length = field(init=False)
    stepper: Stepper = field(init=False)
    rollback: Rollback = field(init=False)

    def __post_init__(self) -> None:
        half = self.learner.arithmetic.scales_loss
        parts = {name.component for name, target in self.learner.targets.items() if target.rate}
        self.length = Length.of(self.material.batches.steps_per_epoch, self.config.optim).until(self._end(parts))
        self.stepper = Stepper(self.learner.groups(), self.config.optim, self.model.device, half)
        self.rollback = Rollback(self.learner, self.stepper)

    def learn(self) -> Iterator[Event]:
        """Every step from here on, with the saves and previews between them."""
        self.world.alike(self.stepper.parameters)
        optim, total = self.config.optim, self.length.total
        warmup = warmup_steps(total, optim)
        if warmup >= total:
            yield Notice(f"The warm-up of {warmup} steps is as long as the run of {total}: it never ends.")
        yield Stage("Training", self.step, total)
        yield from self._before_the_first()
        for step, (epoch, group) in enumerate(itertools.islice(self._groups(), self.step, total), self.step + 1):
            self._rest(step)
            yield from self._speak(epoch)
            yield from self._gradients(group)
            self.world.agree(self.wishes.end)
            began = time.perf_counter()
            self.stepper.pending = self.world.add_up(self.stepper.parameters, self.stepper.pending)
            self.stepper.step(rate_factor(step, total, optim))
            self.step, self.epoch = step, epoch
            reading = yield from self._read()
            self.seconds += time.perf_counter() - began
            loss = reading.loss if reading else None
            yield Step(step, total, epoch, self.length.epochs, loss, self.stepper.rate(), self.seconds)
            if reading and reading.refused > self.refused:
                yield self._tell_refused(reading.refused)
            validation = yield from self._validate()
            yield from self._note(loss, validation)
            yield from self._between()

    def _before_the_first(self) -> Iterator[Event]:
        """What is due before any step, from the process that writes and shows."""
        if not self.world.leads:
            return
        if self.config.save.tensorboard:
            problem = self.charts.open(self.step)
            if problem:
                yield Notice(f"There are no charts for TensorBoard: {problem}")
        if self.config.preview.preview_first and self.config.preview.preview_prompt.strip() and not self.step:
            yield from self._previews()

    def _note(self, loss: float | None, validation: float | None) -> Iterator[Notice]:
        """Write down what was measured in this step, if anything was."""
        if not self.world.leads or (loss is None and validation is None):
            return
        rate = self.stepper.rate()
        self.charts.add(self.step, loss, validation, rate)
        problem = self.log.add(self.step, self.epoch, loss, validation, rate, self.seconds)
        if problem:
            yield Notice(f"The log could not be written and ends here ({problem}).")

    def learnt(self) -> bool:
        """Whether any step so far changed the adapters; on a GPU this waits for it."""
        return self.step > self.stepper.refusals()

    def final(self) -> Path:
        """Write the run's own file."""
        with self.stepper.shown():
            return self.keeper.final(self.step, self.epoch)

    def rescue(self) -> Path:
        """Write what was learnt before the run breaks off."""
        with self.stepper.shown():
            return self.keeper.rescue(self.step, self.epoch)

    def leave(self) -> None:
        """Let go of what the model's other parts need the room of when they come back."""
        self.learner.let_go()
        self.stepper.optimizer.zero_grad(set_to_none=True)

    def keep_state(self) -> Iterator[Notice]:
        """Save the state where the settings want one. A disk that refuses costs the state, not the run."""
        if not self.config.save.state_every or not self.step:
            return
        try:
            self.states.write(State(self._who(), self.step, self._capture()))
        except BadInput as e:
            yield Notice(f"{e} The run goes on; the state saved before is still there.")

    def resume(self, state: State) -> None:
        """Go on from a saved state of the same run."""
        content = state.content
        processes = content.get("processes", 1)
        if processes != self.world.size:
            what = "the run to be resumed had another number of processes"
            raise BadInput(Problem("resume", what, str(processes), str(self.world.size)))
        computed = str(content.get("computed", self._computed()))
        if computed != self._computed():
            what = "the run to be resumed used another kind of device or another precision"
            raise BadInput(Problem("resume", what, computed, self._computed(), "Use those, or train anew."))
        self.learner.restore(content["learner"])  # type: ignore[arg-type]  # as `_capture` wrote it
        self.stepper.restore(content["stepper"])  # type: ignore[arg-type]
        self.step, self.seconds = state.step, float(str(content["seconds"]))
        self.refused = self.stepper.refusals()
        self.epoch = -(-self.step // self.length.steps_per_epoch)
        if self.step >= self.length.total:
            what = f"the run is finished: it has {self.step} steps already"
            raise BadInput(Problem("resume", what, f"more than {self.step} steps", str(self.length.total)))

    def _speak(self, epoch: int) -> Iterator[Event]:
        """Encode the captions of this epoch where those of all would not fit; the UNet makes room meanwhile."""
        supply = self.material.supply
        if supply.lacks(epoch - 1):
            self.learner.let_go()
            yield from supply.of_epoch(epoch - 1, self.learner.session)
            self.learner.come_back(self.learner.session)
            yield Stage("Training", self.step, self.length.total)

    def _gradients(self, group: Sequence[tuple[Sample, ...]]) -> Iterator[Event]:
        """The gradients of one step. When memory runs out, the step is begun again with smaller pieces of it."""
        chance = self.learner.chance()
        while True:
            try:
                yield from self._pass(group)
                return
            except torch.cuda.OutOfMemoryError:
                if not self._can_shrink(group):
                    raise
            self.stepper.forget()  # outside of the handler, which would keep the failed pass alive
            self.learner.set_chance(chance)
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            yield self._shrink(group)

    def _pass(self, group: Sequence[tuple[Sample, ...]]) -> Iterator[Event]:
        seen = sum(map(len, group))
        for number, samples in enumerate(group, 1):
            began = time.perf_counter()
            batch = self.material.batch(samples, self.model.device)
            for piece, draw, part in self._pieces(batch):
                loss = self.learner.loss(piece, draw)
                self.stepper.backward(loss, part * len(samples) / seen)  # so that every picture counts alike
            self.seconds += time.perf_counter() - began
            if number < len(group):
                yield Stage("Training", self.step, self.length.total)  # a place to stop at inside a long step

    def _pieces(self, batch: Batch) -> Iterator[tuple[Batch, Draw, float]]:
        """Our share of a batch in pieces that fit, with what chance decided for the whole of it, and their parts."""
        draw, size = self.learner.draw(batch), len(batch.latents)
        mine, most = self.world.share(size), self.most or size
        if len(mine) == size <= most:
            yield batch, draw, 1.0
            return
        for start in range(mine.start, mine.stop, most):
            which = slice(start, min(start + most, mine.stop))
            yield batch[which], draw[which], (which.stop - which.start) / size

    def _can_shrink(self, group: Sequence[tuple[Sample, ...]]) -> bool:
        return self._at_once(group) > 1 or not self.learner.checkpointing

    def _at_once(self, group: Sequence[tuple[Sample, ...]]) -> int:
        """The most samples that go through the model at once."""
        return min(self.most or 2**31, max(len(self.world.share(len(samples))) for samples in group))

    def _shrink(self, group: Sequence[tuple[Sample, ...]]) -> Notice:
        size = self._at_once(group)
        if size > 1:
            self.most = size // 2
            how = f"batches go through the model in pieces of {self.most}"
        else:
            self.learner.save_memory()
            how = "gradient checkpointing is on"
        return Notice(f"Memory ran out at step {self.step + 1}: from here on {how}, with the same result, but slower.")

    def _read(self) -> Generator[Event, None, Reading | None]:
        step = self.step
        if not (self.model.device.type == "cpu" or step % READ_EVERY == 0 or step in (1, self.length.total)):
            return None
        try:
            reading = self.stepper.read()
        except Diverged:
            if self.config.optim.on_divergence == "stop" or not self.rollback.possible:
                raise
            good = self.rollback.back()
            self.refused = self.stepper.refusals()
            yield Notice(
                f"Too many steps in a row gave numbers that are not finite: back to what was learnt until step {good}, "
                f"and on with {self.stepper.lowered:g} times the learning rate."
            )
            return None
        self.rollback.remember(step, reading)
        return reading

    def _between(self) -> Iterator[Event]:
        """What is due after a whole step, from the process that writes and shows."""
        if not self.world.leads:
            return
        step, save = self.step, self.config.save
        if step < self.length.total:
            with self.stepper.shown():
                yield from self.keeper.between(step, self.epoch, self.length)
            if save.state_every and step % save.state_every == 0:
                yield from self.keep_state()
        yield from self._due_previews()
        yield from self._wished_file()
        if self.wishes.pause:
            self.wishes.pause = False
            if self.world.size > 1:
                yield Notice("A run of several processes cannot be paused.")
            elif step < self.length.total:
                yield from self._pause()

    def _wished_file(self) -> Iterator[Event]:
        """The file that was asked for; the last step needs none, and with a pause one is written anyway."""
        asked, self.wishes.save = self.wishes.save, False
        if not asked or self.wishes.pause or self.step == self.length.total:
            return
        yield self._on_the_way()
        yield from self.keep_state()

    def _on_the_way(self) -> Saved | Notice:
        """A disk that refuses costs the file, not the run."""
        try:
            return Saved(self.step, self.rescue(), final=False)
        except BadInput as e:
            return Notice(f"A file on the way was not saved: {e}")

    def _validate(self) -> Generator[Event, None, float | None]:
        """The loss on the held-out pictures where it is due: every so many steps, and at the first and the last."""
        step, every = self.step, self.config.preview.validation_every
        due = step % every == 0 or step in (1, self.length.total)
        if not (due and self.world.leads and self.material.report.validation):
            return None
        with self.stepper.shown():
            loss = validation_loss(self.learner, self.material)
        yield Validated(step, loss)
        return loss

    def _pause(self) -> Iterator[Event]:
        """Everything goes back to the host; with the next `next()` it is borrowed again."""
        yield Saved(self.step, self.rescue(), final=False)
        yield from self.keep_state()
        before = tensors_digest(self.model.tensors)
        self.learner.leave()
        self.stepper.leave()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.loan.give_back()
        yield Paused(self.step)
        session = self.loan.take_again()
        if tensors_digest(self.model.tensors) != before:
            raise BadInput(_another_checkpoint())
        self.learner.come_back(session)
        self.stepper.come_back()
        yield Stage("Training", self.step, self.length.total)

    def _previews(self) -> Iterator[Event]:
        yield Stage("Painting previews", self.step, self.length.total)
        self.learner.let_go()  # hosts move their weights for a picture; copies and views would hold a second set
        with self.stepper.shown():
            made = previews(self.model, self.config.preview, self.learner, self.step)
        self.learner.settle()
        for one in made:
            if isinstance(one, Preview):
                self.charts.show(one)
        yield from made
        yield Stage("Training", self.step, self.length.total)

    def _due_previews(self) -> Iterator[Event]:
        """Those that are asked for, and those by steps and epochs."""
        wish = self.config.preview
        asked, self.wishes.preview = self.wishes.preview, False
        if not wish.preview_prompt.strip():
            if asked:
                yield Notice("There is no preview: no preview prompt was given.")
            return
        due = wish.preview_every and self.step % wish.preview_every == 0
        if asked or due or self.step in epoch_ends(self.length, wish.preview_every_epochs, last=True):
            yield from self._previews()

    def _capture(self) -> dict[str, object]:
        return {
            "learner": self.learner.capture(),
            "stepper": self.stepper.capture(),
            "seconds": self.seconds,
            "processes": self.world.size,
            "computed": self._computed(),
        }

    def _computed(self) -> str:
        """By what kind of device and in which precision; the noise comes from that device too."""
        return f"{self.model.device.type}, {str(self.learner.arithmetic.compute).removeprefix('torch.')}"

    def _who(self) -> Identity:
        if self.identity is None:
            name = self.model.checkpoint.name
            self.identity = Identity.of(self.config, name, self.model.tensors, self.material.report.pictures)
        return self.identity

    def _groups(self) -> Iterator[tuple[int, list[tuple[Sample, ...]]]]:
        """Epoch (from 1) and the micro-batches of each step, for ever; a step never spans two epochs."""
        for epoch in itertools.count(1):
            batches = self.material.batches.epoch(epoch - 1)
            while group := list(itertools.islice(batches, self.config.optim.accumulate)):
                yield epoch, group

    def _stops(self) -> dict[Component, int]:
        """After which step a part rests; only parts that do."""
        optim = self.config.optim
        second = optim.text_encoder_2_stop if optim.text_encoder_2_stop >= 0 else optim.text_encoder_stop
        stops: dict[Component, int] = {"unet": optim.unet_stop, "te1": optim.text_encoder_stop, "te2": second}
        return {part: stop for part, stop in stops.items() if stop}

    def _rest(self, step: int) -> None:
        for part, stop in self._stops().items():
            if step > stop:
                self.learner.freeze(part)

    def _end(self, parts: set[Component]) -> int | None:
        """The step after which nothing is left to learn, if there is one."""
        stops = self._stops()
        return max(stops[part] for part in parts) if parts and parts <= set(stops) else None

    def _tell_refused(self, refused: int) -> Notice:
        self.refused = refused
        normal = " (a few at the start are normal in fp16)" if self.learner.arithmetic.scales_loss else ""
        return Notice(f"{refused} step(s) so far gave numbers that are not finite and were left out{normal}.")


def _another_checkpoint() -> Problem:
    fix = "Load the checkpoint of the run again; what was learnt is in the file saved at the pause."
    return Problem("checkpoint", "another checkpoint was loaded during the pause", fix=fix)
