"""PEFT keeps alpha outside the tensors: in the file's metadata (diffusers) or in `adapter_config.json` beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from lora_ext.errors import BadInput, Problem

DIFFUSERS_KEY = "lora_adapter_metadata"
PARTS = ("unet", "text_encoder", "text_encoder_2")
CONFIG_LIMIT = 1 << 20


class PeftAlphas:
    """alpha by file prefix and rank, from PEFT's settings; without any, None: the file then means alpha = rank."""

    def __init__(self, configs: Mapping[str, Mapping[str, object]], source: str) -> None:
        self._configs = configs  # by component prefix ("" for all)
        self._source = source

    def alpha(self, prefix: str, rank: int) -> float | None:
        """What kohya would write as alpha for a layer named `prefix`.

        PEFT scales by alpha / rank, or alpha / √rank with `use_rslora`; `alpha_pattern` overrides by module name.
        """
        part = prefix.split(".", maxsplit=1)[0]
        config = self._configs.get(part if part in PARTS else "", self._configs.get(""))
        if config is None or "lora_alpha" not in config:
            return None
        alpha = self._number(config["lora_alpha"])
        patterns = config.get("alpha_pattern")
        if isinstance(patterns, dict):
            for name, value in patterns.items():
                if prefix == name or prefix.endswith("." + name):
                    alpha = self._number(value)
        return alpha * math.sqrt(rank) if config.get("use_rslora") is True else alpha

    def _number(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadInput(Problem(self._source, "lora_alpha is no number", "a number", repr(value)[:50]))
        return float(value)


def peft_alphas(path: Path, metadata: Mapping[str, str]) -> PeftAlphas:
    """Find PEFT's settings for the network file `path`."""
    if DIFFUSERS_KEY in metadata:
        return PeftAlphas(_by_part(_parse(metadata[DIFFUSERS_KEY], os.fspath(path))), os.fspath(path))
    beside = path.with_name("adapter_config.json")
    if path.stem == "adapter_model" and beside.is_file() and beside.stat().st_size <= CONFIG_LIMIT:
        return PeftAlphas({"": _parse(beside.read_text("utf8", "replace"), os.fspath(beside))}, os.fspath(beside))
    return PeftAlphas({}, "")


def _by_part(config: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """diffusers writes `unet.lora_alpha` …; a bare `lora_alpha` is meant for the only part there is."""
    out: dict[str, dict[str, object]] = {}
    for key, value in config.items():
        part, dot, name = key.partition(".")
        if dot and part in PARTS:
            out.setdefault(part, {})[name] = value
        else:
            out.setdefault("", {})[key] = value
    return out


def _parse(text: str, source: str) -> dict[str, object]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise BadInput(Problem(source, "PEFT's settings are no JSON object, so alpha is unknown", "a JSON object"))
    return config
