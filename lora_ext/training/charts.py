"""`NAME.tensorboard/` beside a LoRA: the log's numbers and the previews for TensorBoard, where it is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lora_ext.training.events import Preview
from lora_ext.training.optimizers import install_line

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Charts:
    """Does nothing until it is opened, and nothing where it cannot be."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.stem}.tensorboard")
        self._writer: SummaryWriter | None = None

    def open(self, after: int = 0) -> str:
        """Begin, or go on behind step `after` of a resumed run; gives the reason where that cannot be, else nothing."""
        try:
            found = importlib.import_module("torch.utils.tensorboard")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = found.SummaryWriter(str(self.folder), purge_step=after + 1 if after else None)
        except ImportError:
            return f"the package tensorboard is missing. {install_line('tensorboard').replace(' --no-deps', '')}"
        except OSError as e:
            return f"{self.folder} cannot be written to: {e.strerror or type(e).__name__}"
        return ""

    def add(self, step: int, loss: float | None, validation: float | None, rate: float) -> None:
        """The numbers of one step, as far as there are any."""
        if self._writer is None:
            return
        for name, value in (("loss/train", loss), ("loss/validation", validation), ("learning_rate", rate)):
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def show(self, preview: Preview) -> None:
        """A preview, by the number of its prompt."""
        if self._writer is not None:
            pixels = np.asarray(preview.image.convert("RGB"))
            self._writer.add_image(f"preview/{preview.number}", pixels, preview.step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
