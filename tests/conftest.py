"""Fixtures that every room's tests may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from checkpoints import checkpoint  # noqa: E402


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
