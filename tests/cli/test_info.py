"""The table of a file holds still, whatever the file says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_ext.cli import main


def test_hostile_metadata_cannot_paint_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        "lora_unet_x.lora_down.weight": torch.zeros(4, 8),
        "lora_unet_x.lora_up.weight": torch.zeros(8, 4),
    }
    save_file(tensors, path, metadata={"evil": "\x1b[2J\r\nmade for: you", "long": "x" * 5000, "b<i>": "<script>"})
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert "x" * 100 + "… (5000 characters)" in out
    assert "1 x LoRA" in out
    assert "1 x 4" in out
    assert len([line for line in out.splitlines() if line.startswith("made for")]) == 1
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["long"] == "x" * 5000


def test_a_file_without_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert main(["info", str(tmp_path / "a.safetensors")]) == 0
    assert "metadata:\n  none" in capsys.readouterr().out
