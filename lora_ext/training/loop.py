"""A run from its first check to its last file."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lora_ext.adapters import Network
from lora_ext.config import TrainConfig
from lora_ext.data import DataReport
from lora_ext.errors import BadInput, Problem
from lora_ext.live import LiveModel, Session
from lora_ext.training.charts import Charts
from lora_ext.training.check import check, remarks
from lora_ext.training.creation import read_start
from lora_ext.training.events import Abort, Event, Finished, Notice, Saved, Stage, Stop
from lora_ext.training.hearing import Wishes, hearing
from lora_ext.training.keeper import Keeper
from lora_ext.training.loan import Loan
from lora_ext.training.log import RunLog
from lora_ext.training.optimizer import Diverged
from lora_ext.training.precision import Arithmetic
from lora_ext.training.state import StateFile
from lora_ext.training.targets import text_learns
from lora_ext.training.world import ALONE, Elsewhere, World, together

if TYPE_CHECKING:
    from lora_ext.training.run import Run


def train(model: LiveModel, config: TrainConfig, *, output: Path, world: World = ALONE) -> Generator[Event, None, None]:
    """Train a LoRA on `model` and write it to `output` (a `.safetensors` path).

    Checks everything at the call, before anything is touched, and raises `BadInput` with all problems, each naming its
    setting. The returned generator does the work; whoever drains it shows it.

    To stop early and keep what was learnt, either `throw(Stop())` (the file's `Saved` and `Finished("stopped")` follow)
    or `close()` (the file is written all the same, but a closed generator can say nothing). Without a finished step no
    file is written. However it ends, the model is given back as it was.

    `throw(Pause())` lets the step that is going on become whole, writes a file of what is learnt and gives the model
    and the host's lock back; then comes `Paused`, and the next `next()` waits for the lock and goes on as if nothing
    had been. `Stop` and `close()` work in a pause too. `SaveNow` and `PreviewNow` are wishes of the same kind.

    With a `world` of several processes each of them calls this with settings and pictures of its own, which must be the
    same; the batch size is that of one process. The first one writes and says everything. `Stop` and `Abort` thrown in
    any of them end all of them when a step is whole, and `Elsewhere` is raised where another one failed.

    `throw(Abort())` ends the run and writes nothing more; `Finished("aborted")` follows.
    """
    report = check(model, config, output)
    fitting = list(world.problems(report.bucket_counts.values()))
    if fitting:
        raise BadInput(*fitting)
    world.agree()  # nothing is touched before all have checked
    wishes = Wishes(together=world.size > 1)
    return hearing(together(_run(model, config, output, report, wishes, world), world), wishes)


def _run(
    model: LiveModel, config: TrainConfig, output: Path, report: DataReport, wishes: Wishes, world: World
) -> Generator[Event, None, None]:
    run: Run | None = None
    failed: BadInput | None = None
    reason = "done"
    loan = Loan(model)
    with loan as session, contextlib.ExitStack() as last:
        try:
            yield from map(Notice, (*remarks(model, config), *report.notices))
            run = yield from _prepare(model, config, output, report, loan, session, wishes, world)
            last.callback(run.leave)
            with contextlib.closing(run.charts):
                yield from run.learn()
        except (Stop, Abort) as end:
            reason = "aborted" if isinstance(end, Abort) else "stopped"
        except (GeneratorExit, KeyboardInterrupt):
            if run and run.learnt() and world.leads:
                for _ in run.keep_state():
                    pass
                run.final()
            raise
        except Elsewhere:
            yield from _rescued(run, world)
            raise
        except Diverged as e:
            failed = e
        except torch.cuda.OutOfMemoryError:
            failed = BadInput(_out_of_memory())
        if failed:  # outside of the handlers, which would keep the failed pass and all its memory alive
            with contextlib.suppress(Stop, Abort):
                yield from _rescued(run, world)
            raise failed
        with contextlib.suppress(Stop, Abort):  # too late for them
            if run and run.step and reason != "aborted":
                if not run.learnt():
                    raise BadInput(_nothing_learnt(run.step))
                if world.leads:
                    yield from run.keep_state()
                    yield Saved(run.step, run.final(), final=True)
    with contextlib.suppress(Stop, Abort):
        yield Finished(run.step if run else 0, reason)


def _rescued(run: Run | None, world: World) -> Iterator[Saved]:
    """A file of what was learnt, if anything was, in the process that writes."""
    if run and run.learnt() and world.leads:
        yield Saved(run.step, run.rescue(), final=False)


def _prepare(
    model: LiveModel,
    config: TrainConfig,
    output: Path,
    report: DataReport,
    loan: Loan,
    session: Session,
    wishes: Wishes,
    world: World,
) -> Generator[Event, None, Run]:
    """Encode everything and build the model; a resumed run stands where it was."""
    # They need diffusers, which takes seconds to import: that belongs to a run, not to the start of a WebUI.
    from lora_ext.training.learner import Learner  # noqa: PLC0415
    from lora_ext.training.material import prepare  # noqa: PLC0415
    from lora_ext.training.run import Run  # noqa: PLC0415

    arithmetic = Arithmetic.choose(config.optim.precision, model.device)
    states = StateFile(output)
    saved = states.read() if config.save.resume else None
    start = yield from _start(model, config)
    text = text_learns(model.table, config, start)
    with world.in_turns(config.data.cache == "disk"):
        material = yield from prepare(model, session, whole_batch(config, world), arithmetic, report, text)
    yield Stage("Building the model")
    learner = Learner(model, session, config, arithmetic, start)
    keeper = Keeper(model, config, material, learner, output)
    log = RunLog(output, config, model.checkpoint.filename, saved.step if saved else 0)
    run = Run(model, config, material, learner, keeper, loan, wishes, states, log, Charts(output), world)
    if saved is not None:
        run.resume(saved)
        yield Notice(f"Going on after step {run.step}.")
    elif config.save.state_every and world.leads:
        states.forget()
    return run


def _start(model: LiveModel, config: TrainConfig) -> Generator[Event, None, Network | None]:
    """The network to go on from, if any."""
    if not config.network.start_from.strip():
        return None
    network, told = read_start(config.network.start_from, model.table)
    yield from map(Notice, told)
    return network


def whole_batch(config: TrainConfig, world: World) -> TrainConfig:
    """The settings of one process that would do the work of all."""
    if world.size == 1:
        return config
    return replace(config, data=replace(config.data, batch_size=config.data.batch_size * world.size))


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
