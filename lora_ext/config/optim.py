"""How it learns."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import MOST_SEED, setting


@dataclass(frozen=True)
class OptimConfig:
    """How it learns."""

    epochs: int = setting(
        10, "Epochs", "How many times every picture is seen (times its repeats).", minimum=1, maximum=100000, basic=True
    )
    max_steps: int = setting(
        0,
        "Steps",
        "Stop after this many steps; 0 means: as many as the epochs take.",
        minimum=0,
        maximum=10_000_000,
        basic=True,
    )
    learning_rate: float = setting(
        1e-4, "Learning rate", "How fast it learns. 1e-4 suits most LoRAs.", minimum=0.0, maximum=10.0, basic=True
    )
    text_encoder_lr: float = setting(
        0.0,
        "Text encoder learning rate",
        "0 leaves the text encoder alone: faster, less memory. 5e-5 helps new words and characters on SD 1.x.",
        minimum=0.0,
        maximum=10.0,
    )
    schedule: str = setting(
        "constant",
        "Learning rate schedule",
        "How the learning rate goes on over the run.",
        choices=("constant", "cosine"),
    )
    warmup: int = setting(0, "Warm-up", "Steps over which the learning rate rises from 0.", unit="steps", minimum=0)
    accumulate: int = setting(
        1,
        "Gradient accumulation",
        "Batches added up before each step: a larger batch without more memory.",
        minimum=1,
        maximum=4096,
    )
    weight_decay: float = setting(0.01, "Weight decay", "Pull of AdamW towards zero.", minimum=0.0, maximum=10.0)
    max_grad_norm: float = setting(
        1.0, "Gradient clipping", "Longest gradient allowed; 0 turns clipping off.", minimum=0.0, maximum=1e6
    )
    precision: str = setting(
        "auto",
        "Precision",
        "Arithmetic of the model while training. auto takes bf16 where the card can, else fp16, and fp32 on a CPU.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    checkpointing: bool = setting(
        False, "Gradient checkpointing", "Needs much less memory and about a third more time."
    )
    seed: int = setting(
        0, "Seed", "Same seed, same data, same settings: same LoRA (on the same machine).", minimum=0, maximum=MOST_SEED
    )
