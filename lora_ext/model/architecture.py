"""What a checkpoint is: family, shapes and the facts that weights cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lora_ext.layers import Family

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Hints:
    """What the checkpoint's own yaml or the live modules say; None where they are silent.

    `unet_heads` is a fixed head count, `unet_head_dim` a fixed width per head; `te_heads` by text encoder index.
    """

    prediction_type: PredictionType | None = None
    unet_heads: int | None = None
    unet_head_dim: int | None = None
    te_heads: tuple[int | None, ...] = ()
    clip_skip: int | None = None
    scale_factor: float | None = None


@dataclass(frozen=True)
class UNetShape:
    """Shape of the UNet. One entry per level in the tuples; `heads` per level."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    res_blocks: int
    depth: tuple[int, ...]  # transformer blocks per attention of a level; 0 = a level without attention
    middle_depth: int  # 0: a middle of one resnet and nothing else (SSD-1B)
    heads: tuple[int, ...]
    context_dim: int
    linear_projection: bool
    added_dim: int  # width of SDXL's vector input (`label_emb`), 0 without
    climb: tuple[tuple[int, ...], ...] = ()
    """Transformer blocks of each attention on the way up, levels as in `depth`; empty where `depth` tells (all models
    but pruned ones)."""

    def up_depth(self, level: int, i: int) -> int:
        """Transformer blocks of a level's `i`-th attention on the way up."""
        return self.climb[level][i] if self.climb else self.depth[level]


@dataclass(frozen=True)
class TextShape:
    """Shape of one text encoder. `fused`: OpenCLIP's layout with one in_proj tensor."""

    width: int
    layers: int
    heads: int
    mlp: int
    vocabulary: int
    positions: int
    projection: int  # 0 without
    activation: Literal["quick_gelu", "gelu"]
    fused: bool
    prefix: str  # of its keys in the checkpoint, down to (and with) `text_model.` where that level is in them


@dataclass(frozen=True)
class VaeShape:
    """Shape of the autoencoder. `factor` is pixels per latent cell."""

    channels: tuple[int, ...]
    res_blocks: int
    latent_channels: int
    factor: int
    scale: float  # latents are multiplied by this before the UNet sees them


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build modules over a checkpoint's tensors."""

    family: Family
    inpainting: bool
    prediction_type: PredictionType
    unet: UNetShape
    text: tuple[TextShape, ...]
    vae: VaeShape
    clip_skip: int = 1
    """Text layer the model itself uses, counted from the end: 1 is the last."""
    assumed: tuple[str, ...] = field(default=())
    """Sentences about facts neither weights nor hints told, taken from the family; shown to the user."""
