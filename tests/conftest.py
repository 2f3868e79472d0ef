"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from checkpoints import checkpoint  # noqa: E402

NEW_EXAMPLES = "LORA_EXT_NEW_EXAMPLES"
"""Set in the environment, properties are tried on examples that no run saw before; otherwise always on the same."""

settings.register_profile(
    "unhurried",
    deadline=None,  # a busy machine is slow, not wrong
    derandomize=NEW_EXAMPLES not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """What a test or a library draws from the global generators is the same in every run and order."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sd1_checkpoint() -> Path:
    """A tiny SD1 checkpoint, float16, its yaml beside it."""
    return checkpoint("sd1")


@pytest.fixture(scope="session")
def sd2_checkpoint() -> Path:
    """A tiny SD2 checkpoint (v-prediction), float16, its yaml beside it."""
    return checkpoint("sd2")


@pytest.fixture(scope="session")
def sdxl_checkpoint() -> Path:
    """A tiny SDXL checkpoint, float16, its yaml beside it."""
    return checkpoint("sdxl")
