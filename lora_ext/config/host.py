"""What the standalone host is told: which model, which picture, which port."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_ext.config.declare import MOST_SEED, setting


@dataclass(frozen=True)
class CheckpointConfig:
    """Which model the standalone host loads."""

    checkpoint: str = setting("", "Checkpoint", "Stable Diffusion checkpoint (.safetensors or .ckpt).", needed=True)
    device: str = setting("auto", "Device", "auto, cpu, cuda, cuda:1 …")
    model_precision: str = setting(
        "auto",
        "Weight precision",
        "Precision the weights are held in. auto: as in the file on a GPU, fp32 on a CPU.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )


@dataclass(frozen=True)
class PictureConfig:
    """One picture from a prompt."""

    prompt: str = setting("", "Prompt", "May hold tags such as <lora:name:0.7>.", needed=True)
    negative: str = setting("", "Negative prompt", "")
    lora_dir: str = setting("", "LoRA folder", "Folder that <lora:name> is looked up in.")
    seed: int = setting(0, "Seed", "Same seed, same picture.", minimum=0, maximum=MOST_SEED)
    steps: int = setting(20, "Sampling steps", "", minimum=1, maximum=1000)
    cfg: float = setting(7.0, "CFG scale", "Guidance scale.", minimum=1.0, maximum=100.0)
    size: str = setting("512x512", "Size", "WIDTHxHEIGHT in pixels, multiples of 8.")
    output: str = setting("", "Output", "PNG to write.", needed=True)
    overwrite: bool = setting(False, "Replace an existing file", "Otherwise a file of that name is an error.")


@dataclass(frozen=True)
class GenerateConfig:
    """`generate` on the command line."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    picture: PictureConfig = field(default_factory=PictureConfig)


@dataclass(frozen=True)
class ServeConfig:
    """The tab on its own."""

    output_dir: str = setting("loras", "LoRA folder", "Folder that trained LoRAs are written to; made when missing.")
    port: int = setting(7861, "Port", "The tab opens at 127.0.0.1 on this port.", minimum=1, maximum=65535)


@dataclass(frozen=True)
class UiConfig:
    """`ui` on the command line."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
