"""What is told before a run: from shapes, settings and the folder alone."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from scripted_model import model

from lora_ext.api import forecast, speed
from lora_ext.api.forecast import Forecaster, count, filled_in
from lora_ext.errors import BadInput

GIB = 2**30


@pytest.fixture
def card(monkeypatch):
    """The model lives on a card of so many bytes, all free, which reaches 10 TFLOP/s."""

    def of(size, family="sd1"):
        live = model(family)
        monkeypatch.setattr(live, "device", torch.device("cuda"), raising=False)
        monkeypatch.setattr(forecast, "reached", lambda *_: 1e13)
        driver = SimpleNamespace(cudaMemGetInfo=lambda number: (size, size))  # torch's own checks stay before it
        monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Scripted")
        return live

    return of


def forecaster(live, state="idle", values=None, **job):
    snapshot = {"run": "1", "state": state, "step": 0, "seconds": 0.0, **job}
    return Forecaster(lambda: live, lambda: snapshot, lambda: values)


def test_the_loaded_model_is_described(stage):
    told = stage.service.model()
    assert (told["family"], told["title"], told["name"], told["card"]) == ("sd1", "SD 1.x", "scripted sd1", None)


def test_pictures_are_counted_as_an_epoch_shows_them(tmp_path):
    (tmp_path / "10_cat").mkdir()
    for path in ("a.png", "b.jpg", "notes.txt", "10_cat/c.webp"):
        (tmp_path / path).write_bytes(b"")
    images = str(tmp_path)
    assert count(filled_in({"images": images})) == 12
    assert count(filled_in({"images": images, "repeats": 3})) == 16
    assert count(filled_in({"images": images, "regularisation_images": images})) == 24
    assert count(filled_in({"images": images, "validation_share": 50})) == 6
    assert count(filled_in({"images": images, "datasets": f"images = '{images}'"})) == 24
    assert count(filled_in({"images": str(tmp_path / "nowhere")})) is None
    assert count(filled_in({"images": ""})) is None


def test_steps_and_time_come_from_the_folder(stage):
    for n in range(10):
        (stage.pictures / f"{n}.png").write_bytes(b"")
    told = stage.service.forecast({"images": str(stage.pictures), "epochs": 7, "batch_size": 4})
    assert (told["pictures"], told["steps"]) == (10, 21)
    assert told["seconds"] > 0
    assert told["timed"] is False
    longer = stage.service.forecast({"images": str(stage.pictures), "max_steps": 42, "batch_size": 4})
    assert longer["seconds"] == pytest.approx(2 * told["seconds"])
    unknown = stage.service.forecast({"images": ""})
    assert (unknown["steps"], unknown["seconds"]) == (None, None)
    assert unknown["file"] > 10e6


def test_memory_of_a_run_on_the_processor_is_not_guessed(stage):
    told = stage.service.forecast({})
    assert (told["memory"], told["free"], told["fits"], told["advice"]) == (None, None, None, [])


def test_what_does_not_fit_names_the_setting(card):
    told = forecaster(card(6 * GIB, "sdxl")).forecast({"resolution": 1024})
    assert told["fits"] is False
    assert told["memory"] > told["free"] == 6 * GIB
    assert sum(part["bytes"] for part in told["parts"]) == told["memory"]
    assert {"checkpointing", "resolution"} <= {advice["field"] for advice in told["advice"]}
    assert all(advice["text"] and advice["label"] for advice in told["advice"])
    assert forecaster(card(80 * GIB, "sdxl")).forecast({"resolution": 1024})["fits"] is True
    assert forecaster(card(80 * GIB, "sdxl")).fits({"resolution": 1024})
    assert not forecaster(card(6 * GIB, "sdxl")).fits({"resolution": 1024})


def test_a_run_that_was_timed_beats_the_guess(card):
    live = card(24 * GIB)
    values = {"images": "x", "output": "y", "max_steps": 100}
    told = forecaster(live, "running", values, step=50, seconds=100.0).forecast(values)
    assert told["timed"] is True
    assert told["seconds"] == pytest.approx(200.0)
    early = forecaster(live, "running", values, step=3, seconds=100.0).forecast(values)
    assert early["timed"] is False
    assert early["seconds"] != pytest.approx(200.0)


def test_memory_that_a_run_uses_is_not_told_as_taken(card):
    live = card(8 * GIB)
    assert forecaster(live).model()["card"] == {"name": "Scripted", "total": 8 * GIB, "free": 8 * GIB}
    busy = forecaster(live, "running")
    assert busy.model()["card"]["free"] is None
    assert busy.forecast({})["free"] == int(0.94 * 8 * GIB)


def test_wrong_settings_are_named_and_missing_ones_are_not(stage):
    with pytest.raises(BadInput) as caught:
        stage.service.forecast({"rank": 0, "images": "", "nonsense": 1})
    assert {p.field for p in caught.value.problems} == {"rank", "nonsense"}
    assert dataclasses.is_dataclass(filled_in({}))


def test_a_card_that_is_full_gives_no_time(card, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("full")

    live = card(8 * GIB)
    monkeypatch.undo()
    monkeypatch.setattr(speed, "_multiplied", full)
    assert speed.reached(torch.device("cuda"), torch.float16, "sd1", 1) is None
    told = forecaster(live).forecast({"max_steps": 10})
    assert (told["seconds"], told["steps"]) == (None, 10)
