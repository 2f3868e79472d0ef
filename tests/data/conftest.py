"""Folders being edited."""

from __future__ import annotations

import pytest

from lora_ext.config import DataSetConfig
from lora_ext.data.editing import EditSet, Thumbnails


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
