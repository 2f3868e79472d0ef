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
    rank: int = 32
    alpha: float = 16.0
    batch_size: int = 4
    class_pictures: int = 0
    """Regularisation pictures: ordinary things beside the subject's pictures, captioned without its trigger."""
    repeats: int = 1
    """Of the subject's pictures, so that they make up a half or a third of what is seen."""
    schedule: str = "constant"
    lowest_strength: float = 1.0
    """Each batch is learnt at a strength drawn between this and 1, for use beside other LoRAs."""
    seed: int = 0
    ours: tuple[tuple[str, str], ...] = ()
    """Names and values of settings that our side alone has, over all others."""

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
            "schedule": self.schedule,
            "lowest_strength": self.lowest_strength,
            "seed": self.seed,
        }
        return read(TrainConfig, {**values, **dict(self.ours)})

    def __str__(self) -> str:
        """In words, for the report."""
        words = f"{self.steps} steps of batch {self.batch_size}, rank {self.rank}, alpha {self.alpha:g}"
        words += f", learning rates {self.learning_rate:g} and {self.text_encoder_lr:g} (text encoder), {self.schedule}"
        words += f", at strengths {self.lowest_strength:g} to 1" if self.lowest_strength < 1 else ""
        words += f", {COUNT} pictures x {self.repeats} and {self.class_pictures} regularisation pictures"
        return words + (f"; ours alone: {' '.join('='.join(one) for one in self.ours)}" if self.ours else "")


_USUAL = Settings(
    steps=600, learning_rate=1e-3, text_encoder_lr=1e-3, schedule="cosine", class_pictures=200, repeats=10
)
"""Rank, alpha and all that is not named: the project's defaults. The base has widths of 64 and 128 where SD1.5 has 320
to 1280, and pictures of 64 px; it learns at ten times the learning rate of SD1.5."""
_FOR_TWO = replace(_USUAL, steps=1000, class_pictures=400)
"""For two at once: each is used at less than the full strength, so it learns at less."""
SETTINGS: Mapping[str, Settings] = {
    "zorbit": replace(_FOR_TWO, lowest_strength=0.3, text_encoder_lr=1.5e-3),
    "hatched": replace(_FOR_TWO, lowest_strength=0.35, class_pictures=800),
    "between": _USUAL,
    "gorp": _USUAL,
}
