"""How a LoRA was trained, in words, from the metadata that trainers write (kohya's `ss_*`, Stability's `modelspec.*`).

All of it is a stranger's text: whatever cannot be understood is left out, nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

Metadata = Mapping[str, str]
Object = Mapping[str, object]

LONGEST = 300  # characters of a value shown
SENTENCE = 16  # average length from which tags are taken for sentences, as A1111 does it

MODULES: Mapping[str, str] = {
    "networks.lora": "LoRA (kohya)",
    "networks.dylora": "DyLoRA (kohya)",
    "networks.lora_fa": "LoRA-FA (kohya)",
    "networks.oft": "OFT (kohya)",
    "lycoris.kohya": "LyCORIS",
    "lycoris.locon": "LoCon",
}
ALGORITHMS: Mapping[str, str] = {
    "lora": "LoRA", "locon": "LoCon", "loha": "LoHa", "lokr": "LoKr", "ia3": "IA3", "dylora": "DyLoRA",
    "full": "full difference", "glora": "GLoRA", "diag-oft": "OFT", "boft": "BOFT",
}  # fmt: skip


def settings_in_words(metadata: Metadata) -> list[tuple[str, str]]:
    """Label and value of what is known, in the order people ask for it."""
    rows: list[tuple[str, str]] = []
    for label, read in ROWS:
        text = read(metadata)
        if text:
            rows.append((label, text if len(text) <= LONGEST else text[:LONGEST] + "…"))
    return rows


def tag_counts(metadata: Metadata, most: int | None = None) -> list[tuple[str, int]]:
    """Caption tags of the training by how often they came; captions of whole sentences are counted by words."""
    folders = [tags for tags in _object(metadata, "ss_tag_frequency").values() if isinstance(tags, dict)]
    counts = _one_folder(folders[0]) if len(folders) == 1 else {}
    for tags in folders if not counts else ():
        for tag, count in tags.items():
            name = tag.strip()
            counts[name] = counts.get(name, 0) + _whole(count)
    counts.pop("", None)
    if counts and len("".join(counts)) >= SENTENCE * len(counts):
        counts = _by_words(counts)
    ranked = sorted(counts, key=counts.__getitem__, reverse=True)[:most]
    return [(tag, counts[tag]) for tag in ranked if counts[tag] > 0]


def _one_folder(tags: dict[str, int]) -> dict[str, int]:
    """The usual case at once, for ten thousand files in a row: whole counts of tags without space around them.

    Nothing when it is another case. What is printable has no space but the usual one.
    """
    joined = f"|{'|'.join(tags)}|"
    spaced = "| " in joined or " |" in joined or not joined.isprintable()
    return {} if spaced or set(map(type, tags.values())) != {int} else tags


def _by_words(counts: Mapping[str, int]) -> dict[str, int]:
    words: Counter[str] = Counter()
    for text, count in counts.items():
        words.update({word: count for word in re.findall(r"[-_\w']{3,}", text)})
    return words


def triggers(metadata: Metadata, most: int = 5) -> list[str]:
    """Words that were in (nearly) every caption: those call up what was trained."""
    said = metadata.get("modelspec.trigger_phrase", "").strip()
    tags = tag_counts(metadata)
    often = [tag for tag, count in tags if count >= 0.9 * tags[0][1]][:most]
    return [said, *(tag for tag in often if tag != said)] if said else often


def _object(metadata: Metadata, key: str) -> Object:
    """A value that is JSON of an object; empty when it is none."""
    try:
        value = json.loads(metadata.get(key, "") or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(value: object) -> int:
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return 0


def _number(metadata: Metadata, *keys: str) -> str:
    """The first of these that is a number other than 0, in short form."""
    for key in keys:
        try:
            value = float(metadata.get(key, ""))
        except ValueError:
            continue
        if value and math.isfinite(value):
            return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"
    return ""


def _text(metadata: Metadata, *keys: str) -> str:
    said = (metadata.get(key, "").strip() for key in keys)
    return next((text for text in said if text not in ("", "None", "null")), "")


def _kind(metadata: Metadata) -> str:
    module = _text(metadata, "ss_network_module")
    arguments = _object(metadata, "ss_network_args")
    algorithm = str(arguments.get("algo", "")).lower()
    title = ALGORITHMS.get(algorithm, algorithm) or MODULES.get(module, module)
    if module == "networks.lora" and arguments.get("conv_dim"):
        title = "LoCon (kohya)"
    decomposed = str(arguments.get("dora_wd", arguments.get("weight_decompose", ""))).lower() == "true"
    return title + (" with DoRA" if decomposed and title else "")


def _rank(metadata: Metadata) -> str:
    rank, alpha = _number(metadata, "ss_network_dim"), _number(metadata, "ss_network_alpha")
    arguments = {str(k): str(v) for k, v in _object(metadata, "ss_network_args").items()}
    conv, conv_alpha = _number(arguments, "conv_dim"), _number(arguments, "conv_alpha")
    text = rank + (f", alpha {alpha}" if rank and alpha else "")
    if conv and text:
        text += f"; 3x3 convolutions {conv}" + (f", alpha {conv_alpha}" if conv_alpha else "")
    return text


def _base(metadata: Metadata) -> str:
    name = _text(metadata, "ss_sd_model_name")
    digest = _text(metadata, "ss_new_sd_model_hash", "ss_sd_model_hash")
    return f"{name} ({digest[:10]})" if name and digest else name or digest[:10]


def _rates(metadata: Metadata) -> str:
    unet = _number(metadata, "ss_unet_lr", "ss_learning_rate")
    text = _number(metadata, "ss_text_encoder_lr")
    return ", ".join(f"{rate} {part}" for rate, part in ((unet, "UNet"), (text, "text encoder")) if rate)


def _optimizer(metadata: Metadata) -> str:
    given = _text(metadata, "ss_optimizer")
    name, _, arguments = given.partition("(")
    name = name.rsplit(".", 1)[-1]
    return f"{name} ({arguments.rstrip(')')})" if arguments.rstrip(")") else name


def _schedule(metadata: Metadata) -> str:
    name, warmup = _text(metadata, "ss_lr_scheduler"), _number(metadata, "ss_lr_warmup_steps")
    return name.replace("_", " ") + (f", {warmup} steps of warm-up" if name and warmup else "")


def _length(metadata: Metadata) -> str:
    steps, epochs = _number(metadata, "ss_steps", "ss_max_train_steps"), _number(metadata, "ss_num_epochs")
    batch = _number(metadata, "ss_total_batch_size", "ss_batch_size_per_device")
    parts = [f"{steps} steps" if steps else "", f"{epochs} epochs" if epochs else ""]
    parts.append(f"batches of {batch}" if batch else "")
    return ", ".join(filter(None, parts))


def _pictures(metadata: Metadata) -> str:
    folders = [f for f in _object(metadata, "ss_dataset_dirs").values() if isinstance(f, Mapping)]
    count = sum(_whole(f.get("img_count", 0)) for f in folders)
    if not count:
        return _number(metadata, "ss_num_train_images")
    repeats = sorted({_whole(f.get("n_repeats", 1)) for f in folders})
    each = "-".join(str(n) for n in (repeats[0], repeats[-1])[: len(repeats)])
    return f"{count}" + (f", each {each} times per epoch" if repeats != [1] else "")


def _sizes(metadata: Metadata) -> str:
    buckets = _object(metadata, "ss_bucket_info").get("buckets")
    counts: Counter[str] = Counter()
    for bucket in buckets.values() if isinstance(buckets, Mapping) else ():
        size = bucket.get("resolution") if isinstance(bucket, Mapping) else None
        if isinstance(size, list) and len(size) == 2:
            counts[f"{_whole(size[0])}x{_whole(size[1])}"] += _whole(bucket.get("count", 1))
    shown = [size for size, _ in counts.most_common(4)]
    text = ", ".join(shown) + (" and others" if len(counts) > 4 else "")
    plain = re.findall(r"\d+", _text(metadata, "ss_resolution", "modelspec.resolution"))
    return text or "x".join(plain[:2])


def _extras(metadata: Metadata) -> str:
    named: Mapping[str, str] = {
        "ss_noise_offset": "noise offset {}",
        "ss_multires_noise_discount": "pyramid noise {}",
        "ss_min_snr_gamma": "min-SNR gamma {}",
        "ss_prior_loss_weight": "prior loss weight {}",
        "ss_caption_dropout_rate": "caption dropout {}",
        "ss_network_dropout": "dropout {}",
        "ss_max_grad_norm": "gradient clipping {}",
    }
    found = ((text, _number(metadata, key)) for key, text in named.items())
    usual = ("ss_prior_loss_weight", "ss_max_grad_norm")
    left_out = {named[key].format("1") for key in usual}
    parts = [text.format(number) for text, number in found if number]
    return ", ".join(part for part in parts if part not in left_out)


def _when(metadata: Metadata) -> str:
    begin, end = _seconds(metadata, "ss_training_started_at"), _seconds(metadata, "ss_training_finished_at")
    if begin is None:
        return _text(metadata, "modelspec.date")[:10]
    text = datetime.fromtimestamp(begin, timezone.utc).strftime("%Y-%m-%d")
    minutes = (end - begin) / 60 if end is not None else 0.0
    return text + (f", in {_duration(minutes)}" if 0 < minutes < 1e6 else "")


def _seconds(metadata: Metadata, key: str) -> float | None:
    try:
        value = float(metadata.get(key, ""))
    except ValueError:
        return None
    return value if 0 < value < 4e9 else None


def _duration(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def _yes(key: str) -> Callable[[Metadata], str]:
    return lambda metadata: "yes" if metadata.get(key, "").lower() == "true" else ""


ROWS: tuple[tuple[str, Callable[[Metadata], str]], ...] = (
    ("Title", lambda m: _text(m, "modelspec.title", "ss_output_name")),
    ("Author", lambda m: _text(m, "modelspec.author")),
    ("About it", lambda m: _text(m, "modelspec.description", "ss_training_comment")),
    ("Licence", lambda m: _text(m, "modelspec.license")),
    ("Kind", _kind),
    ("Rank", _rank),
    ("Base model", _base),
    ("Pictures", _pictures),
    ("Picture sizes", _sizes),
    ("Length", _length),
    ("Learning rate", _rates),
    ("Optimizer", _optimizer),
    ("Schedule", _schedule),
    ("Clip skip", lambda m: _number(m, "ss_clip_skip")),
    ("V-prediction", _yes("ss_v_parameterization")),
    ("Also", _extras),
    ("Precision", lambda m: _text(m, "ss_mixed_precision").replace("no", "fp32")),
    ("Seed", lambda m: _text(m, "ss_seed")),
    ("Trained", _when),
)
"""Every row of the table: label, and how its value is found."""
