"""`train`: pictures and a checkpoint in, a LoRA out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lora_ext.cli.flags import Parser, add_flags, values
from lora_ext.cli.outputs import check_all, check_lora_output, lora_path, write_png
from lora_ext.cli.prediction import prediction
from lora_ext.cli.progress import Progress
from lora_ext.config import CheckpointConfig, TrainConfig, read
from lora_ext.data import inspect, scan
from lora_ext.hosts.standalone import StandaloneModel, check_load
from lora_ext.model import Tokenizer
from lora_ext.training import Stop, check, train
from lora_ext.training.check import remarks
from lora_ext.training.estimate import Card, estimate
from lora_ext.training.events import Event, Preview, Saved
from lora_ext.training.world import Elsewhere, World, joined

ECHO = 1.0  # seconds; nobody presses a key twice on purpose so soon


@dataclass(frozen=True)
class TrainCommand:
    """All settings of `train`."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: TrainConfig = field(default_factory=TrainConfig)


def add(parser: Parser) -> None:
    """Give the sub-command its flags."""
    parser.add_argument("--config", metavar="FILE", help="settings file, .json or .toml; flags and --set override it")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="one setting by name; may be given again")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what the run would see and take, and end there"
    )
    add_flags(parser, TrainCommand)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code (130 after Ctrl-C, which keeps what was learnt)."""
    config = read(TrainCommand, values(args, TrainCommand))
    try:
        with joined() as world:
            return _train(config, world, args.dry_run)
    except Elsewhere as e:
        print(f"stopped: {e}", file=sys.stderr)
        return 1


def _train(config: TrainCommand, world: World, dry: bool) -> int:
    save = config.run.save
    check_all(
        lambda: check_load(config.model),
        lambda: scan(config.run.data),
        lambda: check_lora_output(save.output, save.overwrite or save.resume),
    )
    progress = Progress(sys.stderr, quiet=not world.leads)
    progress.line(f"loading {config.model.checkpoint}")
    model = StandaloneModel.load(config.model)
    if world.size > 1:
        progress.line(f"{world.size} processes train together, {config.run.data.batch_size} picture(s) each at a time")
        if os.name != "nt":  # the launcher's own Ctrl-C leaves them 30 s
            progress.line(f"to stop them all and keep what is learnt, however long it takes: kill -INT {os.getpid()}")
    output = lora_path(save.output)
    if dry:
        return _rehearse(model, config.run, output, world)
    previews = output.with_name(f"{output.stem}.previews")
    return _drain(train(model, config.run, output=output, world=world), progress, previews)


def _rehearse(model: StandaloneModel, config: TrainConfig, output: Path, world: World) -> int:
    """All checks of a run, its data and what it will take; nothing is trained or written."""
    report = check(model, config, output)
    if not world.leads:
        return 0
    looked = inspect(report, Tokenizer().count, int(config.text.caption_tokens), config.data.decode_threads)
    found = estimate(config, model.architecture, model.table, report, Card.of(model, config.optim.precision))
    for line in (*looked.lines(), *remarks(model, config), *prediction(found, model.device.type)):
        print(line)
    return 0


def _write(event: Preview, folder: Path, progress: Progress) -> None:
    """A preview is not worth a run: a disk that refuses it is told."""
    path = folder / f"step{event.step:06d}-{event.number}.png"
    try:
        write_png(path, event.image, event.prompt)
        progress.line(f"preview {path}")
    except OSError as e:
        progress.line(f"note: the preview {path} could not be written ({e.strerror or type(e).__name__})")


def _drain(events: Generator[Event, None, None], progress: Progress, previews: Path) -> int:
    saved: Path | None = None
    with interruptible(progress) as asked, closing(events), closing(progress):
        for event in stoppable(events, asked):
            progress.show(event)
            if isinstance(event, Preview):
                _write(event, previews, progress)
            saved = event.path if isinstance(event, Saved) else saved
    if progress.quiet:
        return 130 if asked.stop else 0
    if saved:
        print(f"{saved}\n<lora:{saved.stem}:1>")
    elif asked.stop:
        progress.line("stopped before the first step; nothing was saved")
    return 130 if asked.stop else 0


@dataclass
class Interrupt:
    """Whether Ctrl-C was pressed."""

    stop: bool = False


def stoppable(events: Generator[Event, None, None], asked: Interrupt) -> Iterator[Event]:
    """The events of a run, which is told once when the user wants it to stop and then says what it saved."""
    told = False
    while True:
        tell = asked.stop and not told
        told = told or tell
        try:
            yield events.throw(Stop()) if tell else next(events)
        except StopIteration:
            return


@contextmanager
def interruptible(progress: Progress) -> Iterator[Interrupt]:
    """Make the first Ctrl-C (or SIGTERM) a wish, granted between two steps so that the run can save.

    The second stops at once. A launcher of several processes passes on the Ctrl-C that the terminal gave to all of them
    anyway: what follows within `ECHO` seconds is the same one.
    """
    asked, first = Interrupt(), 0.0

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if asked.stop and now - first > ECHO:
            raise KeyboardInterrupt
        if not asked.stop:
            asked.stop, first = True, now
            with suppress(RuntimeError):  # the stream was being written to at this very moment
                progress.line("stopping after this step; press Ctrl-C again to stop at once")

    before = {which: signal.signal(which, handle) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
