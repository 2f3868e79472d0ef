"""Flat settings of sd-scripts, kohya_ss and lora-scripts: keys that belong together first, then the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from lora_ext.config_import.kohya_keys import KEYS
from lora_ext.config_import.kohya_network import BLOCKS, FORM, network
from lora_ext.config_import.kohya_optimizer import optimizer
from lora_ext.config_import.outcome import Import
from lora_ext.config_import.preview_prompts import prompts
from lora_ext.config_import.rules import OFF, UNSET, apply_all, is_one_of

STEP = 64

TOGETHER = frozenset(
    {
        "learning_rate", "unet_lr", "text_encoder_lr", "network_train_unet_only", "network_train_text_encoder_only",
        "max_resolution", "lr_warmup", "lr_warmup_steps", "output_dir", "output_name", "caption_prefix",
        "caption_suffix", "sample_prompts", "use_8bit_adam", "use_lion_optimizer", "optimizer_type", "optimizer",
        "optimizer_args", "optimizer_args_custom", "network_module", "network_args", "network_args_custom",
        "prodigy_d0", "prodigy_d_coef", "dataset_config",
    }
)  # fmt: skip
"""Keys that are read with others, beside those of the tables."""

KNOWN = TOGETHER | KEYS.keys() | FORM.keys() | set(BLOCKS)
"""Every key that files of these trainers may have."""


def read_kohya(raw: Mapping[str, object], out: Import, form: bool, folder: Path) -> None:
    """Every key of a flat file into `out`. `form`: saved by the kohya_ss form, where some keys mean other things.

    `folder`: of the file, for the files it names.
    """
    values = dict(raw)
    _resolution(values, out)
    _rates(values, out)
    _length(values, out, form)
    _warmup(values, out, form)
    _output(values, out)
    _template(values, out)
    _train_type(values, out)
    _buckets(values, out)
    prompts(values, out, folder)
    optimizer(values, out)
    network(values, out)
    _states(values, out)
    _switched_off(values, out, form)
    _defaults(values, out, form)
    apply_all(KEYS, values, out)


def _states(values: dict[str, object], out: Import) -> None:
    """States are written there with every save; here by steps of their own."""
    steps = _number(values.get("save_every_n_steps"))
    if not is_one_of(values.get("save_state"), OFF) and steps >= 1:
        values.pop("save_state")
        out.put("save_state", "state_every", int(steps))


def _switched_off(values: dict[str, object], out: Import, form: bool) -> None:
    """Numbers that switch something off by being 0, though 0 is no such number here."""
    stop = "stop_text_encoder_training"
    if form and not is_one_of(values.get(stop), OFF):
        values.pop(stop)
        out.refuse(stop, "the form counts in percent; give text_encoder_stop in steps")
    for key in (stop, "clip_skip", "lr_scheduler_num_cycles", "epoch"):
        if key in values and is_one_of(values[key], (0, "0")):
            values.pop(key)
            out.skip(key, "switched off")


def _defaults(values: Mapping[str, object], out: Import, form: bool) -> None:
    """Where sd-scripts has another default than we do, and the file relies on it."""
    if is_one_of(values.get("lr_scheduler"), ("polynomial",)) and is_one_of(values.get("lr_scheduler_power"), UNSET):
        out.assume("schedule_power", 1.0)
    if form:
        return  # the form saves every key
    if "train_data_dir" in values and "enable_bucket" not in values:
        out.assume("buckets", False)
    if "network_dim" in values and "network_alpha" not in values:
        out.assume("alpha", 1.0)


def edge(value: object) -> int:
    """The side of the square that `512`, `"512,768"` or `[512, 768]` has the area of. Raises `ValueError`."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    sides = [int(float(str(part))) for part in parts]
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(value)
    if sides[0] == sides[-1]:
        return sides[0]
    return math.isqrt(sides[0] * sides[-1]) // STEP * STEP


def _resolution(values: dict[str, object], out: Import) -> None:
    """`resolution` and the form's `max_resolution`: an area, as here."""
    for key in ("resolution", "max_resolution"):
        if key not in values:
            continue
        value = values.pop(key)
        if is_one_of(value, UNSET):
            out.skip(key, "not set")
            continue
        try:
            out.put(key, "resolution", edge(value))
        except ValueError:
            out.refuse(key, f"its value cannot be read: {value!r}")


def _rates(values: dict[str, object], out: Import) -> None:
    """sd-scripts: a rate that is not given is `learning_rate`; each part can be left out."""
    general = values.pop("learning_rate", None)
    unet, text = values.pop("unet_lr", None), values.pop("text_encoder_lr", None)
    only_text = not is_one_of(values.get("network_train_text_encoder_only"), OFF)
    rests = only_text or (unet is not None and _number(unet) == 0)
    if is_one_of(unet, UNSET):
        if unet is not None:
            out.skip("unet_lr", "not set")
        if general is not None:
            out.put("learning_rate", "learning_rate", 0.0 if rests else general)
    else:
        out.put("unet_lr", "learning_rate", 0.0 if rests else unet)
        if general is not None:
            out.skip("learning_rate", "each part has a rate of its own in this file")
    if is_one_of(values.get("network_train_unet_only"), OFF):
        _text_rate(text, general, out)
    elif text is not None:
        out.skip("text_encoder_lr", "the text encoder does not learn")
    only = {"network_train_unet_only": "text_encoder_lr", "network_train_text_encoder_only": "learning_rate"}
    for key in [key for key in only if key in values]:
        if is_one_of(values.pop(key), OFF):
            out.skip(key, "switched off")
        else:
            out.put(key, only[key], 0.0)


