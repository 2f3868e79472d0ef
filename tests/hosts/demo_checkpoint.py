"""The demo's base model laid out for a WebUI, which loads it by its own yaml."""

from __future__ import annotations

import shutil
from pathlib import Path

from demo import judge
from demo.base_model import CLIP_FOLDER


def demo_checkpoint(folder: Path) -> Path:
    """Copy it into `folder`; the WebUI's data folder is elsewhere, so the yaml needs the whole path of the .clip."""
    checkpoint = folder / judge.BASE.name
    shutil.copy(judge.BASE, checkpoint)
    shutil.copytree(judge.BASE.with_suffix(".clip"), folder / "base.clip")
    told = judge.BASE.with_suffix(".yaml").read_text(encoding="utf8")
    assert CLIP_FOLDER in told
    checkpoint.with_suffix(".yaml").write_text(told.replace(CLIP_FOLDER, str(folder / "base.clip")), encoding="utf8")
    return checkpoint
