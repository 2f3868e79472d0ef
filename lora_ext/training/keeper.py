"""Writing the LoRA: on the way, at the end, and before giving up."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ext.adapters import Network
from lora_ext.config import TrainConfig, Value, flat
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, algorithm_of, network_metadata, write_network
from lora_ext.live import LiveModel
from lora_ext.training.events import Notice, Saved
from lora_ext.training.precision import DTYPES
from lora_ext.training.schedule import Length, epoch_ends

if TYPE_CHECKING:
    from lora_ext.training.learner import Learner
    from lora_ext.training.material import Material


class Keeper:
    """Knows where a run's files go and what is written into them."""

    def __init__(
        self, model: LiveModel, config: TrainConfig, material: Material, learner: Learner, output: Path
    ) -> None:
        self._model, self._config, self._material, self._learner = model, config, material, learner
        self._output = output
        self._names = NameTable(model.table)
        self._started = time.time()
        self._run = uuid.uuid4().hex

    def between(self, step: int, epoch: int, length: Length) -> Iterator[Saved | Notice]:
        """The files due after `step`. One that cannot be written is told and the run goes on: the next may work."""
        save = self._config.save
        due = []
        if save.save_every_steps and step % save.save_every_steps == 0:
            due.append(self._beside(f"step{step:06d}"))
        if step in epoch_ends(length, save.save_every_epochs):
            due.append(self._beside(f"epoch{epoch:04d}"))
        for path in due:
            try:
                self._write(path, step, epoch)
            except BadInput as e:
                yield Notice(f"A file on the way was not saved: {e}")
            else:
                yield Saved(step, path, final=False)

    def final(self, step: int, epoch: int) -> Path:
        """Write the run's own file. Raises `BadInput` when the disk refuses."""
        self._write(self._output, step, epoch)
        return self._output

    def rescue(self, step: int, epoch: int) -> Path:
        """Write what was learnt before a run breaks off, under the name of a file on the way."""
        path = self._beside(f"step{step:06d}")
        self._write(path, step, epoch)
        return path

    def _beside(self, suffix: str) -> Path:
        return self._output.with_name(f"{self._output.stem}-{suffix}.safetensors")

    def _write(self, path: Path, step: int, epoch: int) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise BadInput(Problem("output", "the folder cannot be made", got=f"{path.parent} ({e.strerror})")) from e
        network = self._learner.network(path.stem, self._run)
        dtype = DTYPES[self._config.save.save_precision]
        write_network(path, network, self._names, self._metadata(network, step, epoch), dtype)

    def _metadata(self, network: Network, step: int, epoch: int) -> dict[str, str]:
        arch, config, report = self._model.architecture, self._config, self._material.report
        top = _folder_name(config)
        return network_metadata(
            family=arch.family,
            name=network.name,
            rank=config.network.rank,
            alpha=config.network.alpha,
            algorithm=algorithm_of(network.adapters.values()),
            conv_rank=config.network.conv_rank,
            conv_alpha=config.network.conv_alpha,
            v_prediction=arch.prediction_type == "v_prediction",
            checkpoint_name=self._model.checkpoint.filename,
            checkpoint_sha256=self._model.checkpoint.sha256,
            resolution=(config.data.resolution, config.data.resolution),
            clip_skip=self._learner.clip_skip,
            seed=config.optim.seed,
            steps=step,
            epochs=epoch,
            batch_size=config.data.batch_size,
            learning_rate=config.optim.learning_rate,
            text_encoder_lr=config.optim.text_encoder_lr,
            pictures=report.samples,
            folders={folder or top: counts for folder, counts in report.folders.items()},
            tags={folder or top: tags for folder, tags in report.tag_counts.items()},
            buckets=report.bucket_counts,
            started=self._started,
            finished=time.time(),
            settings=_settings(config),
        )


def _settings(config: TrainConfig) -> dict[str, Value]:
    """The settings as they go into the file, which may be published: folders without the way to them."""
    return {**flat(config), "images": _folder_name(config), "output": Path(config.save.output).stem}


def _folder_name(config: TrainConfig) -> str:
    return Path(config.data.images.strip().strip("\"'")).expanduser().absolute().name
