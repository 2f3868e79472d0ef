"""How captions become conditioning."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting
from lora_ext.config.relevance import only


@dataclass(frozen=True)
class TextConfig:
    """How captions become conditioning."""

    clip_skip: int = setting(
        0,
        "Clip skip",
        "Which layer of the text encoder to use, counted from the end; 0 is the model's own habit. "
        "Models made for anime often want 2. SDXL always uses its own.",
        minimum=0,
        maximum=12,
        when=[only("family", "sd1", "sd2")],
    )
    caption_tokens: str = setting(
        "75",
        "Caption length",
        "Longest caption in tokens, about word parts; what is longer is cut. Long ones are read in pieces of 75, as "
        "the WebUI reads long prompts.",
        choices=("75", "150", "225"),
    )
    caption_memory: float = setting(
        1.0,
        "Memory for captions",
        "Main memory that prepared captions may take. Where captions vary (shuffled tags, wildcards, dropout) and more "
        "would be needed, they are prepared epoch by epoch, with the same result.",
        unit="GB",
        minimum=0.0,
        maximum=1000.0,
        expert=True,
        of_run=True,
    )
