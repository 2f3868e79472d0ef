"""PEFT keeps its settings outside the tensors: in metadata (diffusers) or in `adapter_config.json` beside the file."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from lora_ext.errors import BadInput, Problem

DIFFUSERS_KEY = "lora_adapter_metadata"
PARTS = ("unet", "text_encoder", "text_encoder_2")
CONFIG, CONFIG_LIMIT = "adapter_config.json", 1 << 20
ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")
PATTERN_LIMIT, PATTERNS_LIMIT, REPEATS_LIMIT = 200, 100, 2
"""Characters of a regular expression, expressions in a file, and repetitions (`*`, `+`, `{`) in one: none can take long
over a name then."""
DEFAULT_TERMS = 5
SCALED_LOKR = "rank_dropout_scale"
"""A setting that came with the PEFT release (0.14) in which LoKr began to use alpha; files of older ones ignore it."""


class PeftSettings:
    """What PEFT's settings say about a layer, by its file prefix. Without settings everything is None."""

    def __init__(self, configs: Mapping[str, Mapping[str, object]], source: str) -> None:
        self._configs = configs  # by component prefix ("" for all)
        self._source = source
        self._patterns: dict[tuple[str, str], Patterns] = {}

    def scale(self, prefix: str, kind: str, rank: int | None) -> float | None:
        """The finished factor of a layer named `prefix`, or None where the file then means 1.

        `kind` is "lora", "loha" or "lokr", `rank` what the tensors say, None when they do not. PEFT scales by
        alpha / rank, or alpha / √rank with `use_rslora`; `alpha_pattern` and `rank_pattern` override by module name.
        """
        config, name = self._config(prefix)
        alpha = config.get("lora_alpha" if kind == "lora" else "alpha")
        if alpha is None or (kind == "lokr" and SCALED_LOKR not in config):
            return None
        alpha = self._own("alpha_pattern", prefix, name, alpha)
        if rank is None:
            rank = self._whole(self._own("rank_pattern", prefix, name, config.get("r")))
        rooted = kind == "lora" and config.get("use_rslora") is True
        return self._number("alpha", alpha) / (math.sqrt(rank) if rooted else rank)

    def feeds_forward(self, prefix: str) -> bool | None:
        """Whether IA3 scales this layer's input; None when the settings do not say."""
        config, name = self._config(prefix)
        modules = config.get("feedforward_modules")
        if isinstance(modules, str):
            modules = [modules]
        if not isinstance(modules, list):
            return None
        return Patterns({str(module): True for module in modules}, self._source).get(name) is True

    def keeps(self, prefix: str) -> bool:
        """Whether this module was trained and saved whole (`modules_to_save`)."""
        config, name = self._config(prefix)
        modules = config.get("modules_to_save")
        return isinstance(modules, list) and any(f".{name}".endswith(f".{module}") for module in modules)

    def neumann_terms(self, prefix: str) -> int | None:
        """Terms of the series by which newer OFT approximates the Cayley transform; None when it is exact.

        Without any settings PEFT's own default holds.
        """
        config, _ = self._config(prefix)
        if not config:
            return DEFAULT_TERMS
        if config.get("use_cayley_neumann") is not True:
            return None
        return self._whole(config.get("num_cayley_neumann_terms", DEFAULT_TERMS))

    def _config(self, prefix: str) -> tuple[Mapping[str, object], str]:
        """The settings that hold for a prefix, and the module's name as PEFT knows it."""
        part, _, name = prefix.partition(".")
        if part not in PARTS:
            part, name = "", prefix
        found = self._configs.get(part) or self._configs.get("", {})
        return found, name.removeprefix("base_model.model.")

    def _own(self, patterns: str, prefix: str, name: str, otherwise: object) -> object:
        """What `alpha_pattern` or `rank_pattern` gives this module, else the value that holds for all."""
        config, _ = self._config(prefix)
        given = config.get(patterns)
        if not isinstance(given, dict) or not given:
            return otherwise
        part = prefix.partition(".")[0]
        key = (part if part in PARTS else "", patterns)
        if key not in self._patterns:
            self._patterns[key] = Patterns(given, self._source)
        own = self._patterns[key].get(name)
        return otherwise if own is None else own

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadInput(Problem(self._source, f"lora_{name} is no number", "a number", repr(value)[:50]))
        return float(value)

    def _whole(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise BadInput(Problem(self._source, "a rank is no whole number", "1 or more", repr(value)[:50]))
        return value


class Patterns:
    """Values by module: keys are names or regular expressions that fit a module's name from some dot to its end.

    The first key that fits decides, as in PEFT. Raises `BadInput` for expressions that could take long.
    """

    def __init__(self, patterns: Mapping[str, object], source: str) -> None:
        self._source = source
        self._names: dict[str, tuple[int, object]] = {}
        self._expressions: list[tuple[int, re.Pattern[str], object]] = []
        for i, (pattern, value) in enumerate(patterns.items()):
            if re.fullmatch(r"\^?[\w.]+\$?", pattern):  # "^name$" is the whole name
                self._names.setdefault(pattern.removesuffix("$"), (i, value))
            else:
                self._expressions.append((i, self._compiled(pattern), value))

    def get(self, name: str) -> object:
        """The value for a module, or None."""
        parts = name.split(".")
        ends = ("^" + name, *(".".join(parts[i:]) for i in range(len(parts))))
        fits = [self._names[end] for end in ends if end in self._names]
        fits += [(i, value) for i, expression, value in self._expressions if expression.match(name)]
        return min(fits, key=lambda fit: fit[0])[1] if fits else None

    def _compiled(self, pattern: str) -> re.Pattern[str]:
        long = len(pattern) > PATTERN_LIMIT or len(self._expressions) >= PATTERNS_LIMIT
        nested = len(re.findall(r"[*+{]", pattern)) > REPEATS_LIMIT or re.search(r"\)[*+{?]|\\\d", pattern)
        try:
            if long or nested:
                raise ValueError
            return re.compile(rf"(?:.*\.)?(?:{pattern})$")
        except (ValueError, re.error, RecursionError, OverflowError):
            what = f"the pattern {pattern[:50]!r} cannot be read, so alpha is unknown"
            raise BadInput(Problem(self._source, what)) from None


def peft_settings(path: Path, metadata: Mapping[str, str]) -> PeftSettings:
    """Find PEFT's settings for the network file `path`. Raises `BadInput` when they are there but damaged."""
    if DIFFUSERS_KEY in metadata:
        return PeftSettings(_by_part(_parse(metadata[DIFFUSERS_KEY], os.fspath(path))), os.fspath(path))
    beside = path.with_name(CONFIG)
    if not beside.is_file() or not (path.stem == "adapter_model" or _alone(path)):
        return PeftSettings({}, "")
    try:
        if beside.stat().st_size > CONFIG_LIMIT:
            raise BadInput(Problem(os.fspath(beside), "PEFT's settings are too long", f"at most {CONFIG_LIMIT} bytes"))
        text = beside.read_text("utf8", "replace")
    except OSError as e:
        raise BadInput(Problem(os.fspath(beside), "the file cannot be read", got=str(e)[:200])) from None
    return PeftSettings({"": _parse(text, os.fspath(beside))}, os.fspath(beside))


def _alone(path: Path) -> bool:
    """Whether the folder has no other network that its settings could be for: then the file was only renamed."""
    try:
        return [entry.name for entry in os.scandir(path.parent) if entry.name.lower().endswith(ENDINGS)] == [path.name]
    except OSError:
        return False


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
