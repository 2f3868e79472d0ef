"""What files call the tensors of a layer, and what that tells about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lora_ext.layers import Family

CANONICAL: Mapping[str, str] = {
    # kohya and LyCORIS stand for themselves; PEFT, old diffusers and HCP-Diffusion follow
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "down.weight": "lora_down.weight",
    "up.weight": "lora_up.weight",
    "lora_magnitude_vector": "dora_scale",
    "lora_magnitude_vector.weight": "dora_scale",
    "___.layer.lora_down.weight": "lora_down.weight",
    "___.layer.lora_up.weight": "lora_up.weight",
    "___.layer.W_down": "lora_down.weight",
    "___.layer.W_up": "lora_up.weight",
    "___.alpha": "hcp_scale",
    "___.scale": "hcp_scale",
}
HCP_SCALE = "hcp_scale"
"""HCP-Diffusion keeps the finished factor (its alpha / rank), not alpha."""

PEFT_PARTS = ("lora_A", "lora_B", "lora_magnitude_vector")

KIND_SIGNS: Mapping[str, str] = {
    # the first part of a tensor's name -> what the layer is; earlier entries win
    "dora_scale": "DoRA",
    "lora_mid": "LoCon (Tucker)",
    "lora_down": "LoRA",
    "lora_up": "LoRA",
    "hada_w1_a": "LoHa",
    "lokr_w1": "LoKr",
    "lokr_w1_a": "LoKr",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "a1": "GLoRA",
    "on_input": "IA3",
    "lora_embedding_A": "LoRA on an embedding",
    "diff": "full difference",
    "w_norm": "norm",
}

KNOWN_ENDS: tuple[str, ...] = tuple(
    "." + end
    for end in sorted(
        {
            *CANONICAL,
            *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"),
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
            *("oft_blocks", "oft_diag", "rescale", "a1.weight", "a2.weight", "b1.weight", "b2.weight", "on_input"),
            *("diff", "diff_b", "w_norm", "b_norm", "lora_embedding_A", "lora_embedding_B"),
        },
        key=len,
        reverse=True,
    )
)

FOREIGN_SIGNS: Mapping[str, str] = {
    # pieces of names that no SD1, SD2 or SDXL file has
    "double_blocks": "Flux",
    "single_blocks": "Flux",
    "single_transformer_blocks": "Flux",
    "joint_blocks": "SD 3",
    "transformer.transformer_blocks": "SD 3",
    "lora_te3_": "SD 3",
    "lora_prior_": "Stable Cascade",
}


def canonical(rest: str) -> str:
    """A tensor's own name (without the layer prefix) in kohya's spelling; unknown names come back as they are."""
    parts = rest.split(".")
    if parts[0] in PEFT_PARTS and len(parts) == 3:
        rest = f"{parts[0]}.{parts[2]}"  # lora_A.<adapter name>.weight
    return CANONICAL.get(rest, rest)


def split_blindly(key: str) -> tuple[str, str] | None:
    """Prefix and canonical tensor name of a file key when no model is at hand, or None for unknown tensors."""
    for end in KNOWN_ENDS:
        if key.endswith(end):
            return key.removesuffix(end), canonical(end[1:])
    head, _, last = key.rpartition(".")
    head, _, adapter = head.rpartition(".")
    head, _, part = head.rpartition(".")
    if head and part in PEFT_PARTS:
        return head, canonical(f"{part}.{adapter}.{last}")
    return None


def kind_title(tensor_names: Iterable[str]) -> str:
    """What people call a layer with these canonical tensor names."""
    heads = {name.split(".")[0] for name in tensor_names}
    return next((title for sign, title in KIND_SIGNS.items() if sign in heads), "unknown")


def foreign_model(keys: Iterable[str]) -> str | None:
    """The model that a file with these keys is for, if it is none of ours."""
    joined = "\n".join(keys)
    return next((model for sign, model in FOREIGN_SIGNS.items() if sign in joined), None)


def family_of(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> Family | None:
    """The family a network file was made for, from its tensors or else its metadata; None when nothing tells.

    Tensors tell by a second text encoder and by the width of the text that cross-attention reads (768, 1024, 2048).
    Shrunken models have other widths, so that only their metadata can tell.
    """
    return _family_of_tensors(shapes) or _family_of_metadata(metadata)


def _family_of_tensors(shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    families: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
    for key, shape in shapes.items():
        if key.startswith(("lora_te2_", "text_encoder_2.", "clip_bigG.")):
            return "sdxl"
        flat = key.replace(".", "_")
        if ("attn2_to_k" in flat or "attn2_processor_to_k" in flat) and len(shape) > 1 and shape[1] in families:
            found = split_blindly(key)
            if found is not None and found[1] == "lora_down.weight":
                return families[shape[1]]
    return None


def _family_of_metadata(metadata: Mapping[str, str]) -> Family | None:
    version = metadata.get("ss_base_model_version", "") + " " + metadata.get("modelspec.architecture", "")
    if "sdxl" in version or "stable-diffusion-xl" in version:
        return "sdxl"
    if metadata.get("ss_v2") == "True" or "sd_v2" in version or "stable-diffusion-v2" in version:
        return "sd2"
    if "sd_v1" in version or "sd_1" in version or "stable-diffusion-v1" in version:
        return "sd1"
    return None