def _text_rate(text: object, general: object, out: Import) -> None:
    """One rate, or one for each of SDXL's text encoders."""
    rates = text if isinstance(text, list) and text else [text]
    if not is_one_of(rates[0], UNSET):
        out.put("text_encoder_lr", "text_encoder_lr", rates[0])
        if len(rates) > 1 and rates[1] != rates[0]:
            out.put("text_encoder_lr.1", "text_encoder_2_lr", rates[1])
        return
    if text is not None:
        out.skip("text_encoder_lr", "not set")
    if not is_one_of(general, UNSET) and math.isfinite(_number(general)):
        out.assume("text_encoder_lr", _number(general))


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _length(values: dict[str, object], out: Import, form: bool) -> None:
    """The form's `epoch` is what counts unless `max_train_epochs` is given; steps end a run only without epochs."""
    epochs = values.get("max_train_epochs")
    if not is_one_of(epochs, (*UNSET, 0, "0")):
        for key in ("epoch", "max_train_steps"):
            if key in values:
                values.pop(key)
                out.skip(key, "max_train_epochs is given and counts")
    elif "max_train_epochs" in values:
        values.pop("max_train_epochs")
        out.skip("max_train_epochs", "not set")
    if form and is_one_of(values.get("max_train_steps", ""), OFF) and "max_train_steps" in values:
        values.pop("max_train_steps")
        out.skip("max_train_steps", "not set")


def _warmup(values: dict[str, object], out: Import, form: bool) -> None:
    """Steps, or a share: the form's `lr_warmup` in percent, `lr_warmup_steps` below 1 as a part of the whole."""
    for key in ("lr_warmup", "lr_warmup_steps"):
        if key not in values:
            continue
        value = values.pop(key)
        number = _number(value)
        if is_one_of(value, UNSET):
            out.skip(key, "not set")
        elif key == "lr_warmup" and form:
            out.put(key, "warmup_percent", value)
        elif 0 < number < 1:
            out.put(key, "warmup_percent", number * 100)
        else:
            out.put(key, "warmup", value)


def _output(values: dict[str, object], out: Import) -> None:
    """A folder and a name make a path."""
    folder, name = values.pop("output_dir", None), values.pop("output_name", None)
    given = [key for key, value in (("output_dir", folder), ("output_name", name)) if value is not None]
    if is_one_of(name, UNSET):
        for key in given:
            out.skip(key, "there is no name to save under")
        return
    stem = str(name).strip().removesuffix(".safetensors")
    path = stem if is_one_of(folder, UNSET) else f"{str(folder).strip().rstrip('/')}/{stem}.safetensors"
    for key in given:
        if key == "output_dir" and is_one_of(folder, UNSET):
            out.skip(key, "not set")
        else:
            out.put(key, "output", path)


def _template(values: dict[str, object], out: Import) -> None:
    """What stands before and after each caption is a template."""
    front, end = values.pop("caption_prefix", None), values.pop("caption_suffix", None)
    parts = [str(p).strip() for p in (front, "[filewords]", end) if not is_one_of(p, UNSET)]
    for key, value in (("caption_prefix", front), ("caption_suffix", end)):
        if value is None:
            continue
        if is_one_of(value, UNSET):
            out.skip(key, "not set")
        else:
            out.put(key, "caption_template", " ".join(parts))


def _train_type(values: dict[str, object], out: Import) -> None:
    """lora-scripts names the kind of model; only those of this trainer will do."""
    kind = values.get("model_train_type")
    if kind is not None and not is_one_of(kind, ("", "sd-lora", "sdxl-lora", "sd-dreambooth-lora")):
        values.pop("model_train_type")
        out.refuse("model_train_type", f"LoRAs for SD 1.x, 2.x and SDXL are trained here, not {kind}")


def _buckets(values: dict[str, object], out: Import) -> None:
    """Sizes of buckets mean nothing when there are none, or when they are within those that there are here."""
    if not is_one_of(values.get("enable_bucket", True), OFF):
        side = int(out.settings.get("resolution", 0))
        wide = {
            "min_bucket_reso": _number(values.get("min_bucket_reso")) <= side / 2,
            "max_bucket_reso": _number(values.get("max_bucket_reso")) >= side * 2,
        }
        for key in [key for key, within in wide.items() if within and side]:
            if key in values:
                values.pop(key)
                out.skip(key, "buckets reach from half to twice the resolution, which is within")
        return
    for key in ("bucket_no_upscale", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps"):
        if key in values:
            values.pop(key)
            out.skip(key, "there are no buckets")
