"""A small model, a few pictures and a LoRA trained from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import random_base
from lora_ext.cli import main

SMALL = ("--resolution", "64", "--max-steps", "6", "--rank", "4", "--alpha", "4", "--learning-rate", "0.01")


@pytest.fixture
def small() -> list[str]:
    """Flags of a run of a few seconds."""
    return list(SMALL)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_base.make("sd1", tmp_path_factory.mktemp("cli") / "base.safetensors")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a cat")
    return folder


@pytest.fixture(scope="session")
def lora(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras") / "cat.safetensors"
    words = ["train", "--checkpoint", str(checkpoint), "--images", str(pictures), "--output", str(path), *SMALL]
    assert main([*words, "--device", "cpu"]) == 0
    return path
