"""Several preview prompts, one per line, each with numbers of its own: `a cat --w 768 --d 5 --n blurry`."""

from __future__ import annotations

import re

from lora_ext.config.preview import PreviewConfig
from lora_ext.config.reading import flat, read
from lora_ext.errors import BadInput, Problem

SIGNS = {
    "n": "preview_negative",
    "w": "preview_width",
    "h": "preview_height",
    "d": "preview_seed",
    "s": "preview_steps",
    "l": "preview_cfg",
    "m": "preview_strength",
}
"""What stands behind two dashes; all but the last are sd-scripts'."""

OPTION = re.compile(r"(?:^|\s)--(?=[A-Za-z]\b)")


def split_line(line: str) -> tuple[str, list[tuple[str, str]]]:
    """`a cat --w 768 --d 5` -> ("a cat", [("w", "768"), ("d", "5")])."""
    prompt, *options = OPTION.split(line)
    pairs = [option.partition(" ") for option in options]
    return prompt.strip(), [(sign, value.strip()) for sign, _, value in pairs]


def preview_wishes(config: PreviewConfig) -> tuple[PreviewConfig, ...]:
    """Settings of one preview each: a line's own numbers, and the general ones where it has none.

    Empty lines and those that begin with `#` are left out. Raises `BadInput` (field "preview_prompt") for every line
    that cannot be read.
    """
    found: list[PreviewConfig] = []
    problems: list[Problem] = []
    for number, line in enumerate(config.preview_prompt.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            found.append(_wish(line, config))
        except BadInput as e:
            problems += [
                Problem("preview_prompt", f"line {number}: {p.what}", p.expected, p.got, p.fix) for p in e.problems
            ]
    if problems:
        raise BadInput(*problems)
    return tuple(found)


def _wish(line: str, config: PreviewConfig) -> PreviewConfig:
    prompt, options = split_line(line)
    unknown = [f"--{sign}" for sign, _ in options if sign not in SIGNS]
    if unknown:
        expected = ", ".join(f"--{sign}" for sign in SIGNS)
        raise BadInput(Problem("preview_prompt", "there is no such sign", expected, ", ".join(unknown)))
    if not prompt:
        raise BadInput(Problem("preview_prompt", "there is no prompt before the signs", got=line.strip()))
    return read(PreviewConfig, {**flat(config), "preview_prompt": prompt, **{SIGNS[sign]: v for sign, v in options}})
