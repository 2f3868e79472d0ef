"""Which trainer a settings file is from, and its settings as ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from lora_ext.config_import.concepts import is_concepts, read_concepts
from lora_ext.config_import.dataset_toml import is_dataset, read_dataset
from lora_ext.config_import.hcp import read_hcp
from lora_ext.config_import.kohya import KNOWN, read_kohya
from lora_ext.config_import.outcome import Import, known
from lora_ext.errors import BadInput, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTENSIONS = (".json", ".toml", ".yaml", ".yml")


def read_foreign(path: Path) -> Import | None:
    """The settings of another trainer's file; None for a file of our own.

    Knows kohya_ss (JSON), sd-scripts (TOML, data sets too), lora-scripts (TOML), HCP-Diffusion (YAML) and the concepts
    of sd_dreambooth_extension (JSON). Raises `BadInput` (field `config`) for what cannot be read.
    """
    extension = path.suffix.lower()
    if extension in (".yaml", ".yml"):
        out = Import("HCP-Diffusion")
        read_hcp(path, out)
        return out
    return read_tree(parse_file(path), extension, path.parent)


def read_tree(raw: object, extension: str, folder: Path) -> Import | None:
    """The same for what is already parsed; `folder`: where files that it names are looked for."""
    if is_concepts(raw) and isinstance(raw, list):
        out = Import("sd_dreambooth_extension's concepts")
        read_concepts(raw, out)
        return out
    if not isinstance(raw, dict):
        return None
    if is_dataset(raw):
        out = Import("sd-scripts' data sets")
        read_dataset(raw, out)
        return out
    flat = _flat(raw)
    if not _is_kohya(raw, flat):
        return None
    out = Import(_origin(flat, extension))
    others = flat.pop("dataset_config", None)
    read_kohya(flat, out, form=extension == ".json", folder=folder)
    if "dataset_config" in raw or others is not None:
        _datasets(others, out, folder)
    return out


def parse_file(path: Path) -> object:
    """A JSON or TOML file. Raises `BadInput` (field `config`)."""
    kind = "TOML" if path.suffix.lower() == ".toml" else "JSON"
    try:
        text = path.read_text(encoding="utf-8-sig")
        found: object = tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except OSError as e:
        raise BadInput(Problem("config", f"{path} cannot be read ({e.strerror})")) from None
    except RecursionError:
        raise BadInput(Problem("config", f"{path} is nested too deeply to be settings")) from None
    except ValueError as e:  # JSONDecodeError, TOMLDecodeError and UnicodeDecodeError are all of this kind
        raise BadInput(Problem("config", f"{path} is not {kind} ({' '.join(str(e).split())})")) from None
    return found


def _datasets(name: object, out: Import, folder: Path) -> None:
    path = Path(str(name)).expanduser()
    path = path if path.is_absolute() else folder / path
    if not str(name or "").strip():
        out.skip("dataset_config", "not set")
        return
    if not path.is_file():
        out.refuse("dataset_config", f"{name} was not found; what it says is missing")
        return
    raw = parse_file(path)
    if isinstance(raw, dict) and is_dataset(raw):
        kept = {key: out.settings[key] for key in ("batch_size",) if key in out.settings}
        read_dataset(raw, out)
        out.settings = {**kept, **out.settings}
        out.put("dataset_config", "datasets", out.settings.get("datasets", ""))
    else:
        out.refuse("dataset_config", f"{name} holds no data sets")


def _flat(raw: Mapping[str, object]) -> dict[str, object]:
    """sd-scripts takes the tables of a file for comments: their keys count as if at the top."""
    found: dict[str, object] = {}
    for key, value in raw.items():
        found |= value if isinstance(value, dict) else {key: value}
    return found


def _is_kohya(raw: Mapping[str, object], flat: Mapping[str, object]) -> bool:
    """Keys that only they have, and none that only we have."""
    ours = set(known())
    sections = {s.section for s in known().values()}
    mine = {key for key in flat if key in ours - KNOWN}
    mine |= {key for key, value in raw.items() if key in sections and isinstance(value, dict) and value.keys() <= ours}
    return bool((set(flat) & KNOWN) - ours) and not mine


def _origin(flat: Mapping[str, object], extension: str) -> str:
    if "model_train_type" in flat:
        return "lora-scripts"
    return "kohya_ss" if extension == ".json" else "sd-scripts"
