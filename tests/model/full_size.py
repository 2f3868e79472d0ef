"""The published models' tensors on the meta device: real names and shapes, no memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from demo import checkpoint_keys as keys
from lora_ext.layers import Family

VAE = keys.VaeSize(base=128, multipliers=(1, 2, 4, 4), res_blocks=2)
CLIP_L = keys.TextSize(width=768, layers=12, heads=12)
CLIP_H = keys.TextSize(width=1024, layers=24, heads=16, projection=1024)
CLIP_G = keys.TextSize(width=1280, layers=32, heads=20, projection=1280)


@cache
def shapes(family: Family, in_channels: int = 4, pruned: bool = False) -> keys.Shapes:
    """Key -> shape of SD 1.5, SD 2.1 or SDXL base; SDXL `pruned` is SSD-1B."""
    texts: list[tuple[str, Callable[[keys.TextSize], keys.Shapes], keys.TextSize]]
    if family == "sd1":
        unet = keys.UNetSize(in_channels, 320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 768, linear=False, vector=0)
        texts = [("cond_stage_model.transformer.", keys.clip, CLIP_L)]
    elif family == "sd2":
        unet = keys.UNetSize(in_channels, 320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 1024, linear=True, vector=0)
        texts = [("cond_stage_model.model.", keys.open_clip, CLIP_H)]
    else:
        unet = keys.UNetSize(in_channels, 320, (1, 2, 4), 2, (0, 2, 10), 2048, linear=True, vector=2816, pruned=pruned)
        texts = [
            ("conditioner.embedders.0.transformer.", keys.clip, CLIP_L),
            ("conditioner.embedders.1.model.", keys.open_clip, CLIP_G),
        ]
    out = dict(keys.below("model.diffusion_model.", keys.unet(unet)))
    out.update(keys.below("first_stage_model.", keys.vae(VAE)))
    for prefix, layout, size in texts:
        out.update(keys.below(prefix, layout(size)))
    return out


def tensors(family: Family, in_channels: int = 4, pruned: bool = False) -> dict[str, torch.Tensor]:
    """The same as meta tensors, float16."""
    found = shapes(family, in_channels, pruned)
    return {k: torch.empty(s, dtype=torch.float16, device="meta") for k, s in found.items()}
