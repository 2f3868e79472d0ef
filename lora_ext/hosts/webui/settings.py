"""Our entries in the WebUI's settings, and its folders."""

from __future__ import annotations

import os
from pathlib import Path

from modules import paths, shared

BUILTIN = "lora_ext_builtin"


def add_settings() -> None:
    """Declare our settings; call it from `on_ui_settings`."""
    label = "Let the WebUI's built-in loader handle <lora:...> tags"
    info = shared.OptionInfo(False, label, section=("lora_ext", "LoRA training"))
    shared.opts.add_option(BUILTIN, info.info("off: they are applied exactly, in any order, by LoRA training's loader"))


def builtin_wanted() -> bool:
    """Whether the user wants the builtin loader to handle the tags."""
    return bool(getattr(shared.opts, BUILTIN, False))


def lora_folder() -> Path:
    """Where the WebUI keeps LoRA files; ours are written there."""
    known = getattr(shared.cmd_opts, "lora_dir", None)  # declared by the builtin, which can be switched off
    return Path(known or os.path.join(paths.models_path, "Lora"))


def lora_folders() -> list[Path]:
    """All folders tags are looked up in."""
    old = getattr(shared.cmd_opts, "lyco_dir_backcompat", None)
    return [lora_folder(), *([Path(old)] if old and os.path.isdir(old) else [])]
