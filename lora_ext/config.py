"""Every setting, declared once.

A setting is a field of a frozen dataclass; its metadata carries label, help, unit, range and choices. Widgets, flags,
the file format, the saved metadata and the docs are made from it. Names are unique over all sections, so a setting can
be given flat: `--set rank=16`, `{"rank": 16}`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lora_ext.errors import BadInput, Problem

Value = bool | int | float | str

MOST_SEED = 2**32 - 1
"""Hosts take no larger one."""

SHOWN = 80  # characters of a wrong value that a message repeats


@dataclass(frozen=True)
class Setting:
    """What a field's metadata says about it."""

    name: str
    section: str
    type: type
    default: Value
    label: str
    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    multiple: int | None
    choices: tuple[str, ...]
    basic: bool
    """Shown at first sight in the tab."""
    needed: bool
    """Has no sensible default: the user must give it."""


def setting(
    default: Value,
    label: str,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    multiple: int | None = None,
    choices: tuple[str, ...] = (),
    basic: bool = False,
    needed: bool = False,
) -> Any:
    """Declare one setting; see `Setting` for the words."""
    facts = {
        "label": label,
        "help": help,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "multiple": multiple,
        "choices": choices,
        "basic": basic,
        "needed": needed,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    images: str = setting(
        "",
        "Picture folder",
        "Folder with your pictures. Sub-folders named like `10_my cat` are seen 10 times each per epoch.",
        basic=True,
        needed=True,
    )
    concept: str = setting(
        "",
        "Concept name",
        "Caption for pictures that have no .txt or .caption file beside them, for example `photo of sks cat`.",
        basic=True,
    )
    resolution: int = setting(
        512,
        "Resolution",
        "Pictures are scaled so that their area is at most its square. 512 for SD 1.x, 768 for SD 2.x, 1024 for SDXL.",
        unit="px",
        minimum=64,
        maximum=4096,
        multiple=64,
        basic=True,
    )
    buckets: bool = setting(
        True,
        "Keep aspect ratios",
        "Sort pictures into buckets of their own shape instead of cutting every one square.",
    )
    repeats: int = setting(
        1,
        "Repeats",
        "How often each picture is seen per epoch; a folder named `N_name` overrides it.",
        minimum=1,
        maximum=10_000,
    )
    flip: bool = setting(
        False,
        "Mirror",
        "Also train on mirrored pictures. Leave off for faces, text and anything with a left and right.",
    )
    batch_size: int = setting(
        1,
        "Batch size",
        "Pictures per step. More is steadier and needs more memory.",
        minimum=1,
        maximum=1024,
        basic=True,
    )


@dataclass(frozen=True)
class NetworkConfig:
    """What the adapter looks like."""

    rank: int = setting(
        32,
        "Rank",
        "Size of the LoRA. 8-32 for a character or object, 32-128 for a style. Larger files can hold more detail.",
        minimum=1,
        maximum=1024,
        basic=True,
    )
    alpha: float = setting(
        16.0,
        "Alpha",
        "The update is scaled by alpha / rank. Half the rank is a good start.",
        minimum=1e-6,
        maximum=4096,
    )
    conv_rank: int = setting(
        0, "Convolution rank", "Rank of the 3x3 convolutions (LoCon); 0 leaves them alone.", minimum=0, maximum=1024
    )
    conv_alpha: float = setting(1.0, "Convolution alpha", "Alpha of the 3x3 convolutions.", minimum=1e-6, maximum=4096)


@dataclass(frozen=True)
class TextConfig:
    """How captions become conditioning."""

    clip_skip: int = setting(
        0,
        "Clip skip",
        "Which layer of the text encoder to use, counted from the end; 0 is the model's own habit. "
        "Models made for anime often want 2. SDXL always uses its own.",
        minimum=0,
        maximum=12,
    )


@dataclass(frozen=True)
class OptimConfig:
    """How it learns."""

    epochs: int = setting(
        10, "Epochs", "How many times every picture is seen (times its repeats).", minimum=1, maximum=100000, basic=True
    )
    max_steps: int = setting(
        0,
        "Steps",
        "Stop after this many steps; 0 means: as many as the epochs take.",
        minimum=0,
        maximum=10_000_000,
        basic=True,
    )
    learning_rate: float = setting(
        1e-4, "Learning rate", "How fast it learns. 1e-4 suits most LoRAs.", minimum=0.0, maximum=10.0, basic=True
    )
    text_encoder_lr: float = setting(
        0.0,
        "Text encoder learning rate",
        "0 leaves the text encoder alone: faster, less memory. 5e-5 helps new words and characters on SD 1.x.",
        minimum=0.0,
        maximum=10.0,
    )
    schedule: str = setting(
        "constant",
        "Learning rate schedule",
        "How the learning rate goes on over the run.",
        choices=("constant", "cosine"),
    )
    warmup: int = setting(0, "Warm-up", "Steps over which the learning rate rises from 0.", unit="steps", minimum=0)
    accumulate: int = setting(
        1,
        "Gradient accumulation",
        "Batches added up before each step: a larger batch without more memory.",
        minimum=1,
        maximum=4096,
    )
    weight_decay: float = setting(0.01, "Weight decay", "Pull of AdamW towards zero.", minimum=0.0, maximum=10.0)
    max_grad_norm: float = setting(
        1.0, "Gradient clipping", "Longest gradient allowed; 0 turns clipping off.", minimum=0.0, maximum=1e6
    )
    precision: str = setting(
        "auto",
        "Precision",
        "Arithmetic of the model while training. auto takes bf16 where the card can, else fp16, and fp32 on a CPU.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )
    checkpointing: bool = setting(
        False, "Gradient checkpointing", "Needs much less memory and about a third more time."
    )
    seed: int = setting(
        0, "Seed", "Same seed, same data, same settings: same LoRA (on the same machine).", minimum=0, maximum=MOST_SEED
    )


@dataclass(frozen=True)
class SaveConfig:
    """What is written, and when."""

    output: str = setting(
        "",
        "Name",
        "Name of the LoRA as you will type it in <lora:name:0.7>. The command line also takes a .safetensors path.",
        basic=True,
        needed=True,
    )
    overwrite: bool = setting(False, "Replace an existing file", "Otherwise a file of that name is an error.")
    save_every_steps: int = setting(0, "Save every N steps", "0: only at the end.", unit="steps", minimum=0)
    save_every_epochs: int = setting(0, "Save every N epochs", "0: only at the end.", unit="epochs", minimum=0)
    save_precision: str = setting(
        "fp16", "File precision", "Precision of the numbers in the file.", choices=("fp16", "bf16", "fp32")
    )


@dataclass(frozen=True)
class PreviewConfig:
    """Pictures rendered while training."""

    preview_prompt: str = setting("", "Preview prompt", "Rendered while training; empty for no previews.", basic=True)
    preview_negative: str = setting("", "Preview negative prompt", "What the preview should not show.")
    preview_every: int = setting(100, "Preview every", "Steps between previews.", unit="steps", minimum=1, basic=True)
    preview_strength: float = setting(
        1.0, "Preview strength", "Strength of the LoRA in previews.", minimum=-10, maximum=10
    )
    preview_seed: int = setting(
        1, "Preview seed", "The same for every preview, so that they compare.", minimum=0, maximum=MOST_SEED
    )
    preview_steps: int = setting(20, "Preview sampling steps", "Sampling steps of a preview.", minimum=1, maximum=150)
    preview_cfg: float = setting(7.0, "Preview CFG scale", "Guidance scale of a preview.", minimum=1.0, maximum=30.0)
    preview_width: int = setting(512, "Preview width", "", unit="px", minimum=64, maximum=2048, multiple=8)
    preview_height: int = setting(512, "Preview height", "", unit="px", minimum=64, maximum=2048, multiple=8)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    text: TextConfig = field(default_factory=TextConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)


@dataclass(frozen=True)
class CheckpointConfig:
    """Which model the standalone host loads."""

    checkpoint: str = setting("", "Checkpoint", "Stable Diffusion checkpoint (.safetensors or .ckpt).", needed=True)
    device: str = setting("auto", "Device", "auto, cpu, cuda, cuda:1 …")
    model_precision: str = setting(
        "auto",
        "Weight precision",
        "Precision the weights are held in. auto: as in the file on a GPU, fp32 on a CPU.",
        choices=("auto", "fp32", "fp16", "bf16"),
    )


@dataclass(frozen=True)
class PictureConfig:
    """One picture from a prompt."""

    prompt: str = setting("", "Prompt", "May hold tags such as <lora:name:0.7>.", needed=True)
    negative: str = setting("", "Negative prompt", "")
    lora_dir: str = setting("", "LoRA folder", "Folder that <lora:name> is looked up in.")
    seed: int = setting(0, "Seed", "Same seed, same picture.", minimum=0, maximum=MOST_SEED)
    steps: int = setting(20, "Sampling steps", "", minimum=1, maximum=1000)
    cfg: float = setting(7.0, "CFG scale", "Guidance scale.", minimum=1.0, maximum=100.0)
    size: str = setting("512x512", "Size", "WIDTHxHEIGHT in pixels, multiples of 8.")
    output: str = setting("", "Output", "PNG to write.", needed=True)
    overwrite: bool = setting(False, "Replace an existing file", "Otherwise a file of that name is an error.")


@dataclass(frozen=True)
class GenerateConfig:
    """`generate` on the command line."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    picture: PictureConfig = field(default_factory=PictureConfig)


@dataclass(frozen=True)
class ServeConfig:
    """The tab on its own."""

    output_dir: str = setting("loras", "LoRA folder", "Folder that trained LoRAs are written to; made when missing.")
    port: int = setting(7861, "Port", "The tab opens at 127.0.0.1 on this port.", minimum=1, maximum=65535)


@dataclass(frozen=True)
class UiConfig:
    """`ui` on the command line."""

    model: CheckpointConfig = field(default_factory=CheckpointConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)


Config = TypeVar("Config")


def settings(config: type[Any]) -> dict[str, Setting]:
    """Every setting of a config class (sections flattened), by name, in declaration order."""
    return {s.name: s for s in _walk(config)}


def read(config: type[Config], values: Mapping[str, object]) -> Config:
    """Build a config from flat values (JSON types or strings). Raises `BadInput` with every problem found."""
    known = settings(config)
    problems = [_unknown(name, known) for name in values if name not in known]
    typed: dict[str, Value] = {}
    for name, s in known.items():
        if name in values:
            try:
                typed[name] = _convert(s, values[name])
            except BadInput as e:
                problems += e.problems
        elif s.needed:
            problems.append(_missing(s))
    if problems:
        raise BadInput(*problems)
    return typing.cast(Config, _assemble(config, typed))


def flat(config: Any) -> dict[str, Value]:
    """The settings of a config object as flat values; `read(type(config), flat(config)) == config`."""
    out: dict[str, Value] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        out.update(flat(value) if dataclasses.is_dataclass(value) else {f.name: value})
    return out


def _walk(config: type[Any], section: str = "") -> Iterator[Setting]:
    hints = typing.get_type_hints(config)
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _walk(hints[f.name], f.name)
        else:
            yield Setting(
                name=f.name, section=section, type=hints[f.name], default=typing.cast(Value, f.default), **f.metadata
            )


def _assemble(config: type[Any], typed: Mapping[str, Value]) -> Any:
    hints = typing.get_type_hints(config)
    parts: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[f.name]):
            parts[f.name] = _assemble(hints[f.name], typed)
        elif f.name in typed:
            parts[f.name] = typed[f.name]
    return config(**parts)


def _unknown(name: str, known: Mapping[str, Setting]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1)
    return Problem(name or "(empty name)", "there is no such setting", fix=f"Did you mean {near[0]}?" if near else "")


def _missing(s: Setting) -> Problem:
    return Problem(s.name, f"{s.label} is needed and was not given", fix=s.help)


def _convert(s: Setting, raw: object) -> Value:
    value = _typed(s, raw)
    if s.needed and isinstance(value, str) and not value.strip():
        raise BadInput(_missing(s))
    if s.choices and value not in s.choices:
        raise BadInput(Problem(s.name, f"{s.label} has no such choice", f"one of {', '.join(s.choices)}", repr(value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(s, value)
    return value


def _typed(s: Setting, raw: object) -> Value:
    text = raw.strip() if isinstance(raw, str) else raw
    try:
        if s.type is bool:
            return _as_bool(text)
        if s.type is int:
            return _as_int(text)
        if s.type is float:
            if isinstance(text, bool) or not isinstance(text, (int, float, str)):
                raise ValueError
            return float(text)
        if isinstance(raw, str):
            return raw.strip() if s.needed else raw
        raise ValueError
    except (ValueError, OverflowError):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise BadInput(Problem(s.name, f"{s.label} cannot be read", kinds[s.type], _shown(raw))) from None


def _as_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError


def _as_int(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError
    if isinstance(raw, str) and raw.lstrip("+-").isdigit():
        return int(raw)
    number = float(raw)
    if number != int(number):
        raise ValueError
    return int(number)


def _check_range(s: Setting, value: float) -> None:
    low = s.minimum if s.minimum is not None else -math.inf
    high = s.maximum if s.maximum is not None else math.inf
    finite = isinstance(value, int) or math.isfinite(value)  # an int may be too large for math.isfinite
    if not finite or not low <= value <= high:
        raise BadInput(
            Problem(s.name, f"{s.label} is out of range", f"{_bounds(s)}{s.unit and ' ' + s.unit}", str(value))
        )
    if s.multiple and value % s.multiple:
        raise BadInput(Problem(s.name, f"{s.label} must be a multiple of {s.multiple}", got=str(value)))


def _bounds(s: Setting) -> str:
    if s.minimum is not None and s.maximum is not None:
        return f"{number(s.minimum)} to {number(s.maximum)}"
    if s.minimum is not None:
        return f"at least {number(s.minimum)}"
    return "a finite number" if s.maximum is None else f"at most {number(s.maximum)}"


def number(value: float) -> str:
    """A bound as a reader writes it: whole numbers with all their digits, others short."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _shown(raw: object) -> str:
    """What was given, cut where it goes on and on."""
    text = repr(raw)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
