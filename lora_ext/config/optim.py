"""How it learns."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import MOST_SEED, setting
from lora_ext.config.relevance import only, unless


@dataclass(frozen=True)
class OptimConfig:
    """How it learns."""

    epochs: int = setting(
        10,
        "Epochs",
        "How many times every picture is seen (times its repeats).",
        minimum=1,
        maximum=100000,
        basic=True,
        when=[only("max_steps", 0)],
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
    text_encoder_2_lr: float = setting(
        -1.0,
        "Second text encoder learning rate",
        "Of SDXL's second, larger text encoder; -1: the same as of the first.",
        minimum=-1.0,
        maximum=10.0,
        expert=True,
        when=[only("family", "sdxl")],
    )
    unet_stop: int = setting(
        0,
        "Stop the UNet after",
        "After this step only the text encoders learn; 0: never.",
        unit="steps",
        minimum=0,
        expert=True,
    )
    text_encoder_stop: int = setting(
        0,
        "Stop the text encoders after",
        "Text encoders learn quickly and spoil later; after this step they rest. 0: never.",
        unit="steps",
        minimum=0,
        expert=True,
        when=[(unless("text_encoder_lr", 0.0), unless("text_encoder_2_lr", -1.0, 0.0))],
    )
    text_encoder_2_stop: int = setting(
        -1,
        "Stop the second text encoder after",
        "The same for SDXL's second text encoder alone; 0: never, -1: with the first.",
        unit="steps",
        minimum=-1,
        maximum=10_000_000,
        expert=True,
        when=[only("family", "sdxl"), (unless("text_encoder_lr", 0.0), unless("text_encoder_2_lr", -1.0, 0.0))],
    )
    block_lr: str = setting(
        "",
        "Learning rate by block",
        "Factors on the learning rate for blocks of the UNet, such as `IN04=0.5 MID=2 OUT11=0`; 0 leaves a block out.",
        expert=True,
    )
    loraplus_ratio: float = setting(
        1.0,
        "LoRA+ ratio",
        "How much faster LoRA's upper half learns than its lower one; 16 is the LoRA+ paper's, 1 is plain LoRA.",
        minimum=0.01,
        maximum=1000.0,
        expert=True,
        when=[only("kind", "lora")],
    )
    schedule: str = setting(
        "constant",
        "Learning rate schedule",
        "How the learning rate goes on over the run.",
        choices=("constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "rex"),
    )
    schedule_cycles: int = setting(
        1,
        "Restarts",
        "How often cosine_with_restarts falls from the full learning rate to nothing.",
        minimum=1,
        maximum=1000,
        expert=True,
        when=[only("schedule", "cosine_with_restarts")],
    )
    schedule_power: float = setting(
        2.0,
        "Polynomial power",
        "How steeply the polynomial schedule falls; 1 is a straight line.",
        minimum=0.01,
        maximum=100.0,
        expert=True,
        when=[only("schedule", "polynomial")],
    )
    schedule_floor: float = setting(
        0.0,
        "Lowest learning rate",
        "Part of the learning rate that a falling schedule keeps at its end.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
        when=[unless("schedule", "constant")],
    )
    warmup: int = setting(0, "Warm-up", "Steps over which the learning rate rises from 0.", unit="steps", minimum=0)
    warmup_percent: float = setting(
        0.0,
        "Warm-up share",
        "The warm-up as a part of the whole run; counts where it is longer than the warm-up in steps.",
        unit="%",
        minimum=0.0,
        maximum=100.0,
        expert=True,
    )
    optimizer: str = setting(
        "adamw",
        "Optimizer",
        "What turns gradients into learning. adamw suits all; adamw8bit needs less memory; prodigy and dadapt_adam "
        "find the learning rate by themselves (set it to 1).",
        choices=(
            "adamw",
            "adamw8bit",
            "paged_adamw8bit",
            "adafactor",
            "lion",
            "prodigy",
            "adamw_schedulefree",
            "dadapt_adam",
            "came",
            "custom",
        ),
    )
    optimizer_class: str = setting(
        "",
        "Optimizer class",
        "For the optimizer custom: dotted name of any torch optimizer that is installed, such as `torch.optim.NAdam`.",
        expert=True,
        when=[only("optimizer", "custom")],
    )
    optimizer_args: str = setting(
        "",
        "Optimizer arguments",
        "Further arguments of the optimizer, such as `betas=(0.9, 0.99) eps=1e-6`.",
        expert=True,
    )
    accumulate: int = setting(
        1,
        "Gradient accumulation",
        "Batches added up before each step: a larger batch without more memory.",
        minimum=1,
        maximum=4096,
    )
    weight_decay: float = setting(
        0.01, "Weight decay", "Pull towards zero, of optimizers that have one.", minimum=0.0, maximum=10.0
    )
    max_grad_norm: float = setting(
        1.0, "Gradient clipping", "Longest gradient allowed; 0 turns clipping off.", minimum=0.0, maximum=1e6
    )
    clip_each: bool = setting(
        False,
        "Clip each group by itself",
        "UNet and text encoder are clipped apart, so that one cannot hold the other back.",
        expert=True,
    )
    ema_decay: float = setting(
        0.0,
        "Averaging",
        "Saves a running average of the LoRA instead of its last state: smoother. 0.999 averages about 1000 steps; "
        "0: off.",
        minimum=0.0,
        maximum=0.99999,
        expert=True,
    )
    bad_steps: int = setting(
        20,
        "Bad steps in a row",
        "So many steps in a row may give numbers that are not finite; each is left out. fp16 needs up to 16 at its "
        "start.",
        minimum=1,
        maximum=10000,
        expert=True,
    )
    on_divergence: str = setting(
        "stop",
        "After too many bad steps",
        "stop: end the run and keep what was good. roll_back: go back to the last good state and on with half the "
        "learning rate, three times at most.",
        choices=("stop", "roll_back"),
        expert=True,
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
