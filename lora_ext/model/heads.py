"""Attention heads: how many there are is not in the weights, but follows from the family or comes as a hint."""

from __future__ import annotations

from lora_ext.errors import BadInput, Problem
from lora_ext.layers import FAMILY_TITLES, Family
from lora_ext.model.architecture import Hints

WIDTH = 64
"""Channels per head in every published CLIP text model, and in the UNets of SD2 and SDXL."""

SD1_HEADS = 8

_PUBLISHED: dict[Family, tuple[int, ...]] = {
    "sd1": (320, 640, 1280, 1280),
    "sd2": (320, 640, 1280, 1280),
    "sdxl": (320, 640, 1280),
}
_PUBLISHED_TEXT = {768, 1024, 1280}


def unet_heads(
    family: Family, channels: tuple[int, ...], depth: tuple[int, ...], hints: Hints, assumed: list[str]
) -> tuple[int, ...]:
    """Heads per level. Adds a sentence to `assumed` for a UNet of unpublished size that no hint speaks of.

    Raises `BadInput` when the heads of a level with attention (the last always has: it is the middle's too) do not
    divide its channels.
    """
    if hints.unet_head_dim:
        heads = tuple(width // hints.unet_head_dim for width in channels)
    elif hints.unet_heads:
        heads = (hints.unet_heads,) * len(channels)
    else:
        if channels != _PUBLISHED[family]:
            rule = f"{SD1_HEADS} heads" if family == "sd1" else f"heads {WIDTH} channels wide"
            assumed.append(
                f"Neither the weights nor a yaml tell how many heads this small UNet has: taken as {rule}, "
                f"as {FAMILY_TITLES[family]} has."
            )
        heads = tuple(SD1_HEADS if family == "sd1" else max(width // WIDTH, 1) for width in channels)
    for level, (width, count) in enumerate(zip(channels, heads, strict=True)):
        used = depth[level] or level == len(channels) - 1
        if used and (count < 1 or width % count or (hints.unet_head_dim and width % hints.unet_head_dim)):
            what = f"{width} channels of level {level} cannot be split among {count} attention heads"
            fix = "Put the model's own yaml beside the checkpoint, or correct its num_heads / num_head_channels."
            raise BadInput(Problem("checkpoint", what, fix=fix))
    return heads


def text_heads(width: int, index: int, hints: Hints, assumed: list[str]) -> int:
    """Heads of text encoder number `index`, likewise."""
    hint = hints.te_heads[index] if index < len(hints.te_heads) else None
    if hint is None and width not in _PUBLISHED_TEXT:
        assumed.append(
            f"The weights do not tell how many heads the text encoder of width {width} has: taken as {WIDTH} wide each."
        )
    heads = hint or max(width // WIDTH, 1)
    if width % heads:
        what = f"the text encoder's width {width} cannot be split among {heads} attention heads"
        raise BadInput(Problem("checkpoint", what))
    return heads
