"""Every tensor of a Stable Diffusion checkpoint in the original (ldm / sgm) spelling: key -> shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class UNetSize:
    """Numbers of an ldm `UNetModel`; `depth` is transformer blocks per level, 0 for none."""

    in_channels: int
    base: int
    multipliers: tuple[int, ...]
    res_blocks: int
    depth: tuple[int, ...]
    context: int
    linear: bool
    vector: int  # `adm_in_channels`, 0 without
    pruned: bool = False
    """As SSD-1B was made of SDXL: see `prune`."""


@dataclass(frozen=True)
class TextSize:
    """Numbers of a CLIP text model."""

    width: int
    layers: int
    heads: int
    projection: int = 0


@dataclass(frozen=True)
class VaeSize:
    """Numbers of an ldm `AutoencoderKL`."""

    base: int
    multipliers: tuple[int, ...]
    res_blocks: int
    latent: int = 4


def unet(size: UNetSize) -> Shapes:
    """Shapes below `model.diffusion_model.`, in the order of the forward pass."""
    out: Shapes = {}
    embed = size.base * 4
    _linear(out, "time_embed.0", size.base, embed)
    _linear(out, "time_embed.2", embed, embed)
    if size.vector:
        _linear(out, "label_emb.0.0", size.vector, embed)
        _linear(out, "label_emb.0.2", embed, embed)
    _conv(out, "input_blocks.0.0", size.in_channels, size.base)
    skips = _unet_down(out, size, embed)
    middle = skips[-1]
    _resnet(out, "middle_block.0", middle, middle, embed)
    _transformer(out, "middle_block.1", middle, max(size.depth[-1], 1), size)
    _resnet(out, "middle_block.2", middle, middle, embed)
    _unet_up(out, size, embed, skips)
    _norm(out, "out.0", size.base)
    _conv(out, "out.2", size.base, 4)
    return prune(out) if size.pruned else out


def prune(unet: Shapes) -> Shapes:
    """What Segmind left of SDXL's UNet in SSD-1B: a middle of one resnet, four transformer blocks where the deepest
    level had ten (but in the last of its attentions on the way up), and one in the last two of the level above."""
    gone = ["middle_block.1.", "middle_block.2."]
    gone += [f"{at}.1.transformer_blocks.{n}." for at in SSD_DEEP for n in range(4, 10)]
    gone += [f"output_blocks.{i}.1.transformer_blocks.1." for i in (4, 5)]
    return {key: shape for key, shape in unet.items() if not key.startswith(tuple(gone))}


SSD_DEEP = ("input_blocks.7", "input_blocks.8", "output_blocks.0", "output_blocks.1")


def _unet_down(out: Shapes, size: UNetSize, embed: int) -> list[int]:
    skips = [size.base]
    block, channels = 1, size.base
    for level, multiplier in enumerate(size.multipliers):
        for _ in range(size.res_blocks):
            _resnet(out, f"input_blocks.{block}.0", channels, size.base * multiplier, embed)
            channels = size.base * multiplier
            if size.depth[level]:
                _transformer(out, f"input_blocks.{block}.1", channels, size.depth[level], size)
            skips.append(channels)
            block += 1
        if level < len(size.multipliers) - 1:
            _conv(out, f"input_blocks.{block}.0.op", channels, channels)
            skips.append(channels)
            block += 1
    return skips


def _unet_up(out: Shapes, size: UNetSize, embed: int, skips: list[int]) -> None:
    block, channels = 0, skips[-1]
    for level in reversed(range(len(size.multipliers))):
        width = size.base * size.multipliers[level]
        for i in range(size.res_blocks + 1):
            _resnet(out, f"output_blocks.{block}.0", channels + skips.pop(), width, embed)
            channels, part = width, 1
            if size.depth[level]:
                _transformer(out, f"output_blocks.{block}.1", channels, size.depth[level], size)
                part = 2
            if level and i == size.res_blocks:
                _conv(out, f"output_blocks.{block}.{part}.conv", channels, channels)
            block += 1


def _resnet(out: Shapes, at: str, inside: int, outside: int, embed: int) -> None:
    _norm(out, f"{at}.in_layers.0", inside)
    _conv(out, f"{at}.in_layers.2", inside, outside)
    _linear(out, f"{at}.emb_layers.1", embed, outside)
    _norm(out, f"{at}.out_layers.0", outside)
    _conv(out, f"{at}.out_layers.3", outside, outside)
    if inside != outside:
        _conv(out, f"{at}.skip_connection", inside, outside, kernel=1)


def _transformer(out: Shapes, at: str, width: int, depth: int, size: UNetSize) -> None:
    _norm(out, f"{at}.norm", width)
    _projection(out, f"{at}.proj_in", width, size.linear)
    for i in range(depth):
        block = f"{at}.transformer_blocks.{i}"
        _attention(out, f"{block}.attn1", width, width)
        _linear(out, f"{block}.ff.net.0.proj", width, width * 8)
        _linear(out, f"{block}.ff.net.2", width * 4, width)
        _attention(out, f"{block}.attn2", width, size.context)
        for n in (1, 2, 3):
            _norm(out, f"{block}.norm{n}", width)
    _projection(out, f"{at}.proj_out", width, size.linear)


def _attention(out: Shapes, at: str, width: int, context: int) -> None:
    out[f"{at}.to_q.weight"] = (width, width)
    out[f"{at}.to_k.weight"] = (width, context)
    out[f"{at}.to_v.weight"] = (width, context)
    _linear(out, f"{at}.to_out.0", width, width)


def clip(size: TextSize) -> Shapes:
    """Shapes of Hugging Face's `CLIPTextModel` (below `transformer.`)."""
    out: Shapes = {
        "text_model.embeddings.position_ids": (1, 77),
        "text_model.embeddings.token_embedding.weight": (49408, size.width),
        "text_model.embeddings.position_embedding.weight": (77, size.width),
    }
    for i in range(size.layers):
        at = f"text_model.encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            _linear(out, f"{at}.self_attn.{part}", size.width, size.width)
        _norm(out, f"{at}.layer_norm1", size.width)
        _linear(out, f"{at}.mlp.fc1", size.width, size.width * 4)
        _linear(out, f"{at}.mlp.fc2", size.width * 4, size.width)
        _norm(out, f"{at}.layer_norm2", size.width)
    _norm(out, "text_model.final_layer_norm", size.width)
    return out


