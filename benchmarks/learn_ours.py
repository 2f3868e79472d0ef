"""Our side of the learning bench: trained, written to a file, read back and applied as a user does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.learn_settings import Settings
from demo import subjects
from demo.subjects import Subject
from lora_ext.formats import NameTable, read_network
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.patching import Strengths
from lora_ext.training import Step, train


@dataclass(frozen=True)
class Result:
    """The file, every step's loss, and the seconds of all steps."""

    lora: Path
    losses: tuple[float, ...]
    seconds: float


def write_pictures(subject: Subject, settings: Settings, folder: Path) -> Path:
    """The folder to train on: the subject's pictures and the regularisation pictures."""
    subjects.write(subject, folder / f"{settings.repeats}_{subject.name}")
    if settings.class_pictures:
        subjects.write_class(subject, folder / "1_class", settings.class_pictures)
    return folder


def learn(model: StandaloneModel, images: Path, settings: Settings, lora: Path) -> Result:
    """Train through the standalone host."""
    losses, seconds = [], 0.0
    for event in train(model, settings.config(images, lora), output=lora):
        if isinstance(event, Step):
            losses.append(float("nan") if event.loss is None else event.loss)
            seconds = event.seconds
    return Result(lora, tuple(losses), seconds)


@contextmanager
def applied(model: StandaloneModel, loras: Mapping[Path, float]) -> Iterator[None]:
    """LoRA files on the model's weights, each at its strength, and off again."""
    names = NameTable(model.table)
    wanted = {read_network(path, names).network: Strengths(s, s) for path, s in loras.items()}
    model.patcher.apply(wanted)
    try:
        yield
    finally:
        model.patcher.clear()
