"""What both sides of the learning bench are trained with: declared once, given to each in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from demo.subjects import COUNT
from demo.world import SIDE
from lora_ext.config import TrainConfig, read


@dataclass(frozen=True)
class Settings:
    """How a subject is learnt. All else is the project's default, and the peer is given the same."""

    steps: int
    learning_rate: float
    text_encoder_lr: float = 0.0
    rank: int = 16
    alpha: float = 16.0
    batch_size: int = 4
    class_pictures: int = 0
    """Pictures of ordinary things beside the subject's, captioned without its trigger."""
    seed: int = 0

    def config(self, images: Path, output: Path) -> TrainConfig:
        """The project's settings; whatever is not named here is its default."""
        values: Mapping[str, object] = {
            "images": str(images),
            "output": str(output),
            "overwrite": True,
            "resolution": SIDE,
            "rank": self.rank,
            "alpha": self.alpha,
            "batch_size": self.batch_size,
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
            "text_encoder_lr": self.text_encoder_lr,
            "seed": self.seed,
        }
        return read(TrainConfig, values)

    def __str__(self) -> str:
        """In words, for the report."""
        words = f"{self.steps} steps of batch {self.batch_size}, rank {self.rank}, alpha {self.alpha:g}"
        words += f", learning rates {self.learning_rate:g} and {self.text_encoder_lr:g} (text encoder)"
        return f"{words}, {COUNT} pictures" + (f" and {self.class_pictures} of its class" * bool(self.class_pictures))


_USUAL = Settings(steps=300, learning_rate=1e-3)
SETTINGS: Mapping[str, Settings] = {
    "zorbit": _USUAL,
    "hatched": _USUAL,
    "inside": _USUAL,
    "gorp": replace(_USUAL, class_pictures=COUNT),
}
