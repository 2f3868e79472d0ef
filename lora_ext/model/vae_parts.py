"""Every weight of an ldm `AutoencoderKL`, under its checkpoint name and its name in diffusers' class of that name."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ext.layers import Op
from lora_ext.model.architecture import VaeShape
from lora_ext.model.parts import Part

PREFIX = "first_stage_model."


def vae_parts(shape: VaeShape) -> Iterator[Part]:
    """The parts, encoder first. Attention is 1x1 convolutions in the checkpoint and linear in diffusers."""
    latent = shape.latent_channels
    yield from _encoder(shape)
    yield from _decoder(shape)
    yield _conv("quant_conv", "quant_conv", 2 * latent, 2 * latent, kernel=1)
    yield _conv("post_quant_conv", "post_quant_conv", latent, latent, kernel=1)


def _encoder(shape: VaeShape) -> Iterator[Part]:
    inside = shape.channels[0]
    yield _conv("encoder.conv_in", "encoder.conv_in", 3, inside)
    for level, width in enumerate(shape.channels):
        ldm, ours = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for i in range(shape.res_blocks):
            yield from _resnet(f"{ldm}.block.{i}", f"{ours}.resnets.{i}", inside, width)
            inside = width
        if level < len(shape.channels) - 1:
            yield _conv(f"{ldm}.downsample.conv", f"{ours}.downsamplers.0.conv", width, width)
    yield from _middle("encoder", inside)
    yield _norm("encoder.norm_out", "encoder.conv_norm_out", inside)
    yield _conv("encoder.conv_out", "encoder.conv_out", inside, 2 * shape.latent_channels)


def _decoder(shape: VaeShape) -> Iterator[Part]:
    inside = shape.channels[-1]
    yield _conv("decoder.conv_in", "decoder.conv_in", shape.latent_channels, inside)
    yield from _middle("decoder", inside)
    for i, level in enumerate(reversed(range(len(shape.channels)))):
        ldm, ours, width = f"decoder.up.{level}", f"decoder.up_blocks.{i}", shape.channels[level]
        for j in range(shape.res_blocks + 1):
            yield from _resnet(f"{ldm}.block.{j}", f"{ours}.resnets.{j}", inside, width)
            inside = width
        if level:
            yield _conv(f"{ldm}.upsample.conv", f"{ours}.upsamplers.0.conv", width, width)
    yield _norm("decoder.norm_out", "decoder.conv_norm_out", inside)
    yield _conv("decoder.conv_out", "decoder.conv_out", inside, 3)


def _middle(half: str, width: int) -> Iterator[Part]:
    ldm, ours = f"{half}.mid", f"{half}.mid_block"
    yield from _resnet(f"{ldm}.block_1", f"{ours}.resnets.0", width, width)
    yield _norm(f"{ldm}.attn_1.norm", f"{ours}.attentions.0.group_norm", width)
    for theirs, part in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield _part(f"{ldm}.attn_1.{theirs}", f"{ours}.attentions.0.{part}", (width, width), "linear")
    yield from _resnet(f"{ldm}.block_2", f"{ours}.resnets.1", width, width)


def _resnet(ldm: str, ours: str, inside: int, outside: int) -> Iterator[Part]:
    yield _norm(f"{ldm}.norm1", f"{ours}.norm1", inside)
    yield _conv(f"{ldm}.conv1", f"{ours}.conv1", inside, outside)
    yield _norm(f"{ldm}.norm2", f"{ours}.norm2", outside)
    yield _conv(f"{ldm}.conv2", f"{ours}.conv2", outside, outside)
    if inside != outside:
        yield _conv(f"{ldm}.nin_shortcut", f"{ours}.conv_shortcut", inside, outside, kernel=1)


def _conv(ldm: str, ours: str, inside: int, outside: int, kernel: int = 3) -> Part:
    return _part(ldm, ours, (outside, inside, kernel, kernel), "conv")


def _norm(ldm: str, ours: str, width: int) -> Part:
    return _part(ldm, ours, (width,), "norm")


def _part(ldm: str, ours: str, shape: tuple[int, ...], op: Op) -> Part:
    return Part(ours, ldm, f"{PREFIX}{ldm}.weight", f"{PREFIX}{ldm}.bias", shape, op)
