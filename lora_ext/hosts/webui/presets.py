"""Names of block weights: those sd-webui-lora-block-weight starts with, and those its users wrote in its file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from modules import paths

from lora_ext.hosts.blocks import DEFAULT_PRESETS, read_presets

FILE = "lbwpresets.txt"


def block_presets() -> Mapping[str, str]:
    """Names and what they stand for; the user's file goes before the defaults."""
    found = dict(DEFAULT_PRESETS)
    for file in _files():
        try:
            found |= read_presets(file.read_text(encoding="utf8", errors="replace"))
        except OSError:
            continue  # a name that is then unknown is told
    return found


def _files() -> Iterator[Path]:
    """Where that extension keeps them: beside its script, which may lie in the WebUI's own folder."""
    yield Path(paths.script_path, "scripts", FILE)
    if os.path.isdir(paths.extensions_dir):
        yield from sorted(Path(paths.extensions_dir).glob(f"*/scripts/{FILE}"))
