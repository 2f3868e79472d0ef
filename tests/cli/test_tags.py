"""What `generate` makes of block weights, steps and ranks in a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lora_ext.cli import main


def test_tags_with_blocks_steps_and_ranks(
    checkpoint: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def painted(tag: str) -> bytes:
        output = tmp_path / "x.png"
        words = ["generate", "--checkpoint", str(checkpoint), "--device", "cpu", "--lora-dir", str(lora.parent)]
        words += ["--prompt", f"a cat {tag}", "--seed", "3", "--steps", "3", "--size", "64x64", "--overwrite"]
        assert main([*words, "--output", str(output)]) == 0
        with Image.open(output) as picture:
            return picture.tobytes()

    plain, whole = painted(""), painted("<lora:cat:1>")
    assert painted("<lora:cat:1:lbw=NONE><lora:cat:1:start=3>") == plain
    assert painted("<lora:cat:1@0,1@1:dyn=4:lbw=ALL>") == whole
    assert (
        len({plain, whole, *map(painted, ("<lora:cat:1:OUTALL>", "<lora:cat:0:1:start=1>", "<lora:cat:1:1:2>"))}) == 5
    )
    capsys.readouterr()
    painted("<lora:cat:1:lbwe=X>")
    assert "lbwe=" in capsys.readouterr().err
