"""Prompts of previews as sd-scripts has them: one per line, with its size and seed behind dashes."""

from __future__ import annotations

import re
from pathlib import Path

from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import UNSET, is_one_of

SIGNS = {
    "n": "preview_negative",
    "w": "preview_width",
    "h": "preview_height",
    "d": "preview_seed",
    "s": "preview_steps",
    "l": "preview_cfg",
}


def first_prompt(values: dict[str, object], out: Import, folder: Path) -> None:
    """Take `sample_prompts` (a file beside the settings, or the text itself) out of `values` into `out`."""
    if "sample_prompts" not in values:
        return
    value = values.pop("sample_prompts")
    if is_one_of(value, UNSET):
        out.skip("sample_prompts", "not set")
        return
    text = str(value)
    if text.strip().lower().endswith((".txt", ".toml", ".json")):
        try:
            text = (folder / text.strip()).read_text(encoding="utf8")
        except (OSError, ValueError):
            out.refuse("sample_prompts", f"{text.strip()} cannot be read; give preview_prompt")
            return
        if not str(value).strip().lower().endswith(".txt"):
            out.refuse("sample_prompts", "only prompts one per line are read; give preview_prompt")
            return
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        out.skip("sample_prompts", "there is no prompt in it")
        return
    prompt, *options = re.split(r"\s--(?=\w\b)", f" {lines[0]}")
    out.put("sample_prompts", "preview_prompt", prompt.strip())
    for option in options:
        sign, _, rest = option.partition(" ")
        if sign in SIGNS:
            out.put(f"sample_prompts --{sign}", SIGNS[sign], rest.strip())
        else:
            out.refuse(f"sample_prompts --{sign}", "nobody told this trainer what it means")
    if len(lines) > 1:
        out.refuse("sample_prompts (further lines)", "there is one preview prompt")
