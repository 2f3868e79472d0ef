"""Layer tables of the real SD1.5, SD2.1 and SDXL, from their published shapes; no weights."""

from __future__ import annotations

import functools

from lora_ext.formats import NameTable
from lora_ext.layers import LayerTable
from lora_ext.model import Architecture, TextShape, UNetShape, VaeShape, layer_table

VAE = VaeShape(channels=(128, 256, 512, 512), res_blocks=2, latent_channels=4, factor=8, scale=0.18215)
CLIP_L = TextShape(768, 12, 12, 3072, 49408, 77, 0, "quick_gelu", False, "cond_stage_model.transformer.text_model.")
CLIP_H = TextShape(1024, 24, 16, 4096, 49408, 77, 0, "gelu", True, "cond_stage_model.model.")
CLIP_G = TextShape(1280, 32, 20, 5120, 49408, 77, 1280, "gelu", True, "conditioner.embedders.1.model.")


def _unet(context: int, *, linear: bool) -> UNetShape:
    return UNetShape(4, 4, (320, 640, 1280, 1280), 2, (1, 1, 1, 0), 1, (8, 8, 8, 8), context, linear, 0)


def _architecture(family: str) -> Architecture:
    if family == "sd1":
        return Architecture("sd1", False, "epsilon", _unet(768, linear=False), (CLIP_L,), VAE, 1)
    if family == "sd2":
        return Architecture("sd2", False, "v_prediction", _unet(1024, linear=True), (CLIP_H,), VAE, 2)
    unet = UNetShape(4, 4, (320, 640, 1280), 2, (0, 2, 10), 10, (5, 10, 20), 2048, True, 2816)
    return Architecture("sdxl", False, "epsilon", unet, (CLIP_L, CLIP_G), VAE, 2)


@functools.cache
def table(family: str) -> LayerTable:
    return layer_table(_architecture(family))


@functools.cache
def names(family: str) -> NameTable:
    return NameTable(table(family))
