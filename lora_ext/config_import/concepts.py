"""The concepts of sd_dreambooth_extension: a list of folders, each with its prompts and pictures of its class."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ext.config import DataSetConfig, Value, flat
from lora_ext.config.dataset_lines import as_line
from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import UNSET, Absent, Idle, Rule, To, apply, is_one_of

_CLASS = "pictures of the class must be there before the run; none are made"

KEYS: dict[str, Rule] = {
    "instance_data_dir": To("images"),
    "instance_token": To("concept"),
    "class_token": Idle("shows in the prompt of the class"),
    "num_class_images": Absent(_CLASS),
    "num_class_images_per": Absent(_CLASS),
    "class_negative_prompt": Absent(_CLASS),
    "class_guidance_scale": Idle(_CLASS),
    "class_infer_steps": Idle(_CLASS),
    "save_sample_prompt": To("preview_prompt"),
    "save_sample_negative_prompt": To("preview_negative"),
    "save_sample_template": Absent("the preview's prompt is the one given"),
    "n_save_sample": Absent("one preview is made at a time", off=(1, "1", 0, "", None)),
    "sample_seed": To("preview_seed"),
    "save_guidance_scale": To("preview_cfg"),
    "save_infer_steps": To("preview_steps"),
    "is_valid": Idle("a note of the form"),
}
_OF_RUN = (
    "save_sample_prompt",
    "save_sample_negative_prompt",
    "sample_seed",
    "save_guidance_scale",
    "save_infer_steps",
)


def is_concepts(raw: object) -> bool:
    """Whether this is a list of concepts."""
    return isinstance(raw, list) and bool(raw) and all(isinstance(c, dict) and "instance_data_dir" in c for c in raw)


def read_concepts(raw: list[Mapping[str, object]], out: Import) -> None:
    """The first concept is the main data set; the others, and pictures of classes, are further ones."""
    lines: list[str] = []
    known = flat(DataSetConfig())
    for i, concept in enumerate(raw):
        part = Import(out.origin)
        others = _concept(f"{i}.", concept, part, first=not i)
        out.take(part, settings_too=not i)
        if i:
            lines.append(as_line({key: value for key, value in part.settings.items() if key in known}))
        if others:
            lines.append(as_line(others))
    if lines:
        out.settings["datasets"] = "\n".join(lines)


def _concept(place: str, concept: Mapping[str, object], out: Import, first: bool) -> dict[str, Value]:
    """One concept into `out`; returns the data set of its class, empty without one."""
    values = dict(concept)
    others: dict[str, Value] = {}
    folder, prompt = values.pop("class_data_dir", None), values.pop("class_prompt", None)
    if is_one_of(folder, UNSET):
        for key in [k for k in ("class_data_dir", "class_prompt") if k in concept]:
            out.skip(place + key, "there are no pictures of the class")
    else:
        others = {"images": str(folder), "regularisation": True, **_words(str(prompt or ""))}
        for key in [k for k in ("class_data_dir", "class_prompt") if k in concept]:
            out.put(place + key, "datasets", as_line(others))
    if "instance_prompt" in values:
        prompt = values.pop("instance_prompt")
        if is_one_of(prompt, UNSET):
            out.skip(f"{place}instance_prompt", "not set")
        else:
            out.put(f"{place}instance_prompt", "caption_template", str(prompt))
    for key, value in values.items():
        if key in _OF_RUN and not first:
            out.skip(place + key, "the previews of the first concept are made")
        elif key in KEYS:
            apply(KEYS[key], place + key, value, out)
        else:
            out.refuse(place + key, "nobody told this trainer what it means")
    return others


def _words(prompt: str) -> dict[str, Value]:
    return {"caption_template": prompt} if prompt.strip() else {}
