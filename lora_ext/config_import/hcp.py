"""HCP-Diffusion's settings: a tree, whose leaves go where the table says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_ext.config import DataSetConfig, Value, flat
from lora_ext.config.dataset_lines import as_line
from lora_ext.config_import.hcp_layers import lora_items
from lora_ext.config_import.hcp_yaml import load
from lora_ext.config_import.kohya import edge
from lora_ext.config_import.kohya_keys import PRECISIONS, SCHEDULES, checkpoint, chosen, one_of, threads
from lora_ext.config_import.kohya_optimizer import NAMES
from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import OFF, UNSET, Absent, Idle, Refusal, Rule, To, When, apply, is_one_of

_SPEED = "chosen by the trainer itself"
_PARTS = "parts of the run are built in"


def _optimizer(value: object) -> str:
    word = str(value).strip().rpartition(".")[2].lower()
    if word not in NAMES:
        raise Refusal(f"{value} is not built in; give its dotted name as optimizer_class")
    return NAMES[word]


def _criterion(value: object) -> str:
    word = str(value).strip().rpartition(".")[2].lower()
    return chosen(
        {"mseloss": "mse", "mse": "mse", "l1loss": "l1", "huberloss": "huber", "smoothl1loss": "smooth_l1"}, word
    )


def _area(value: object) -> int:
    return edge([1, int(float(str(value)))])


def _clip_skip(value: object) -> int:
    return int(float(str(value))) + 1  # 0 is the last layer there, 1 is it here


def _tokens(value: object) -> str:
    return str(75 * int(float(str(value))))


RUN: dict[str, Rule] = {
    "mixed_precision": one_of(PRECISIONS, "precision"),
    "seed": To("seed"),
    "allow_tf32": Idle(_SPEED),
    "exp_dir": Idle("where the LoRA goes is said by its name"),
    "logger": Idle("logs are shown in the tab"),
    "ckpt_type": Idle("files are always .safetensors"),
    "previewer": Absent("see preview_prompt"),
    "evaluator": Absent("see preview_prompt"),
    "tokenizer_pt.train": Absent("words of their own are not trained"),
    "tokenizer_pt.emb_dir": Idle("words of their own are not trained"),
    "tokenizer_pt.replace": Idle("words of their own are not trained"),
    "tokenizer_pt.lr": Idle("words of their own are not trained"),
    "unet": Absent("the UNet itself is not trained"),
    "text_encoder": Absent("the text encoder itself is not trained"),
    "plugin_unet": Absent("there are no plug-ins"),
    "plugin_TE": Absent("there are no plug-ins"),
    "train.train_epochs": To("epochs"),
    "train.train_steps": To("max_steps"),
    "train.gradient_accumulation_steps": To("accumulate"),
    "train.workers": To("decode_threads", threads),
    "train.max_grad_norm": To("max_grad_norm"),
    "train.set_grads_to_none": Idle(_SPEED),
    "train.save_step": To("save_every_steps"),
    "train.cfg_scale": Absent("DreamArtist is not trained here", off=("1.0", 1.0, 1, "1", "", None)),
    "train.resume": Absent("states of other trainers cannot be read"),
    "train.scale_lr": Absent("rates are taken as given"),
    "train.loss.criterion": To("loss_type", _criterion),
    "train.loss.criterion._target_": To("loss_type", _criterion),
    "train.loss.criterion.gamma": To("min_snr_gamma"),
    "train.loss.type": Absent("models are asked for what they were made with", off=("eps", "", None)),
    "train.optimizer.type": To("optimizer", _optimizer),
    "train.optimizer._target_": To("optimizer", _optimizer),
    "train.optimizer._partial_": Idle(_PARTS),
    "train.optimizer.weight_decay": To("weight_decay"),
    "train.optimizer_pt": Absent("words of their own are not trained"),
    "train.scale_lr_pt": Absent("words of their own are not trained"),
    "train.scheduler": Absent("the rate stays as it is"),
    "train.scheduler.name": one_of(SCHEDULES, "schedule"),
    "train.scheduler.num_warmup_steps": To("warmup"),
    "train.scheduler.num_training_steps": Idle("schedules fall until the end of the run"),
    "train.scheduler.scheduler_kwargs.num_cycles": To("schedule_cycles"),
    "model.pretrained_model_name_or_path": To("checkpoint", checkpoint),
    "model.tokenizer_repeats": To("caption_tokens", _tokens),
    "model.enable_xformers": Idle(_SPEED),
    "model.gradient_checkpointing": To("checkpointing"),
    "model.clip_skip": To("clip_skip", _clip_skip),
    "model.clip_final_norm": Idle("as the model was made with"),
    "model.ema": Absent("see ema_decay"),
    "model.ema_unet": To("ema_decay"),
    "model.ema_text_encoder": Idle("the average is one for all"),
    "model.revision": Idle("a checkpoint file has no revisions"),
}
"""Keys outside of `data` and the lists of layers."""

DATA: dict[str, Rule] = {
    "_target_": Idle(_PARTS),
    "_partial_": Idle(_PARTS),
    "batch_size": To("batch_size"),
    "cache_latents": Idle("latents are always prepared beforehand"),
    "cache_path": When("cache", "disk"),
    "att_mask_encode": Absent("masks weigh the loss, not the attention"),
    "loss_weight": To("picture_weight"),
    "bucket._target_": Idle(_PARTS),
    "bucket._partial_": Idle(_PARTS),
    "bucket.target_area": To("resolution", _area),
    "bucket.target_size": To("resolution", edge),
    "bucket.num_bucket": Idle("pictures sort into as many buckets as there are shapes"),
    "bucket.step_size": Absent("buckets go in steps of 64 px", off=(64, "64", "", None)),
    "source.img_root": To("images"),
    "source.repeat": To("repeats"),
    "source.caption_file": To("caption_file"),
    "source.prompt_template": To("caption_template"),
    "source.bg_color": Absent("transparent parts become white", off=([255, 255, 255], "", None)),
    "source.att_mask": To("mask_folder"),
    "source._target_": Idle(_PARTS),
    "source.image_transforms": Absent("see crop, flip and colour_jitter"),
    "source.tag_transforms": Absent("see shuffle_tags, tag_dropout and caption_dropout"),
    "source.text_transforms": Absent("see shuffle_tags, tag_dropout and caption_dropout"),
}
"""Keys of one data set; `source.` stands for each of its sources."""


def read_hcp(path: Path, out: Import) -> None:
    """Every leaf of a file, and of those it builds on, into `out`. Raises `BadInput`."""
    tree = load(path, out)
    for part in ("lora_unet", "lora_text_encoder"):
        tree.setdefault(part, None)
    lora_items(tree.pop("lora_unet"), tree.pop("lora_text_encoder"), out)
    sets = tree.pop("data", None)
    for key, value in _leaves(tree, RUN):
        if key in ("unet_lr", "text_encoder_lr"):
            _variable(key, value, out)
        elif key in RUN:
            apply(RUN[key], key, value, out)
        elif is_one_of(value, UNSET):
            out.skip(key, "not set")
        else:
            out.refuse(key, "nobody told this trainer what it means")
    _data(sets if isinstance(sets, dict) else {}, out, path.parent)


def _variable(key: str, value: object, out: Import) -> None:
    """A rate for the file that this one builds on; without that file it is the rate itself."""
    name = "learning_rate" if key == "unet_lr" else key
    if name in out.settings:
        out.skip(key, "used in other values")
    else:
        apply(To(name), key, value, out)


def _leaves(tree: Mapping[str, object], table: Mapping[str, Rule], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys with their values; a table is a leaf where the rules know it but nothing in it."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        inside = any(known.startswith(f"{key}.") for known in table)
        if isinstance(value, dict) and value and (inside or key not in table):
            yield from _leaves(value, table, f"{key}.")
        else:
            yield key, value


def _data(sets: Mapping[str, object], out: Import, folder: Path) -> None:
    """Each source of each data set is a data set here; the first is the main one."""
    main: dict[str, Value] = {}
    lines: list[str] = []
    for name, one in sets.items():
        if not isinstance(one, dict):
            out.skip(f"data.{name}", "not set")
            continue
        rest = {key: value for key, value in one.items() if key != "source"}
        sources = one.get("source")
        for source, values in (sources if isinstance(sources, dict) else {}).items():
            part = Import(out.origin)
            if not lines and not main:
                part.settings |= {"buckets": "bucket" in one}
            for key, value in _leaves(rest, DATA):
                _leaf(f"data.{name}.{key}", key, value, part)
            _source(f"data.{name}.source.{source}", values if isinstance(values, dict) else {}, part, folder)
            out.take(part)
            if main:
                known = flat(DataSetConfig())
                lines.append(as_line({key: value for key, value in part.settings.items() if key in known}))
            else:
                main = part.settings
    out.settings |= main
    if lines:
        out.settings["datasets"] = "\n".join(lines)


def _source(place: str, values: dict[str, object], part: Import, folder: Path) -> None:
    words = values.pop("word_names", None)
    named = {str(k): str(v) for k, v in words.items() if v} if isinstance(words, dict) else {}
    for key, value in values.items():
        if key == "caption_file" and not str(value).lower().endswith((".json", ".jsonl", ".csv")):
            part.skip(f"{place}.{key}", "captions are found beside the pictures")
        elif key == "prompt_template" and not is_one_of(value, OFF):
            _template(f"{place}.{key}", str(value), named, part, folder)
        else:
            _leaf(f"{place}.{key}", f"source.{key}", value, part)
    if words is not None:
        if named and "caption_template" not in part.settings:
            part.put(f"{place}.word_names", "trigger_words", next(iter(named.values())))
        else:
            part.skip(f"{place}.word_names", "filled into the template" if named else "not set")


def _template(place: str, name: str, named: Mapping[str, str], part: Import, folder: Path) -> None:
    """A file of prompts with places for the caption and for words."""
    found = next((p for up in (folder, *folder.parents) if (p := up / name).is_file()), None)
    if found is None:
        part.refuse(place, f"{name} was not found; give its text as caption_template")
        return
    text = found.read_text(encoding="utf8", errors="replace").replace("{caption}", "[filewords]")
    for mark, word in named.items():
        text = text.replace("{" + mark + "}", word)
    part.put(place, "caption_template", text.strip())


def _leaf(place: str, key: str, value: object, part: Import) -> None:
    rule = DATA.get(key)
    if rule is None and is_one_of(value, UNSET):
        part.skip(place, "not set")
    elif rule is None:
        part.refuse(place, "nobody told this trainer what it means")
    else:
        apply(rule, place, value, part)
