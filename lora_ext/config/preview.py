"""Pictures rendered while training."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import MOST_SEED, setting
from lora_ext.config.relevance import unless


@dataclass(frozen=True)
class PreviewConfig:
    """Pictures rendered while training."""

    preview_prompt: str = setting(
        "",
        "Preview prompt",
        "Rendered while training; empty for no previews. One per line; a line may end with numbers of its own: "
        "--w width --h height --d seed --s steps --l CFG --m strength --n negative.",
        basic=True,
        of_run=True,
    )
    preview_negative: str = setting(
        "",
        "Preview negative prompt",
        "What the preview should not show.",
        when=[unless("preview_prompt", "")],
    )
    preview_every: int = setting(
        100,
        "Preview every",
        "Steps between previews; 0: not by steps.",
        unit="steps",
        minimum=0,
        basic=True,
        when=[unless("preview_prompt", "")],
    )
    preview_every_epochs: int = setting(
        0,
        "Preview every N epochs",
        "Epochs between previews, beside those by steps; 0: not by epochs.",
        unit="epochs",
        minimum=0,
        when=[unless("preview_prompt", "")],
    )
    preview_first: bool = setting(
        False,
        "Preview before the first step",
        "Shows what the model makes of the prompts without the LoRA.",
        expert=True,
        when=[unless("preview_prompt", "")],
    )
    preview_strength: float = setting(
        1.0,
        "Preview strength",
        "Strength of the LoRA in previews.",
        minimum=-10,
        maximum=10,
        when=[unless("preview_prompt", "")],
    )
    preview_seed: int = setting(
        1,
        "Preview seed",
        "The same for every preview, so that they compare.",
        minimum=0,
        maximum=MOST_SEED,
        when=[unless("preview_prompt", "")],
    )
    preview_steps: int = setting(
        20,
        "Preview sampling steps",
        "Sampling steps of a preview.",
        minimum=1,
        maximum=150,
        when=[unless("preview_prompt", "")],
    )
    preview_cfg: float = setting(
        7.0,
        "Preview CFG scale",
        "Guidance scale of a preview.",
        minimum=1.0,
        maximum=30.0,
        when=[unless("preview_prompt", "")],
    )
    preview_width: int = setting(
        512,
        "Preview width",
        "",
        unit="px",
        minimum=64,
        maximum=2048,
        multiple=8,
        when=[unless("preview_prompt", "")],
    )
    preview_height: int = setting(
        512,
        "Preview height",
        "",
        unit="px",
        minimum=64,
        maximum=2048,
        multiple=8,
        when=[unless("preview_prompt", "")],
    )
    validation_every: int = setting(
        100,
        "Measure every",
        "Steps between measurements on the held-out pictures, if there are any.",
        unit="steps",
        minimum=1,
        expert=True,
        when=[unless("validation_share", 0.0)],
    )
