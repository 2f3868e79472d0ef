"""From a checkpoint's tensors to its `Architecture`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lora_ext.errors import BadInput, Problem
from lora_ext.layers import FAMILY_TITLES, Family
from lora_ext.model.architecture import Architecture, Hints, PredictionType, TextShape, UNetShape, VaeShape
from lora_ext.model.heads import text_heads, unet_heads
from lora_ext.model.parts import keys, state_dict
from lora_ext.model.suspects import looks_like
from lora_ext.model.text_parts import text_parts
from lora_ext.model.unet_parts import PREFIX as UNET
from lora_ext.model.unet_parts import unet_parts
from lora_ext.model.vae_parts import PREFIX as VAE
from lora_ext.model.vae_parts import vae_parts

SIZE_WIDTH = 256
"""Width of each of SDXL's six size numbers, embedded, in the UNet's vector input."""

_SILENT = Hints()
_LATENT_SCALE: Mapping[Family, float] = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
_OWN_CLIP_SKIP: Mapping[Family, int] = {"sd1": 1, "sd2": 2, "sdxl": 2}


@dataclass(frozen=True)
class _Case:
    """What is known while reading; sentences are added to `assumed` on the way."""

    tensors: Mapping[str, Tensor]
    family: Family
    hints: Hints
    assumed: list[str]


def detect(tensors: Mapping[str, Tensor], hints: Hints = _SILENT) -> Architecture:
    """Tell SD 1.x, 2.x, SDXL, their inpainting models and shrunken models of the same build by their tensors.

    `tensors` by original checkpoint key; on any device, meta too: only names and shapes are looked at. What they cannot
    tell comes from `hints`, and where those are silent from the family, which `Architecture.assumed` says.
    Raises `BadInput` for everything else, saying what it looks like, and for tensors that are missing or do not fit.
    """
    suspect = looks_like(tensors)
    if suspect or f"{UNET}input_blocks.0.0.weight" not in tensors:
        _refuse(suspect)
    family, prefixes = _family(tensors)
    case = _Case(tensors, family, hints, [])
    unet = _unet(case)
    arch = Architecture(
        family=family,
        inpainting=unet.in_channels == 9,
        prediction_type=_prediction(case, unet.in_channels == 9),
        unet=unet,
        text=tuple(_text(case, prefix, i) for i, prefix in enumerate(prefixes)),
        vae=_vae(tensors, hints.scale_factor or _LATENT_SCALE[family]),
        clip_skip=hints.clip_skip if family == "sd2" and hints.clip_skip else _OWN_CLIP_SKIP[family],
        assumed=tuple(case.assumed),
    )
    _check(arch, tensors)
    return arch


def _refuse(suspect: str | None) -> None:
    got = f"what looks like {suspect}" if suspect else "tensors of an unknown kind"
    raise BadInput(
        Problem(
            "checkpoint",
            "this is not a Stable Diffusion checkpoint that can be used here",
            "SD 1.x, SD 2.x or SDXL base in the original single-file layout",
            got,
            "Choose another checkpoint.",
        )
    )


def _family(tensors: Mapping[str, Tensor]) -> tuple[Family, tuple[str, ...]]:
    """The family by its text encoders, and their key prefixes."""
    clip = _clip_prefix(tensors, "conditioner.embedders.0.transformer.")
    if clip and "conditioner.embedders.1.model.ln_final.weight" in tensors:
        return "sdxl", (clip, "conditioner.embedders.1.model.")
    if "cond_stage_model.model.ln_final.weight" in tensors:
        return "sd2", ("cond_stage_model.model.",)
    clip = _clip_prefix(tensors, "cond_stage_model.transformer.")
    if clip:
        return "sd1", (clip,)
    raise BadInput(
        Problem(
            "checkpoint",
            "the checkpoint has a UNet but no text encoder that belongs to it",
            "the CLIP of SD 1.x, the OpenCLIP of SD 2.x, or both of SDXL",
            fix="Use the complete checkpoint, not the UNet alone.",
        )
    )


def _clip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> str | None:
    """Files differ in whether they have the `text_model.` level."""
    for candidate in (f"{prefix}text_model.", prefix):
        if f"{candidate}final_layer_norm.weight" in tensors:
            return candidate
    return None


def _unet(case: _Case) -> UNetShape:
    tensors, family = case.tensors, case.family
    channels, blocks, depth = _levels(tensors)
    in_channels = _dim(tensors, f"{UNET}input_blocks.0.0.weight", 1)
    if in_channels not in {4, 9}:
        kinds = {5: "a depth-to-image model", 8: "an InstructPix2Pix model"}
        _refuse(kinds.get(in_channels, f"a UNet with {in_channels} input channels"))
    middle = f"{UNET}middle_block.1."
    bare = family == "sdxl" and not any(key.startswith((middle, f"{UNET}middle_block.2.")) for key in tensors)
    # of SSD-1B's middle one resnet is left; the deepest attention is the last of the way down then
    deepest = f"{UNET}input_blocks.{len(channels) * (blocks + 1) - 1}.1." if bare else middle
    vector = f"{UNET}label_emb.0.0.weight"
    if (vector in tensors) != (family == "sdxl"):
        _refuse(f"{FAMILY_TITLES[family]} with another vector input (`label_emb`)")
    return UNetShape(
        in_channels=in_channels,
        out_channels=_dim(tensors, f"{UNET}out.2.weight", 0),
        channels=channels,
        res_blocks=blocks,
        depth=depth,
        middle_depth=0 if bare else _count(tensors, f"{middle}transformer_blocks.{{}}.norm1.weight"),
        heads=unet_heads(family, channels, depth, case.hints, case.assumed),
        context_dim=_dim(tensors, f"{deepest}transformer_blocks.0.attn2.to_k.weight", 1),
        linear_projection=tensors[_needed(tensors, f"{deepest}proj_in.weight")].ndim == 2,
        added_dim=tensors[vector].shape[1] if vector in tensors else 0,
        climb=_climb(tensors, blocks, depth) if family == "sdxl" else (),
    )


def _levels(tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Channels per level, resnets per level, transformer blocks per level, read off the down path."""
    channels: list[int] = []
    blocks: list[int] = [0]
    depth: list[int] = []
    for i in itertools.count(1):
        at = f"{UNET}input_blocks.{i}"
        if f"{at}.0.op.weight" in tensors:
            blocks.append(0)
        elif f"{at}.0.in_layers.2.weight" in tensors:
            blocks[-1] += 1
            if blocks[-1] == 1:
                channels.append(tensors[f"{at}.0.in_layers.2.weight"].shape[0])
                depth.append(_count(tensors, f"{at}.1.transformer_blocks.{{}}.norm1.weight"))
        else:
            break
    if len(set(blocks)) != 1 or not channels:
        _refuse("a UNet whose levels differ in their number of resnets")
    return tuple(channels), blocks[0], tuple(depth)


