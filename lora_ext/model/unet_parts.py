"""Every weight of an ldm / sgm UNet, under its checkpoint name and its name in diffusers' `UNet2DConditionModel`."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ext.layers import Op
from lora_ext.model.architecture import UNetShape
from lora_ext.model.parts import Part

PREFIX = "model.diffusion_model."


def unet_parts(shape: UNetShape) -> Iterator[Part]:
    """The parts in the order of the forward pass."""
    base = shape.channels[0]
    embed = base * 4
    yield _linear("time_embed.0", "time_embedding.linear_1", base, embed)
    yield _linear("time_embed.2", "time_embedding.linear_2", embed, embed)
    if shape.added_dim:
        yield _linear("label_emb.0.0", "add_embedding.linear_1", shape.added_dim, embed)
        yield _linear("label_emb.0.2", "add_embedding.linear_2", embed, embed)
    yield _conv("input_blocks.0.0", "conv_in", shape.in_channels, base)
    yield from _down(shape, embed)
    yield from _middle(shape, embed)
    yield from _up(shape, embed)
    yield _norm("out.0", "conv_norm_out", base)
    yield _conv("out.2", "conv_out", base, shape.out_channels)


def skip_channels(shape: UNetShape) -> list[int]:
    """Channels of every skip connection, in the order the down path makes them."""
    skips = [shape.channels[0]]
    for level, width in enumerate(shape.channels):
        skips += [width] * shape.res_blocks
        if level < len(shape.channels) - 1:
            skips.append(width)
    return skips


def _down(shape: UNetShape, embed: int) -> Iterator[Part]:
    block, inside = 1, shape.channels[0]
    for level, width in enumerate(shape.channels):
        ours = f"down_blocks.{level}"
        for i in range(shape.res_blocks):
            yield from _resnet(f"input_blocks.{block}.0", f"{ours}.resnets.{i}", inside, width, embed)
            inside = width
            if shape.depth[level]:
                at = f"input_blocks.{block}.1"
                yield from _transformer(at, f"{ours}.attentions.{i}", width, shape.depth[level], shape)
            block += 1
        if level < len(shape.channels) - 1:
            yield _conv(f"input_blocks.{block}.0.op", f"{ours}.downsamplers.0.conv", width, width)
            block += 1


def _middle(shape: UNetShape, embed: int) -> Iterator[Part]:
    width = shape.channels[-1]
    yield from _resnet("middle_block.0", "mid_block.resnets.0", width, width, embed)
    if not shape.middle_depth:
        return
    yield from _transformer("middle_block.1", "mid_block.attentions.0", width, shape.middle_depth, shape)
    yield from _resnet("middle_block.2", "mid_block.resnets.1", width, width, embed)


def _up(shape: UNetShape, embed: int) -> Iterator[Part]:
    skips = skip_channels(shape)
    block, inside = 0, shape.channels[-1]
    for i, level in enumerate(reversed(range(len(shape.channels)))):
        ours, width = f"up_blocks.{i}", shape.channels[level]
        for j in range(shape.res_blocks + 1):
            at = f"output_blocks.{block}"
            yield from _resnet(f"{at}.0", f"{ours}.resnets.{j}", inside + skips.pop(), width, embed)
            inside = width
            if shape.depth[level]:
                yield from _transformer(f"{at}.1", f"{ours}.attentions.{j}", width, shape.up_depth(level, j), shape)
            if level and j == shape.res_blocks:
                yield _conv(f"{at}.{2 if shape.depth[level] else 1}.conv", f"{ours}.upsamplers.0.conv", width, width)
            block += 1


def _resnet(ldm: str, ours: str, inside: int, outside: int, embed: int) -> Iterator[Part]:
    yield _norm(f"{ldm}.in_layers.0", f"{ours}.norm1", inside)
    yield _conv(f"{ldm}.in_layers.2", f"{ours}.conv1", inside, outside)
    yield _linear(f"{ldm}.emb_layers.1", f"{ours}.time_emb_proj", embed, outside)
    yield _norm(f"{ldm}.out_layers.0", f"{ours}.norm2", outside)
    yield _conv(f"{ldm}.out_layers.3", f"{ours}.conv2", outside, outside)
    if inside != outside:
        yield _conv(f"{ldm}.skip_connection", f"{ours}.conv_shortcut", inside, outside, kernel=1)


def _transformer(ldm: str, ours: str, width: int, depth: int, shape: UNetShape) -> Iterator[Part]:
    yield _norm(f"{ldm}.norm", f"{ours}.norm", width)
    yield _projection(f"{ldm}.proj_in", f"{ours}.proj_in", width, shape.linear_projection)
    for i in range(depth):
        block = f"transformer_blocks.{i}"
        yield from _block(f"{ldm}.{block}", f"{ours}.{block}", width, shape.context_dim)
    yield _projection(f"{ldm}.proj_out", f"{ours}.proj_out", width, shape.linear_projection)


def _block(ldm: str, ours: str, width: int, context: int) -> Iterator[Part]:
    yield _norm(f"{ldm}.norm1", f"{ours}.norm1", width)
    yield from _attention(f"{ldm}.attn1", f"{ours}.attn1", width, width)
    yield _norm(f"{ldm}.norm2", f"{ours}.norm2", width)
    yield from _attention(f"{ldm}.attn2", f"{ours}.attn2", width, context)
    yield _norm(f"{ldm}.norm3", f"{ours}.norm3", width)
    yield _linear(f"{ldm}.ff.net.0.proj", f"{ours}.ff.net.0.proj", width, width * 8)
    yield _linear(f"{ldm}.ff.net.2", f"{ours}.ff.net.2", width * 4, width)


def _attention(ldm: str, ours: str, width: int, context: int) -> Iterator[Part]:
    for part, inside in (("to_q", width), ("to_k", context), ("to_v", context)):
        yield _part(f"{ldm}.{part}", f"{ours}.{part}", (width, inside), "linear", bias=False)
    yield _linear(f"{ldm}.to_out.0", f"{ours}.to_out.0", width, width)


def _projection(ldm: str, ours: str, width: int, linear: bool) -> Part:
    return _linear(ldm, ours, width, width) if linear else _conv(ldm, ours, width, width, kernel=1)


def _linear(ldm: str, ours: str, inside: int, outside: int) -> Part:
    return _part(ldm, ours, (outside, inside), "linear")


def _conv(ldm: str, ours: str, inside: int, outside: int, kernel: int = 3) -> Part:
    return _part(ldm, ours, (outside, inside, kernel, kernel), "conv")


def _norm(ldm: str, ours: str, width: int) -> Part:
    return _part(ldm, ours, (width,), "norm")


def _part(ldm: str, ours: str, shape: tuple[int, ...], op: Op, bias: bool = True) -> Part:
    key = f"{PREFIX}{ldm}"
    return Part(ours, ldm, f"{key}.weight", f"{key}.bias" if bias else None, shape, op)
