"""The UNet and the VAE as diffusers modules over a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from lora_ext.model.architecture import Architecture
from lora_ext.model.detection import SIZE_WIDTH
from lora_ext.model.sharing import build_over
from lora_ext.model.unet_parts import unet_parts
from lora_ext.model.vae_parts import vae_parts


def build_unet(arch: Architecture, tensors: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """The UNet over the same storage: writing a host tensor changes its output. Frozen, in eval mode."""
    return build_over(lambda: _unet(arch), unet_parts(arch.unet), tensors)


def build_vae(arch: Architecture, tensors: Mapping[str, Tensor]) -> AutoencoderKL:
    """The autoencoder, likewise. `config.scaling_factor` is `arch.vae.scale`; encode and decode do not apply it."""
    return build_over(lambda: _vae(arch), vae_parts(arch.vae), tensors)


def checkpoint_gradients(unet: UNet2DConditionModel) -> None:
    """Let the backward pass compute activations anew, block by block.

    diffusers 0.30 heeds that in train mode only; the UNet has no dropout, so the mode changes nothing else.
    """
    unet.train()
    unet.enable_gradient_checkpointing()


def _unet(arch: Architecture) -> UNet2DConditionModel:
    shape = arch.unet
    added = bool(shape.added_dim)
    down = [depth or 1 for depth in shape.depth]  # a level without attention does not look at its own
    up = [[blocks or 1 for blocks in level] for level in reversed(shape.climb)]
    return UNet2DConditionModel(
        in_channels=shape.in_channels,
        out_channels=shape.out_channels,
        block_out_channels=shape.channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in shape.depth),
        up_block_types=tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(shape.depth)),
        layers_per_block=shape.res_blocks,
        cross_attention_dim=shape.context_dim,
        mid_block_type="UNetMidBlock2DCrossAttn" if shape.middle_depth else "UNetMidBlock2D",
        # the last entry is the middle's too
        transformer_layers_per_block=(*down[:-1], shape.middle_depth or down[-1]),
        reverse_transformer_layers_per_block=up or None,
        attention_head_dim=shape.heads,  # diffusers' old name for the number of heads
        use_linear_projection=shape.linear_projection,
        addition_embed_type="text_time" if added else None,
        addition_time_embed_dim=SIZE_WIDTH if added else None,
        projection_class_embeddings_input_dim=shape.added_dim if added else None,
    )


def _vae(arch: Architecture) -> AutoencoderKL:
    shape = arch.vae
    levels = len(shape.channels)
    return AutoencoderKL(
        block_out_channels=shape.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=shape.res_blocks,
        latent_channels=shape.latent_channels,
        scaling_factor=shape.scale,
    )