def _climb(tensors: Mapping[str, Tensor], blocks: int, depth: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Transformer blocks of every attention on the way up, by level; nothing where they are as many as on the way down.

    An attention that has none at all is missing from the file, and not pruned.
    """
    found: list[tuple[int, ...]] = []
    for level, deep in enumerate(depth):
        first = (len(depth) - 1 - level) * (blocks + 1)
        at = (f"{UNET}output_blocks.{first + i}.1.transformer_blocks.{{}}.norm1.weight" for i in range(blocks + 1))
        found.append(tuple(_count(tensors, pattern) or deep for pattern in at) if deep else (0,) * (blocks + 1))
    pruned = any(set(level) != {deep} for level, deep in zip(found, depth, strict=True))
    return tuple(found) if pruned else ()


def _text(case: _Case, prefix: str, index: int) -> TextShape:
    tensors = case.tensors
    fused = prefix.endswith(".model.")
    block = f"{prefix}transformer.resblocks.{{}}." if fused else f"{prefix}encoder.layers.{{}}."
    norm, mlp = ("ln_1.weight", "mlp.c_fc.weight") if fused else ("layer_norm1.weight", "mlp.fc1.weight")
    token = f"{prefix}token_embedding.weight" if fused else f"{prefix}embeddings.token_embedding.weight"
    position = f"{prefix}positional_embedding" if fused else f"{prefix}embeddings.position_embedding.weight"
    width = _dim(tensors, token, 1)
    pooled = fused and case.family == "sdxl"
    return TextShape(
        width=width,
        layers=_count(tensors, block + norm),
        heads=text_heads(width, index, case.hints, case.assumed),
        mlp=_dim(tensors, block.format(0) + mlp, 0),
        vocabulary=_dim(tensors, token, 0),
        positions=_dim(tensors, position, 0),
        projection=_dim(tensors, f"{prefix}text_projection", 1) if pooled else 0,
        activation="gelu" if fused else "quick_gelu",
        fused=fused,
        prefix=prefix,
    )


def _vae(tensors: Mapping[str, Tensor], scale: float) -> VaeShape:
    if f"{VAE}decoder.conv_in.weight" not in tensors:
        what = "the checkpoint has no VAE, which turns pictures into latents"
        raise BadInput(Problem("checkpoint", what, fix="Use a checkpoint with its VAE baked in."))
    channels: list[int] = []
    while (key := f"{VAE}encoder.down.{len(channels)}.block.0.conv1.weight") in tensors:
        channels.append(tensors[key].shape[0])
    return VaeShape(
        channels=tuple(channels),
        res_blocks=_count(tensors, f"{VAE}encoder.down.0.block.{{}}.conv1.weight"),
        latent_channels=_dim(tensors, f"{VAE}decoder.conv_in.weight", 1),
        factor=2 ** (len(channels) - 1),
        scale=scale,
    )


def _prediction(case: _Case, inpainting: bool) -> PredictionType:
    if case.hints.prediction_type:
        return case.hints.prediction_type
    if "v_pred" in case.tensors:  # an empty tensor by which newer SDXL models say it
        return "v_prediction"
    prediction: PredictionType = "v_prediction" if case.family == "sd2" and not inpainting else "epsilon"
    kind = FAMILY_TITLES[case.family] + (" inpainting" if inpainting else "")
    case.assumed.append(
        f"Neither the weights nor a yaml tell the prediction type: taken as {prediction}, usual for {kind}."
    )
    return prediction


def _check(arch: Architecture, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor the modules need is there in its shape, and the UNet has none besides."""
    parts = [*unet_parts(arch.unet), *vae_parts(arch.vae), *(part for shape in arch.text for part in text_parts(shape))]
    state_dict(parts, tensors)
    unknown = sorted({key for key in tensors if key.startswith(UNET)} - set(keys(parts)))
    if unknown:
        _refuse(f"a UNet of another build, with tensors such as {unknown[0]}")
    _check_middle(arch.unet)
    _check_context(arch)


def _check_middle(unet: UNetShape) -> None:
    if unet.depth[-1] and unet.middle_depth and unet.depth[-1] != unet.middle_depth:
        _refuse("a UNet whose middle is not as deep as its last level")


def _check_context(arch: Architecture) -> None:
    width = sum(shape.width for shape in arch.text)
    problems: list[Problem] = []
    if width != arch.unet.context_dim:
        what = "the text encoders do not fit the UNet's cross attention"
        problems.append(Problem("checkpoint", what, f"{arch.unet.context_dim} wide", f"{width} wide"))
    pooled = arch.text[-1].projection
    if arch.unet.added_dim and arch.unet.added_dim != pooled + 6 * SIZE_WIDTH:
        what = "the text encoder does not fit the UNet's vector input"
        expected = f"{arch.unet.added_dim - 6 * SIZE_WIDTH} wide"
        problems.append(Problem("checkpoint", what, expected, f"{pooled} wide", "Only SDXL base models can be used."))
    if arch.unet.out_channels != arch.vae.latent_channels:
        what = "the VAE's latents do not fit the UNet"
        got = f"{arch.vae.latent_channels} channels"
        problems.append(Problem("checkpoint", what, f"{arch.unet.out_channels} channels", got))
    if problems:
        raise BadInput(*problems)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), … there are, in a row."""
    return next(i for i in itertools.count() if pattern.format(i) not in tensors)


def _dim(tensors: Mapping[str, Tensor], key: str, axis: int) -> int:
    shape = tensors[_needed(tensors, key)].shape
    if axis >= len(shape):
        what = f"the tensor {key} has the wrong shape"
        raise BadInput(Problem("checkpoint", what, f"more than {axis} axes", f"{len(shape)}"))
    return shape[axis]


def _needed(tensors: Mapping[str, Tensor], key: str) -> str:
    if key not in tensors:
        what = f"the tensor {key} is missing"
        raise BadInput(Problem("checkpoint", what, fix="The file is incomplete or of another build."))
    return key
