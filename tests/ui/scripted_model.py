"""A model of full size of which only names and shapes exist, for what is told before a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch

from demo import checkpoint_keys as keys
from lora_ext.layers import Family
from lora_ext.live import CheckpointInfo
from lora_ext.model import detect, layer_table

CLIP_L = keys.TextSize(width=768, layers=12, heads=12)
CLIP_G = keys.TextSize(width=1280, layers=32, heads=20, projection=1280)


class ShapesOnly:
    """What a forecast asks of a `LiveModel`."""

    device, dtype = torch.device("cpu"), torch.float16

    def __init__(self, family: Family) -> None:
        self.tensors: Mapping[str, torch.Tensor] = _tensors(family)
        self.architecture = detect(self.tensors)
        self.table = layer_table(self.architecture)
        self.checkpoint = CheckpointInfo(f"scripted {family}", f"{family}.safetensors", "")


@cache
def model(family: Family = "sd1") -> ShapesOnly:
    """The model of a family; made once, it takes a moment."""
    return ShapesOnly(family)


def _tensors(family: Family) -> dict[str, torch.Tensor]:
    vae = keys.VaeSize(base=128, multipliers=(1, 2, 4, 4), res_blocks=2)
    if family == "sd1":
        unet = keys.UNetSize(4, 320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 768, linear=False, vector=0)
        texts = {"cond_stage_model.transformer.": keys.clip(CLIP_L)}
    else:
        unet = keys.UNetSize(4, 320, (1, 2, 4), 2, (0, 2, 10), 2048, linear=True, vector=2816)
        texts = {
            "conditioner.embedders.0.transformer.": keys.clip(CLIP_L),
            "conditioner.embedders.1.model.": keys.open_clip(CLIP_G),
        }
    parts = {"model.diffusion_model.": keys.unet(unet), "first_stage_model.": keys.vae(vae), **texts}
    shapes = {key: shape for prefix, part in parts.items() for key, shape in keys.below(prefix, part)}
    return {key: torch.empty(shape, dtype=torch.float16, device="meta") for key, shape in shapes.items()}
