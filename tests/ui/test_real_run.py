"""The tab over a real model: an artist trains, sees a preview, and the file works. The model is shrunken and random."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from scripted import Workplace
from tabpage import count, expect, fill, panel, put, slot, start

from demo import random_base
from lora_ext import api
from lora_ext.api import service as services
from lora_ext.config import CheckpointConfig
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.training import JobBoard
from lora_ext.training.queue import JobQueue


@pytest.fixture
def stage(tmp_path, monkeypatch):
    base = tmp_path / "base.safetensors"
    random_base.make("sd1", base)
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(base), device="cpu"))
    monkeypatch.setattr(services, "board", JobBoard())
    monkeypatch.setattr(services, "queue", JobQueue())
    outputs, pictures = tmp_path / "loras", tmp_path / "pictures"
    outputs.mkdir()
    pictures.mkdir()
    for n, color in enumerate(["red", "green"]):
        Image.new("RGB", (64, 64), color).save(pictures / f"{n}.png")
    saved: list[Path] = []
    made = Workplace(api.make_service(lambda: model, lambda: outputs, saved.append), None, outputs, pictures, saved)
    yield made
    made.end()


def test_train_for_real(open_page, stage):
    page = open_page()
    small = {"preview_steps": 2, "preview_width": 64, "preview_height": 64}
    fill(page, stage, concept="a plain colour", resolution=64, rank=4, max_steps=6)
    for name, value in {"preview_prompt": "a plain colour", "preview_every": 3, **small}.items():
        put(page, name, value)
    start(page)
    expect(panel(page, "done")).to_be_visible(timeout=120_000)
    assert count(page) == 6
    expect(slot(page, "saved")).to_contain_text("<lora:my cat:0.7>")
    page.wait_for_function("() => document.querySelector('[data-slot=preview] img').naturalWidth === 64")
    expect(page.locator("[data-slot=chart] svg")).to_be_visible()
    assert stage.saved == [stage.outputs / "my cat.safetensors"]
    with safe_open(stage.saved[0], "pt") as file:
        assert any(key.endswith("lora_up.weight") and file.get_tensor(key).any() for key in file.keys())  # noqa: SIM118
    start(page)
    expect(page.locator("#lora_ext_field_output .lora-ext-error")).to_contain_text("already there")
