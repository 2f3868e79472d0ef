"""Properties are tried without a clock: a busy machine is slow, not wrong. And folders being edited."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from lora_ext.config import DataSetConfig
from lora_ext.data.editing import EditSet, Thumbnails

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def opened(folder, tmp_path):
    """Opens a file's own `folder` of pictures, read to its end."""
    made = []

    def make(**more) -> EditSet:
        one = EditSet(DataSetConfig(images=str(folder), resolution=64, **more), Thumbnails(tmp_path / "cache"))
        made.append(one)
        one.wait(20)
        return one

    yield make
    for one in made:
        one.close()
