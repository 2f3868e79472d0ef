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
