"""What is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    images: str = setting(
        "",
        "Picture folder",
        "Folder with your pictures. Sub-folders named like `10_my cat` are seen 10 times each per epoch.",
        basic=True,
        needed=True,
    )
    concept: str = setting(
        "",
        "Concept name",
        "Caption for pictures that have no .txt or .caption file beside them, for example `photo of sks cat`.",
        basic=True,
    )
    resolution: int = setting(
        512,
        "Resolution",
        "Pictures are scaled so that their area is at most its square. 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
        unit="px",
        minimum=64,
        maximum=4096,
        multiple=64,
        basic=True,
    )
    buckets: bool = setting(
        True,
        "Keep aspect ratios",
        "Sort pictures into buckets of their own shape instead of cutting every one square.",
    )
    repeats: int = setting(
        1,
        "Repeats",
        "How often each picture is seen per epoch; a folder named `N_name` overrides it.",
        minimum=1,
        maximum=10_000,
    )
    flip: bool = setting(
        False,
        "Mirror",
        "Also train on mirrored pictures. Leave off for faces, text and anything with a left and right.",
    )
    batch_size: int = setting(
        1,
        "Batch size",
        "Pictures per step. More is steadier and needs more memory.",
        minimum=1,
        maximum=1024,
        basic=True,
    )
