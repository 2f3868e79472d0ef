"""Our settings as sd-scripts' files: one for the run, one for its data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lora_ext.config import DataSetConfig, Value, flat
from lora_ext.config.dataset_lines import parse_line, toml_value
from lora_ext.config_import.kohya_blocks import as_weights
from lora_ext.config_import.outcome import known

Run = Value | Sequence[Value]
"""A value as TOML has them."""

Write = Callable[[Value], Value | None]
"""Our value to theirs; None when theirs has no such value."""


def _same(value: Value) -> Value | None:
    return value


def _words(table: Mapping[str, str]) -> Write:
    return lambda value: table.get(str(value))


_PRECISIONS = _words({"fp32": "no", "fp16": "fp16", "bf16": "bf16"})
_OPTIMIZERS = _words(
    {
        "adamw": "AdamW",
        "adamw8bit": "AdamW8bit",
        "paged_adamw8bit": "PagedAdamW8bit",
        "adafactor": "AdaFactor",
        "lion": "Lion",
        "prodigy": "Prodigy",
        "adamw_schedulefree": "AdamWScheduleFree",
        "dadapt_adam": "DAdaptAdam",
        "came": "CAME",
    }
)
_SCHEDULES = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial")

RUN: dict[str, tuple[str, Write]] = {
    "checkpoint": ("pretrained_model_name_or_path", _same),
    "output": ("output_name", lambda v: str(v).replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")),
    "rank": ("network_dim", _same),
    "alpha": ("network_alpha", _same),
    "dropout": ("network_dropout", _same),
    "start_from": ("network_weights", _same),
    "clip_skip": ("clip_skip", _same),
    "caption_tokens": ("max_token_length", lambda v: int(v) if v != "75" else None),
    "epochs": ("max_train_epochs", _same),
    "max_steps": ("max_train_steps", _same),
    "learning_rate": ("unet_lr", _same),
    "text_encoder_lr": ("text_encoder_lr", _same),
    "schedule": ("lr_scheduler", lambda v: v if v in _SCHEDULES else None),
    "schedule_cycles": ("lr_scheduler_num_cycles", _same),
    "schedule_power": ("lr_scheduler_power", _same),
    "warmup": ("lr_warmup_steps", _same),
    "optimizer": ("optimizer_type", _OPTIMIZERS),
    "accumulate": ("gradient_accumulation_steps", _same),
    "max_grad_norm": ("max_grad_norm", _same),
    "precision": ("mixed_precision", _PRECISIONS),
    "checkpointing": ("gradient_checkpointing", _same),
    "seed": ("seed", _same),
    "loss_type": ("loss_type", lambda v: "l2" if v == "mse" else v),
    "huber_schedule": ("huber_schedule", _same),
    "huber_c": ("huber_c", _same),
    "huber_scale": ("huber_scale", _same),
    "min_snr_gamma": ("min_snr_gamma", _same),
    "debiased": ("debiased_estimation_loss", _same),
    "scale_v_loss": ("scale_v_pred_loss_like_noise_pred", _same),
    "v_pred_like_loss": ("v_pred_like_loss", _same),
    "masked_loss": ("masked_loss", _same),
    "prior_weight": ("prior_loss_weight", _same),
    "noise_offset": ("noise_offset", _same),
    "noise_offset_random": ("noise_offset_random_strength", _same),
    "adaptive_noise_offset": ("adaptive_noise_scale", _same),
    "pyramid_levels": ("multires_noise_iterations", _same),
    "pyramid_discount": ("multires_noise_discount", _same),
    "input_perturbation": ("ip_noise_gamma", _same),
    "input_perturbation_random": ("ip_noise_gamma_random_strength", _same),
    "zero_terminal_snr": ("zero_terminal_snr", _same),
    "timestep_min": ("min_timestep", _same),
    "timestep_max": ("max_timestep", _same),
    "save_every_steps": ("save_every_n_steps", _same),
    "save_every_epochs": ("save_every_n_epochs", _same),
    "save_precision": ("save_precision", _words({"fp32": "float", "fp16": "fp16", "bf16": "bf16"})),
    "preview_every": ("sample_every_n_steps", _same),
    "preview_every_epochs": ("sample_every_n_epochs", _same),
    "preview_first": ("sample_at_first", _same),
    "decode_threads": ("max_data_loader_n_workers", _same),
    "cache": ("cache_latents_to_disk", lambda v: v == "disk"),
    "tensorboard": ("log_with", lambda v: "tensorboard" if v else None),
    "validation_share": ("validation_split", lambda v: float(v) / 100),
}
"""Settings of the run that sd-scripts has too. Where ours is at its default, theirs is written all the same."""

UNLESS_DEFAULT = {
    "start_from", "dropout", "min_snr_gamma", "noise_offset", "adaptive_noise_offset", "pyramid_levels", "max_steps",
    "input_perturbation", "clip_skip", "save_every_steps", "save_every_epochs", "pyramid_discount", "preview_every",
    "noise_offset_random", "input_perturbation_random", "timestep_min", "timestep_max", "huber_scale",
    "v_pred_like_loss", "preview_every_epochs", "preview_first",
    "validation_share",
}  # fmt: skip
"""Those that sd-scripts takes for switched on when they are there."""

SET: dict[str, tuple[str, Write]] = {
    "images": ("image_dir", _same),
    "repeats": ("num_repeats", _same),
    "concept": ("class_tokens", _same),
    "flip": ("flip_aug", _same),
    "colour_jitter": ("color_aug", bool),
    "crop": ("random_crop", lambda v: {"random": True, "centre": False}.get(str(v))),
    "shuffle_tags": ("shuffle_caption", _same),
    "keep_tokens": ("keep_tokens", _same),
    "keep_separator": ("keep_tokens_separator", _same),
    "joint_separator": ("secondary_separator", _same),
    "tag_separator": ("caption_separator", _same),
    "tag_dropout": ("caption_tag_dropout_rate", _same),
    "caption_dropout": ("caption_dropout_rate", _same),
    "caption_dropout_epochs": ("caption_dropout_every_n_epochs", _same),
    "wildcards": ("enable_wildcard", _same),
    "mask_folder": ("conditioning_data_dir", _same),
    "regularisation": ("is_reg", _same),
    "trigger_words": ("caption_prefix", lambda v: f"{str(v).strip().rstrip(',')}," if str(v).strip() else ""),
    "caption_extension": (
        "caption_extension",
        lambda v: str(v).replace(",", " ").split()[0] if str(v).strip() else None,
    ),
}
"""Settings of a data set, in its one sub-set."""

GROUP: dict[str, tuple[str, Write]] = {
    "resolution": ("resolution", _same),
    "buckets": ("enable_bucket", _same),
    "upscale_limit": ("bucket_no_upscale", lambda v: {0.0: False, 1.0: True}.get(float(v))),
}
"""Settings of a data set, which its sub-sets share."""


@dataclass(frozen=True)
class Export:
    """Two files, and settings (not at their default) that sd-scripts has no words for."""

    run: str
    datasets: str
    left_out: tuple[str, ...]


def to_sd_scripts(values: Mapping[str, Value], dataset_file: str = "dataset.toml") -> Export:
    """Flat settings, as `config.flat` gives them, as `--config_file` and `--dataset_config` of sd-scripts.

    `dataset_file`: how the first names the second.
    """
    left: set[str] = set()
    run: dict[str, Run] = {"dataset_config": dataset_file, "network_module": "networks.lora"}
    for name, (key, write) in RUN.items():
        _put(run, name, key, write, values, left)
    if "learning_rate" in values:
        run["learning_rate"] = values["learning_rate"]
        run["network_train_unet_only"] = not values.get("text_encoder_lr")
    if values.get("max_steps"):
        run.pop("max_train_epochs", None)
    second = float(values.get("text_encoder_2_lr", -1.0))
    if second >= 0:
        run["text_encoder_lr"] = [values.get("text_encoder_lr", 0.0), second]
        run["network_train_unet_only"] = False
    if values.get("warmup_percent"):
        run["lr_warmup_steps"] = float(values["warmup_percent"]) / 100
    _network(run, values, left)
    _arguments(run, values)
    handled = {*RUN, *SET, *GROUP, *_NETWORK, "weight_decay", "optimizer_args", "optimizer_class", "batch_size",
               "regularisation_images", "datasets"}  # fmt: skip
    left |= {name for name, value in values.items() if name not in handled and value != known()[name].default}
    return Export(_toml(run), _datasets(values, left), tuple(sorted(left)))


_LYCORIS = {
    "dora": "dora_wd", "rslora": "rs_lora", "tucker": "use_tucker", "train_norms": "train_norm",
    "lokr_factor": "factor", "lokr_decompose_both": "decompose_both", "lokr_full": "full_matrix",
    "oft_constraint": "constraint", "oft_rescale": "rescaled",
}  # fmt: skip
_NETWORK = {"kind", "conv_rank", "conv_alpha", "rank_dropout", "module_dropout", "loraplus_ratio", "block_lr", "layers",
            "ia3_side", "text_encoder_2_lr", "warmup_percent", *_LYCORIS}  # fmt: skip
_PRESETS = {"attention": "attn-only", "attention_ff": "attn-mlp"}


def _network(run: dict[str, Run], values: Mapping[str, Value], left: set[str]) -> None:
    """Whatever is more than a plain LoRA is LyCORIS's."""
    conv = int(values.get("conv_rank", 0))
    arguments = [f"conv_dim={conv}", f"conv_alpha={values.get('conv_alpha', 1.0)}"] if conv else []
    names = {"rank_dropout": "rank_dropout", "module_dropout": "module_dropout"}
    arguments += [f"{key}={values[name]}" for name, key in names.items() if values.get(name)]
    if values.get("loraplus_ratio", 1.0) != 1.0:
        arguments.append(f"loraplus_lr_ratio={values['loraplus_ratio']}")
    kind = str(values.get("kind", "lora"))
    more = [f"{key}={values[n]}" for n, key in _LYCORIS.items() if n in values and values[n] != known()[n].default]
    layers, side = str(values.get("layers", "usual")), str(values.get("ia3_side", "auto"))
    if layers in _PRESETS:
        more.append(f"preset={_PRESETS[layers]}")
    elif layers != "usual":
        left.add("layers")
    if side != "auto":
        more.append(f"train_on_input={side == 'input'}")
    if kind == "norm":
        left.add("kind")
    elif kind != "lora" or more:
        run["network_module"] = "lycoris.kohya"
        arguments.insert(0, f"algo={ {'lora': 'locon', 'oft': 'diag-oft'}.get(kind, kind) }")
        arguments += more
    weights = as_weights(str(values.get("block_lr", "")))
    if weights and run["network_module"] == "networks.lora":
        arguments += weights
    elif str(values.get("block_lr", "")).strip():
        left.add("block_lr")
    if arguments:
        run["network_args"] = arguments


