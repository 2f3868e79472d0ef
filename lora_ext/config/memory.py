"""How the model is held while it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting
from lora_ext.config.relevance import only


@dataclass(frozen=True)
class MemoryConfig:
    """How the model is held while it is trained."""

    base_weights: str = setting(
        "as_loaded",
        "Weights of the model",
        "8bit and 4bit hold the UNet's weights in a half or a quarter of fp16's memory while training, a little less "
        "exactly; the loaded model stays as it is. Both need an NVIDIA card and the package bitsandbytes.",
        choices=("as_loaded", "8bit", "4bit"),
    )
    attention: str = setting(
        "sdpa",
        "Attention",
        "sdpa is part of torch and suits all; xformers may need less memory on old cards, and its package.",
        choices=("sdpa", "xformers"),
        expert=True,
    )
    checkpointing_where: str = setting(
        "all",
        "Gradient checkpointing of",
        "all saves most memory. large: only the UNet's outer half, where pictures are large inside the model; small: "
        "only its inner half. Both are faster than all.",
        choices=("all", "large", "small"),
        expert=True,
        when=[only("checkpointing", True)],
    )
