"""The network of sd-scripts and LyCORIS: its module and arguments, and what the forms call them."""

from __future__ import annotations

from lora_ext.config_import.kohya_blocks import DOWN, MID, UP, block_alphas, block_ranks, block_rates
from lora_ext.config_import.kohya_optimizer import pairs
from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import OFF, UNSET, Absent, Idle, Refusal, Rule, To, When, apply, is_one_of

_MODULES = ("networks.lora", "lycoris.kohya", "networks.lora_fa")

ALGORITHMS = {
    "": "lora",
    "lora": "lora",
    "locon": "lora",
    "loha": "loha",
    "lokr": "lokr",
    "ia3": "ia3",
    "full": "full",
    "diag-oft": "oft",
    "oft": "oft",
}

TYPES = {
    "standard": "",
    "kohya locon": "",
    "lycoris/locon": "locon",
    "lycoris/loha": "loha",
    "lycoris/lokr": "lokr",
    "lycoris/ia3": "ia3",
    "lycoris/ia³": "ia3",
    "lycoris/diag-oft": "diag-oft",
    "lycoris/native fine-tuning": "full",
}
"""What the kohya_ss form calls them."""

PRESETS = {"full": "usual", "attn-mlp": "attention_ff", "attn-only": "attention"}


def _kind(value: object) -> str:
    word = str(value).strip().lower()
    if word not in ALGORITHMS:
        raise Refusal(f"{value!r} cannot be trained; one of {', '.join(filter(None, ALGORITHMS))} can")
    return ALGORITHMS[word]


def _type(value: object) -> str:
    word = str(value).strip().lower()
    if word not in TYPES:
        raise Refusal(f"{value!r} cannot be trained; one of {', '.join(TYPES)} can")
    return ALGORITHMS[TYPES[word]]


def _preset(value: object) -> str:
    word = str(value).strip().lower()
    if word not in PRESETS:
        raise Refusal(f"the preset {value!r} is not known; see layers, only_layers and skip_layers")
    return PRESETS[word]


ARGUMENTS: dict[str, Rule] = {
    "algo": To("kind", _kind),
    "preset": To("layers", _preset),
    "conv_dim": To("conv_rank"),
    "conv_alpha": To("conv_alpha"),
    "dropout": To("dropout"),
    "rank_dropout": To("rank_dropout"),
    "module_dropout": To("module_dropout"),
    "rank_dropout_scale": Absent("the other ranks are not scaled up"),
    "use_tucker": To("tucker"),
    "use_cp": To("tucker"),
    "use_scalar": Absent("there is no learnt scalar"),
    "dora_wd": To("dora"),
    "wd_on_output": Idle("the axis is the one that hosts read rightly"),
    "rs_lora": To("rslora"),
    "train_norm": To("train_norms"),
    "factor": To("lokr_factor"),
    "decompose_both": To("lokr_decompose_both"),
    "full_matrix": To("lokr_full"),
    "constraint": To("oft_constraint"),
    "rescaled": To("oft_rescale"),
    "train_on_input": To("ia3_side", lambda v: "output" if is_one_of(v, OFF) else "input"),
    "loraplus_lr_ratio": To("loraplus_ratio"),
    "loraplus_unet_lr_ratio": To("loraplus_ratio"),
    "loraplus_text_encoder_lr_ratio": Absent("the ratio is one for all"),
    "conv_block_dims": Absent("convolutions have one rank"),
    "conv_block_alphas": Absent("convolutions have one rank"),
    "bypass_mode": Idle("whichever is quicker is used"),
    "unbalanced_factorization": Absent("LoKr's parts are balanced"),
    "block_size": Absent("see the rank"),
    "unit": Absent("DyLoRA is not trained here"),
}
"""Arguments of the network; the forms have some of them as keys of their own."""

FORM = {
    "LoRA_type": To("kind", _type),
    "LyCORIS_preset": To("layers", _preset),
    "lycoris_algo": To("kind", _kind),
    "conv_dim": To("conv_rank"),
    "conv_alpha": To("conv_alpha"),
    "rank_dropout": To("rank_dropout"),
    "module_dropout": To("module_dropout"),
    "dropout": To("dropout"),
    "factor": To("lokr_factor"),
    "lokr_factor": To("lokr_factor"),
    "decompose_both": To("lokr_decompose_both"),
    "dora_wd": To("dora"),
    "train_norm": To("train_norms"),
    "use_tucker": To("tucker"),
    "use_cp": To("tucker"),
    "use_scalar": ARGUMENTS["use_scalar"],
    "rank_dropout_scale": ARGUMENTS["rank_dropout_scale"],
    "constrain": To("oft_constraint"),
    "rescaled": To("oft_rescale"),
    "train_on_input": When("ia3_side", "input"),
    "bypass_mode": ARGUMENTS["bypass_mode"],
    "conv_block_dims": ARGUMENTS["conv_block_dims"],
    "conv_block_alphas": ARGUMENTS["conv_block_alphas"],
    "unit": Absent("DyLoRA is not trained here", off=(1, "1", "", None, 0)),
    "enable_block_weights": Idle("shows in the weights of the blocks"),
}

BLOCKS = (DOWN, MID, UP, "block_lr_zero_threshold", "block_dims", "block_alphas")
"""Keys and arguments of blocks, which are read together."""

_LYCORIS_ONLY = {"factor", "decompose_both", "constrain", "rescaled", "train_on_input", "use_cp", "use_tucker", "unit"}


def network(values: dict[str, object], out: Import) -> None:
    """Take the keys about the network out of `values` into `out`."""
    if "network_module" in values:
        module = str(values.pop("network_module")).strip()
        if module == "networks.oft":
            out.put("network_module", "kind", "oft")
        elif module in ("", *_MODULES[:2]):
            out.skip("network_module", "shows in its arguments")
        else:
            out.refuse("network_module", f"{module} cannot be trained; {' and '.join(_MODULES[:2])} can")
    form = str(values.get("LoRA_type", "")).strip().lower()
    plain = form in ("standard", "kohya locon")
    for key in [key for key in FORM if key in values]:
        value = values.pop(key)
        if plain and key in _LYCORIS_ONLY:
            out.skip(key, "LyCORIS alone has a use for it")
        elif plain and key in ("conv_dim", "conv_alpha") and form == "standard":
            out.skip(key, "this kind leaves convolutions alone")
        else:
            apply(FORM[key], key, value, out)
    _blocks({key: values.pop(key) for key in BLOCKS if key in values}, "", out)
    for key in ("network_args", "network_args_custom"):
        if key in values:
            _arguments(key, values.pop(key), out)


def _blocks(given: dict[str, object], prefix: str, out: Import) -> None:
    block_rates(given, prefix, out)
    if "block_dims" in given:
        block_ranks(given["block_dims"], f"{prefix}block_dims", out)
    if "block_alphas" in given:
        block_alphas(given["block_alphas"], f"{prefix}block_alphas", out)


def _arguments(key: str, value: object, out: Import) -> None:
    if is_one_of(value, (*UNSET, [])):
        out.skip(key, "not set")
        return
    try:
        found = list(pairs(value))
    except ValueError:
        out.refuse(key, f"its value cannot be read: {value!r}")
        return
    _blocks({name: text for name, text in found if name in BLOCKS}, f"{key}.", out)
    for name, text in found:
        if name in BLOCKS:
            continue
        rule = ARGUMENTS.get(name)
        if rule is None:
            out.refuse(f"{key}.{name}", "nobody told this trainer what it means")
        else:
            apply(rule, f"{key}.{name}", text, out)
    out.skip(key, "each of its arguments is told by itself")
