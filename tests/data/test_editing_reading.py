"""The folder read in the background: the first pictures come early, and the scan gives way and ends when asked."""

from __future__ import annotations

import pytest
from PIL import Image

from lora_ext.config import DataSetConfig
from lora_ext.data.editing.reading import Reading


@pytest.fixture
def config(tmp_path):
    for n in range(6):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{n}.png")
    return DataSetConfig(images=str(tmp_path), concept="thing", resolution=64)


class Hurry:
    """Somebody waits for thumbnails as soon as so many pictures were begun."""

    def __init__(self, config: DataSetConfig, after: int) -> None:
        self.after = after
        self.passed = 0
        self.reading = Reading(config, self.busy)

    def busy(self) -> bool:
        """Asked before each picture."""
        if self.passed >= self.after:
            return True
        self.passed += 1
        return False

    @property
    def found(self) -> list[str]:
        return [picture.name for picture, _ in self.reading.pictures(0)]


def test_the_first_pictures_come_before_the_rest(config):
    hurry = Hurry(config, 2)
    hurry.reading.wait(20, enough=2)
    assert hurry.found[:2] == ["0.png", "1.png"]
    assert not hurry.reading.over
    assert hurry.reading.problems == ()
    hurry.after = 99
    hurry.reading.wait(20)
    assert hurry.reading.over
    assert hurry.found == [f"{n}.png" for n in range(6)]


def test_it_ends_when_nobody_asks_any_more(config):
    hurry = Hurry(config, 2)
    hurry.reading.wait(20, enough=2)
    hurry.reading.stop()
    hurry.reading.wait(20)
    assert hurry.reading.over
    assert len(hurry.found) < 6


def test_no_longer_than_asked(config):
    hurry = Hurry(config, 1)
    hurry.reading.wait(0.05)
    assert not hurry.reading.over
    hurry.reading.stop()
