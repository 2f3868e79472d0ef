"""What the adapter looks like."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting


@dataclass(frozen=True)
class NetworkConfig:
    """What the adapter looks like."""

    rank: int = setting(
        32,
        "Rank",
        "Size of the LoRA. 8-32 for a character or object, 32-128 for a style. Larger files can hold more detail.",
        minimum=1,
        maximum=1024,
        basic=True,
    )
    alpha: float = setting(
        16.0,
        "Alpha",
        "The update is scaled by alpha / rank. Half the rank is a good start.",
        minimum=1e-6,
        maximum=4096,
    )
    conv_rank: int = setting(
        0, "Convolution rank", "Rank of the 3x3 convolutions (LoCon); 0 leaves them alone.", minimum=0, maximum=1024
    )
    conv_alpha: float = setting(1.0, "Convolution alpha", "Alpha of the 3x3 convolutions.", minimum=1e-6, maximum=4096)
