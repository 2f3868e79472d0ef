"""Which model a network file was made for, told by its names, shapes and metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lora_ext.formats.tensor_names import grouped
from lora_ext.layers import Family

Shapes = Mapping[str, tuple[int, ...]]

CONTEXT_WIDTHS: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text that cross-attention reads. Shrunken models have others."""

SECOND_ENCODER = re.compile(
    r"^(lora_te2_|oft_te2_|lycoris_te2_|text_encoder_2\.|clip_bigG\.|TE\.clip_bigG\.|clip_g\.)", re.M
)
DEEP_TRANSFORMER = re.compile(r"(attentions[._]\d|_blocks?[._](\d+[._])?1)[._]transformer_blocks[._][1-9]")
"""Only SDXL has more than one block in a transformer."""
FIRST_LEVEL = re.compile(r"(down_blocks[._]0[._]attentions|up_blocks[._]3[._]attentions|input_blocks[._][12][._]1[._])")
"""SDXL has no attention in its first level, the others have."""
LONG_TEXT = re.compile(r"^(lora_te1?_|text_encoder\.).*layers[._](1[2-9]|2\d)[._]", re.M)
"""SD 1.x has 12 text layers, SD 2.x has 23."""
CROSS_ATTENTION = re.compile(r"attn2[._](processor[._])?to_[kv]")

FOREIGN_SIGNS: Mapping[str, str] = {
    # pieces of names that no SD1, SD2 or SDXL file has
    "double_blocks": "Flux",
    "single_blocks": "Flux",
    "single_transformer_blocks": "Flux",
    "joint_blocks": "SD 3",
    "transformer.transformer_blocks": "SD 3",
    "lora_te3_": "SD 3",
    "text_encoder_3.": "SD 3",
    "lora_prior_": "Stable Cascade",
}


def foreign_model(keys: Iterable[str]) -> str | None:
    """The model that a file with these keys is for, if it is none of ours."""
    joined = "\n".join(keys)
    return next((model for sign, model in FOREIGN_SIGNS.items() if sign in joined), None)


def family_of(shapes: Shapes, metadata: Mapping[str, str]) -> Family | None:
    """The family a network file was made for, from its tensors or else its metadata; None when nothing tells.

    Tensors tell by a second text encoder, by deep transformers, by the width of the text that cross-attention reads
    and by attention in the first level. The last tells SDXL from the others; metadata then tell SD 1.x from SD 2.x.
    """
    lines = "\n".join(shapes)  # a thousand names are looked through at once, not one by one
    if SECOND_ENCODER.search(lines) or DEEP_TRANSFORMER.search(lines):
        return "sdxl"
    width = _context_width(shapes)
    if width is not None and width in CONTEXT_WIDTHS:
        return CONTEXT_WIDTHS[width]
    if LONG_TEXT.search(lines):
        return "sd2"
    told = _family_of_metadata(metadata)
    if told == "sdxl" and FIRST_LEVEL.search(lines):
        return None
    return told


def _context_width(shapes: Shapes) -> int | None:
    """Width that the first readable cross-attention key or value layer takes in."""
    groups = grouped(key for key in shapes if CROSS_ATTENTION.search(key))
    widths = (_width({name: shapes[key] for name, key in group.items()}) for group in groups.values())
    return next((width for width in widths if width), None)


def _width(layer: Shapes) -> int | None:
    """Input width of a linear layer by the shapes of its adapter's tensors; None for kinds that do not tell."""
    for name in ("lora_down.weight", "hada_w1_b", "diff"):
        if len(layer.get(name, ())) > 1:
            return layer[name][1]
    halves = [layer.get(f"{half}_b") or layer.get(half, ()) for half in ("lokr_w1", "lokr_w2")]
    return halves[0][1] * halves[1][1] if all(len(half) > 1 for half in halves) else None


def _family_of_metadata(metadata: Mapping[str, str]) -> Family | None:
    version = metadata.get("ss_base_model_version", "") + " " + metadata.get("modelspec.architecture", "")
    if "sdxl" in version or "stable-diffusion-xl" in version:
        return "sdxl"
    if metadata.get("ss_v2") == "True" or "sd_v2" in version or "stable-diffusion-v2" in version:
        return "sd2"
    if "sd_v1" in version or "sd_1" in version or "stable-diffusion-v1" in version:
        return "sd1"
    return None
