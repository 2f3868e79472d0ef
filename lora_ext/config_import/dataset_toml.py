"""sd-scripts' data set files: what is general, what a data set says, what its sub-sets say; the nearest counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_ext.config import DataSetConfig, Value, flat
from lora_ext.config.dataset_lines import as_line
from lora_ext.config_import.kohya import read_kohya
from lora_ext.config_import.outcome import Entry, Import
from lora_ext.config_import.rules import OFF, UNSET, is_one_of

_LEVELS = ("general", "datasets", "subsets")
_RENAMED = {
    "image_dir": "train_data_dir",
    "num_repeats": "dataset_repeats",
    "metadata_file": "in_json",
    "batch_size": "train_batch_size",
    "caption_extention": "caption_extension",
}
_OWN = {"is_reg", "class_tokens", "custom_attributes", "cache_info"}


def is_dataset(raw: Mapping[str, object]) -> bool:
    """Whether this is a data set file."""
    sets = raw.get("datasets")
    return isinstance(sets, list) and any(isinstance(one, dict) and "subsets" in one for one in sets)


def read_dataset(raw: Mapping[str, object], out: Import) -> None:
    """The first sub-set becomes the main data set, the others further ones, regularisation included."""
    general = _table(raw.get("general"))
    for key in raw:
        if key not in _LEVELS:
            out.refuse(key, "data set files have no such part")
    found = [_subset(*merged, out) for merged in _subsets(raw, general)]
    main = next((one for one in found if not one.get("regularisation")), None)
    if main is None:
        out.refuse("datasets", "there is no sub-set with pictures of your own")
        return
    out.settings |= main
    others = [one for one in found if one is not main]
    out.settings["datasets"] = "\n".join(as_line(_line(one, main)) for one in others)
    for one in others:
        if one.get("batch_size", 1) != main.get("batch_size", 1):
            out.refuse("batch_size", f"there is one batch size: {main.get('batch_size', 1)}")


def _subsets(
    raw: Mapping[str, object], general: Mapping[str, object]
) -> Iterator[tuple[dict[str, object], dict[str, str]]]:
    """Each sub-set's values with what it inherits, and the place that each was found at."""
    for i, one in enumerate(_list(raw.get("datasets"))):
        dataset = {key: value for key, value in _table(one).items() if key != "subsets"}
        for j, subset in enumerate(_list(_table(one).get("subsets"))):
            where = {**dict.fromkeys(general, "general."), **dict.fromkeys(dataset, f"datasets.{i}.")}
            where |= dict.fromkeys(_table(subset), f"datasets.{i}.subsets.{j}.")
            yield {**general, **dataset, **_table(subset)}, where


def _subset(values: Mapping[str, object], where: Mapping[str, str], out: Import) -> dict[str, Value]:
    part = Import(out.origin)
    named = {_RENAMED.get(key, key): (value, key) for key, value in values.items() if key not in _OWN}
    part.settings["buckets"] = False  # off unless asked for
    read_kohya({key: value for key, (value, _) in named.items()}, part, form=False, folder=Path())
    if not is_one_of(values.get("class_tokens"), UNSET):
        part.put("class_tokens", "concept", values["class_tokens"])
    elif "class_tokens" in values:
        part.skip("class_tokens", "not set")
    if "is_reg" in values:
        if is_one_of(values["is_reg"], OFF):
            part.skip("is_reg", "switched off")
        else:
            part.put("is_reg", "regularisation", True)
    for key in ("custom_attributes", "cache_info"):
        if key in values:
            part.skip(key, "of no consequence for learning")
    original = {new: old for new, (_, old) in named.items()}

    def placed(entries: list[Entry]) -> list[Entry]:
        keys = [original.get(entry.key, entry.key) for entry in entries]
        return [Entry(where.get(key, "") + key, entry.what) for key, entry in zip(keys, entries, strict=True)]

    out.take(Import("", {}, placed(part.mapped), placed(part.refused), placed(part.meaningless)))
    return part.settings


def _line(found: Mapping[str, Value], main: Mapping[str, Value]) -> dict[str, Value]:
    """What a line has to say: what the sub-set says, and the defaults where the main data set says otherwise."""
    defaults = flat(DataSetConfig())
    said = {"images", *found, *main} & defaults.keys()
    return {name: found.get(name, defaults[name]) for name in defaults if name in said}


def _table(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
