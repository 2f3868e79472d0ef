"""The recipe of each goal and family, for a card with room to spare: what is known to work, and why.

Sources: the presets of lora-scripts and kohya_ss for SD 1.x (rank 32, alpha 16, 1e-4 / 5e-5 for a character; rank 64,
alpha 64, noise offset 0.05 for a style) and kohya's notes on SDXL (alpha half the rank, text encoders off, gradient
checkpointing, noise offset 0.0357, min-SNR 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lora_ext.config import Value
from lora_ext.layers import Family
from lora_ext.presets.case import Case, Goal, Said


@dataclass(frozen=True)
class Recipe:
    """`seen`: how many pictures, one after the other, the goal needs at least; `rank` for SD 1.x and 2.x, SDXL."""

    seen: int
    rank: int
    rank_xl: int
    alpha_part: float
    why_rank: str
    more: Mapping[str, Value]
    most_epochs: int = 150
    """Few pictures seen more often than this are learnt by heart."""
    least_epochs: int = 5


RECIPES: Mapping[Goal, Recipe] = {
    "character": Recipe(
        1500,
        32,
        16,
        0.5,
        "Rank {0} holds a character's details: face, hair, clothes.",
        {"schedule": "cosine"},
    ),
    "style": Recipe(
        2400,
        64,
        32,
        1.0,
        "Rank {0}: a style touches everything in a picture, so it needs more room.",
        {"schedule": "cosine", "noise_offset": 0.05, "caption_dropout": 0.05, "flip": True},
    ),
    "concept": Recipe(
        1800,
        32,
        16,
        0.5,
        "Rank {0} is enough for a pose, a garment or an effect.",
        {"schedule": "cosine", "min_snr_gamma": 5.0},
    ),
    "object": Recipe(
        1200,
        16,
        16,
        0.5,
        "Rank {0} is enough for one thing, and the file stays small.",
        {"schedule": "cosine", "min_snr_gamma": 5.0},
    ),
}

UNET_RATE, TEXT_RATE = 1e-4, 5e-5


def side(family: Family, prediction_type: str) -> int:
    """The resolution, in px, that a model of this kind was made at."""
    if family == "sdxl":
        return 1024
    return 768 if family == "sd2" and prediction_type == "v_prediction" else 512


def dish(case: Case) -> dict[str, Value]:
    """Settings for a card with room to spare, all but the length of the run."""
    recipe, xl = RECIPES[case.goal], case.family == "sdxl"
    rank = recipe.rank_xl if xl else recipe.rank
    pixels = side(case.family, case.prediction_type)
    settings: dict[str, Value] = {
        "resolution": pixels,
        "batch_size": 1,
        "kind": "lora",
        "rank": rank,
        "alpha": float(rank) * (0.5 if xl else recipe.alpha_part),
        "learning_rate": UNET_RATE,
        "text_encoder_lr": 0.0 if xl else TEXT_RATE,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_percent": 5.0,
        "checkpointing": xl,
        "precision": "auto",
        "preview_width": pixels,
        "preview_height": pixels,
        **recipe.more,
    }
    if xl:
        settings |= {"noise_offset": 0.0357, "min_snr_gamma": 5.0}
    return settings


def why(case: Case, settings: Mapping[str, Value]) -> Iterator[Said]:
    """What these settings do, and why, in a beginner's words; what the card made of the recipe is told elsewhere."""
    if settings["rank"] == dish(case)["rank"]:
        yield Said(RECIPES[case.goal].why_rank, (int(settings["rank"]),))
    if settings["text_encoder_lr"]:
        yield Said("The text encoder learns too, at half the speed, so that your trigger word gets a meaning.")
    elif case.family == "sdxl":
        yield Said("SDXL's text encoders stay as they are: they know enough words, and it saves much memory.")
    if settings.get("flip"):
        yield Said("Pictures are mirrored as well: a style has no left and right.")
    if settings.get("noise_offset"):
        yield Said("A little noise offset lets it learn dark and bright pictures.")
    if settings.get("min_snr_gamma"):
        yield Said("Min-SNR keeps the learning steady.")
