"""A UNet arranged to need less memory, as the settings have it; its mathematics stay the same."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from lora_ext.config import MemoryConfig
from lora_ext.model import checkpoint_gradients
from lora_ext.training.levels import checkpoints


def arrange(unet: UNet2DConditionModel, memory: MemoryConfig, checkpointing: str, fused: bool = True) -> None:
    """Choose the attention, and where to compute activations anew: "all", "large", "small", or "" for nowhere.

    `fused` is off where torch's fused attention must not be used: plain matrix products then do the same.
    """
    if memory.attention == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    elif not fused:
        unet.set_attn_processor(AttnProcessor())
    if not checkpointing:
        return
    checkpoint_gradients(unet)
    levels = len(unet.down_blocks)
    _only(unet.mid_block, checkpoints(checkpointing, levels - 1, levels))
    for level, block in enumerate(unet.down_blocks):
        _only(block, checkpoints(checkpointing, level, levels))
    for number, block in enumerate(unet.up_blocks):
        _only(block, checkpoints(checkpointing, levels - 1 - number, levels))


def _only(block: nn.Module, wanted: bool) -> None:
    if not wanted:
        for module in block.modules():
            if hasattr(module, "gradient_checkpointing"):
                setattr(module, "gradient_checkpointing", False)  # noqa: B010 - of some blocks alone, types cannot tell
