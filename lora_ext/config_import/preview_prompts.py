"""Prompts of previews as sd-scripts has them: one per line, with its size and seed behind dashes."""

from __future__ import annotations

from pathlib import Path

from lora_ext.config import PreviewConfig, preview_wishes
from lora_ext.config.preview_lines import SIGNS as OURS
from lora_ext.config.preview_lines import split_line
from lora_ext.config_import.outcome import Import
from lora_ext.config_import.rules import UNSET, is_one_of
from lora_ext.errors import BadInput

SIGNS = {sign: name for sign, name in OURS.items() if sign != "m"}
"""Theirs; the strength is ours alone."""


def prompts(values: dict[str, object], out: Import, folder: Path) -> None:
    """Take `sample_prompts` (a file beside the settings, or the text itself) out of `values` into `out`.

    One prompt becomes the settings of previews; several keep what belongs to each in its line.
    """
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
    elif len(lines) == 1:
        _one(lines[0], out)
    else:
        _several(lines, out)


def _one(line: str, out: Import) -> None:
    prompt, options = split_line(line)
    out.put("sample_prompts", "preview_prompt", prompt)
    for sign, value in options:
        if sign in SIGNS:
            out.put(f"sample_prompts --{sign}", SIGNS[sign], value)
        else:
            _unknown(sign, out)


def _several(lines: list[str], out: Import) -> None:
    kept = []
    for line in lines:
        prompt, options = split_line(line)
        for sign, _ in options:
            if sign not in SIGNS:
                _unknown(sign, out)
        kept.append(" ".join([prompt, *(f"--{sign} {value}" for sign, value in options if sign in SIGNS)]))
    text = "\n".join(kept)
    try:
        preview_wishes(PreviewConfig(preview_prompt=text))
    except BadInput as e:
        out.refuse("sample_prompts", "; ".join(f"{p.what} {p.got}".strip() for p in e.problems))
        return
    out.put("sample_prompts", "preview_prompt", text)


def _unknown(sign: str, out: Import) -> None:
    out.refuse(f"sample_prompts --{sign}", "nobody told this trainer what it means")
