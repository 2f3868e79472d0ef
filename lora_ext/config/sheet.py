"""A sheet that compares saved files: columns of files, rows of prompts and strengths, the same seeds everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_ext.config.declare import MOST_SEED, setting
from lora_ext.config.host import CheckpointConfig


@dataclass(frozen=True)
class SheetConfig:
    """What all pictures of a sheet share."""

    negative: str = setting("", "Negative prompt", "What the pictures should not show.")
    seed: int = setting(0, "Seed", "Of the first picture of each prompt.", minimum=0, maximum=MOST_SEED)
    pictures: int = setting(
        1, "Pictures", "Pictures of each prompt and strength, with seeds that follow each other.", minimum=1, maximum=16
    )
    steps: int = setting(20, "Sampling steps", "", minimum=1, maximum=150)
    cfg: float = setting(7.0, "CFG scale", "Guidance scale.", minimum=1.0, maximum=30.0)
    width: int = setting(512, "Width", "", unit="px", minimum=64, maximum=2048, multiple=8)
    height: int = setting(512, "Height", "", unit="px", minimum=64, maximum=2048, multiple=8)


@dataclass(frozen=True)
class SheetFileConfig:
    """Where a sheet goes."""

    strengths: str = setting(
        "0, 0.7, 1", "Strengths", "How strong the LoRAs are, separated by commas; 0 is the model without them."
    )
    output: str = setting("", "Output", "PNG to write.", needed=True)
    overwrite: bool = setting(False, "Replace an existing file", "Otherwise a file of that name is an error.")


@dataclass(frozen=True)
class CompareConfig:
    """`compare` on the command line."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    sheet: SheetConfig = field(default_factory=SheetConfig)
    file: SheetFileConfig = field(default_factory=SheetFileConfig)