def open_clip(size: TextSize) -> Shapes:
    """Shapes of an OpenCLIP text tower (below `model.`)."""
    out: Shapes = {
        "positional_embedding": (77, size.width),
        "text_projection": (size.width, size.projection),
        "logit_scale": (),
        "token_embedding.weight": (49408, size.width),
    }
    for i in range(size.layers):
        at = f"transformer.resblocks.{i}"
        _norm(out, f"{at}.ln_1", size.width)
        out[f"{at}.attn.in_proj_weight"] = (3 * size.width, size.width)
        out[f"{at}.attn.in_proj_bias"] = (3 * size.width,)
        _linear(out, f"{at}.attn.out_proj", size.width, size.width)
        _norm(out, f"{at}.ln_2", size.width)
        _linear(out, f"{at}.mlp.c_fc", size.width, size.width * 4)
        _linear(out, f"{at}.mlp.c_proj", size.width * 4, size.width)
    _norm(out, "ln_final", size.width)
    return out


def vae(size: VaeSize) -> Shapes:
    """Shapes below `first_stage_model.`."""
    out: Shapes = {}
    widths = [size.base * m for m in size.multipliers]
    _conv(out, "encoder.conv_in", 3, size.base)
    channels = size.base
    for level, width in enumerate(widths):
        for i in range(size.res_blocks):
            _vae_resnet(out, f"encoder.down.{level}.block.{i}", channels, width)
            channels = width
        if level < len(widths) - 1:
            _conv(out, f"encoder.down.{level}.downsample.conv", width, width)
    _vae_middle(out, "encoder.mid", channels)
    _norm(out, "encoder.norm_out", channels)
    _conv(out, "encoder.conv_out", channels, 2 * size.latent)
    _conv(out, "decoder.conv_in", size.latent, channels)
    _vae_middle(out, "decoder.mid", channels)
    for level in reversed(range(len(widths))):
        for i in range(size.res_blocks + 1):
            _vae_resnet(out, f"decoder.up.{level}.block.{i}", channels, widths[level])
            channels = widths[level]
        if level:
            _conv(out, f"decoder.up.{level}.upsample.conv", channels, channels)
    _norm(out, "decoder.norm_out", channels)
    _conv(out, "decoder.conv_out", channels, 3)
    _conv(out, "quant_conv", 2 * size.latent, 2 * size.latent, kernel=1)
    _conv(out, "post_quant_conv", size.latent, size.latent, kernel=1)
    return out


def _vae_middle(out: Shapes, at: str, width: int) -> None:
    _vae_resnet(out, f"{at}.block_1", width, width)
    _norm(out, f"{at}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        _conv(out, f"{at}.attn_1.{part}", width, width, kernel=1)
    _vae_resnet(out, f"{at}.block_2", width, width)


def _vae_resnet(out: Shapes, at: str, inside: int, outside: int) -> None:
    _norm(out, f"{at}.norm1", inside)
    _conv(out, f"{at}.conv1", inside, outside)
    _norm(out, f"{at}.norm2", outside)
    _conv(out, f"{at}.conv2", outside, outside)
    if inside != outside:
        _conv(out, f"{at}.nin_shortcut", inside, outside, kernel=1)


def below(prefix: str, shapes: Shapes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The same shapes with a prefix."""
    return ((prefix + key, shape) for key, shape in shapes.items())


def _linear(out: Shapes, at: str, inside: int, outside: int) -> None:
    out[f"{at}.weight"] = (outside, inside)
    out[f"{at}.bias"] = (outside,)


def _conv(out: Shapes, at: str, inside: int, outside: int, kernel: int = 3) -> None:
    out[f"{at}.weight"] = (outside, inside, kernel, kernel)
    out[f"{at}.bias"] = (outside,)


def _projection(out: Shapes, at: str, width: int, linear: bool) -> None:
    out[f"{at}.weight"] = (width, width) if linear else (width, width, 1, 1)
    out[f"{at}.bias"] = (width,)


def _norm(out: Shapes, at: str, width: int) -> None:
    out[f"{at}.weight"] = (width,)
    out[f"{at}.bias"] = (width,)