def _arguments(run: dict[str, Run], values: Mapping[str, Value]) -> None:
    texts = [part.replace("(", "").replace(")", "") for part in _options(str(values.get("optimizer_args", "")))]
    if "weight_decay" in values and not any(text.startswith("weight_decay") for text in texts):
        texts.insert(0, f"weight_decay={values['weight_decay']}")
    if texts:
        run["optimizer_args"] = texts
    if values.get("optimizer") == "custom":
        run["optimizer_type"] = values.get("optimizer_class", "")


def _options(text: str) -> list[str]:
    """`betas=(0.9, 0.99) eps=1e-6` -> ["betas=(0.9,0.99)", "eps=1e-6"]."""
    joined = text.replace(", ", ",").replace(" =", "=").replace("= ", "=").replace(";", " ")
    return [part for part in joined.split() if "=" in part]


def _datasets(values: Mapping[str, Value], left: set[str]) -> str:
    defaults = flat(DataSetConfig())
    main = {name: values.get(name, default) for name, default in defaults.items()}
    sets: list[dict[str, Value]] = [main]
    if values.get("regularisation_images"):
        sets.append({**main, "images": values["regularisation_images"], "regularisation": True, "trigger_words": ""})
    for line in str(values.get("datasets", "")).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            given = {k: v for k, v in parse_line(line).items() if isinstance(v, (bool, int, float, str))}
            sets.append({**main, "concept": "", "mask_folder": "", "caption_file": "", **given})
    parts: list[str] = []
    for one in sets:
        group: dict[str, Run] = {"batch_size": values.get("batch_size", 1)}
        subset: dict[str, Run] = {}
        for table, where in ((GROUP, group), (SET, subset)):
            for name, (key, write) in table.items():
                _put(where, name, key, write, one, left)
        empty = [key for key, value in subset.items() if value == ""]
        for key in empty:
            del subset[key]
        left |= {name for name, value in one.items() if name not in {*SET, *GROUP} and value != defaults[name]}
        parts.append(f"[[datasets]]\n{_toml(group)}\n  [[datasets.subsets]]\n{_toml(subset, indent='  ')}")
    return "\n".join(parts)


def _put(
    target: dict[str, Run], name: str, key: str, write: Write, values: Mapping[str, Value], left: set[str]
) -> None:
    if name not in values:
        return
    value, default = values[name], known()[name].default
    if value == default and name in UNLESS_DEFAULT:
        return
    written = write(value)
    if written is not None:
        target[key] = written
    elif value != default:
        left.add(name)


def _toml(values: Mapping[str, Run], indent: str = "") -> str:
    def shown(value: Run) -> str:
        return f"[{', '.join(map(toml_value, value))}]" if not isinstance(value, Value) else toml_value(value)

    return "".join(f"{indent}{key} = {shown(value)}\n" for key, value in values.items())
