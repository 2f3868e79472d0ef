"""What files call the tensors of a layer, and what kind of layer that makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CANONICAL: Mapping[str, str] = {
    # kohya and LyCORIS stand for themselves; PEFT, old diffusers and HCP-Diffusion follow
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_B.bias": "lora_up.bias",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "lora.alpha": "alpha",
    "lora_linear_layer.alpha": "alpha",
    "down.weight": "lora_down.weight",
    "up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
    "oft_R.weight": "oft_R",
    "___.layer.lora_down.weight": "lora_down.weight",
    "___.layer.lora_up.weight": "lora_up.weight",
    "___.layer.lora_up.bias": "lora_up.bias",
    "___.layer.W_down": "lora_down.weight",
    "___.layer.W_up": "lora_up.weight",
    "___.layer.bias": "lora_up.bias",
    "___.layer.rank_groups": "rank_groups",
    # HCP-Diffusion keeps the finished factor (its alpha / rank, or its alpha with `alpha_auto_scale` off)
    "___.alpha": "scale",
    "___.scale": "scale",
}

PEFT_PARTS = frozenset(
    {
        *("lora_A", "lora_B", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B"),
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        *("oft_r", "oft_R", "boft_R", "boft_s", "ia3_l"),
    }
)
"""First parts after which PEFT may put the adapter's name: `lora_A.default.weight`, `hada_w1_a.default`."""

KIND_SIGNS: Mapping[str, str] = {
    # the first part of a tensor's name -> what the layer is; earlier entries win
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "bias_indices": "LoRA with a sparse rest",
    "lora_mid": "LoCon (Tucker)",
    "lora_down": "LoRA",
    "lora_up": "LoRA",
    "hada_w1_a": "LoHa",
    "lokr_w1": "LoKr",
    "lokr_w1_a": "LoKr",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "oft_r": "OFT",
    "oft_R": "OFT",
    "boft_R": "BOFT",
    "a1": "GLoRA",
    "on_input": "IA3",
    "ia3_l": "IA3",
    "lora_embedding_A": "LoRA on an embedding",
    "diff": "full difference",
    "diff_b": "full difference",
    "w_norm": "norm",
    "b_norm": "norm",
    # not readable: it counts from a decomposition of W0 that is not in the file, nor is said which (of three) it was
    "lambda_layer": "T-LoRA",
}

KNOWN_ENDS: tuple[str, ...] = tuple(
    "." + end
    for end in sorted(
        {
            *CANONICAL,
            *PEFT_PARTS,
            *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_up.bias", "alpha", "scale", "scalar"),
            *("dora_scale", "bias_indices", "bias_values", "bias_size", "lokr_t1"),
            *("oft_blocks", "oft_diag", "rescale", "on_input", "diff", "diff_b", "w_norm", "b_norm"),
            *("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight", "lambda_layer"),
        },
        key=len,
        reverse=True,
    )
)


def canonical(rest: str) -> str:
    """A tensor's own name (without the layer prefix) in kohya's spelling; unknown names come back as they are."""
    first, *more = rest.split(".")
    if first in PEFT_PARTS and len(more) <= 2:
        rest = ".".join([first, *(part for part in more[-1:] if part in {"weight", "bias"})])
    return CANONICAL.get(rest, rest)


def split_blindly(key: str) -> tuple[str, str] | None:
    """Prefix and canonical tensor name of a file key when no model is at hand, or None for unknown tensors."""
    for end in KNOWN_ENDS:
        if key.endswith(end):
            return key.removesuffix(end), canonical(end[1:])
    parts = key.split(".")
    for count in (2, 3):  # hada_w1_a.<adapter name>, lora_A.<adapter name>.weight
        if len(parts) > count and parts[-count] in PEFT_PARTS:
            return ".".join(parts[:-count]), canonical(".".join(parts[-count:]))
    return None


def grouped(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """File keys by prefix: canonical tensor name -> key. Keys of unknown tensors are left out."""
    groups: dict[str, dict[str, str]] = {}
    for key in keys:
        split = split_blindly(key)
        if split is not None:
            groups.setdefault(split[0], {})[split[1]] = key
    return groups


def kind_title(tensor_names: Iterable[str]) -> str:
    """What people call a layer with these canonical tensor names."""
    heads = {name.split(".")[0] for name in tensor_names}
    return next((title for sign, title in KIND_SIGNS.items() if sign in heads), "unknown")
