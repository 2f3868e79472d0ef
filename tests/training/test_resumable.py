"""Which runs of a folder can go on."""

from __future__ import annotations

import os
import time

import torch

from lora_ext.training.resumable import broken_off


def state(folder, name, step=40, age=100.0):
    path = folder / f"{name}.state"
    torch.save({"format": 1, "identity": {}, "step": step, "content": {"a": torch.zeros(3)}}, path)
    os.utime(path, (time.time() - age,) * 2)
    return path


def output(folder, name, age):
    path = folder / f"{name}.safetensors"
    path.write_bytes(b"file")
    os.utime(path, (time.time() - age,) * 2)


def test_a_state_without_its_end_can_go_on(tmp_path):
    state(tmp_path, "old", step=10, age=900)
    state(tmp_path, "new", step=20, age=60)
    (tmp_path / "new.config.toml").write_text("")
    found = broken_off(tmp_path)
    assert [(run.name, run.step) for run in found] == [("new", 20), ("old", 10)]
    assert [run.settings for run in found] == [tmp_path / "new.config.toml", None]
    assert 50 < found[0].age < 80


def test_a_run_that_came_to_its_end_is_left_alone(tmp_path):
    state(tmp_path, "done", age=100)
    output(tmp_path, "done", age=99)
    state(tmp_path, "again", age=50)  # a longer run of the same name broke off
    output(tmp_path, "again", age=99)
    assert [run.name for run in broken_off(tmp_path)] == ["again"]


def test_what_is_damaged_or_no_state_is_left_out(tmp_path):
    (tmp_path / "empty.state").write_bytes(b"")
    (tmp_path / "words.state").write_text("hello")
    (tmp_path / "folder.state").mkdir()
    torch.save([1, 2], tmp_path / "list.state")
    torch.save({"format": 1}, tmp_path / "no step.state")
    cut = state(tmp_path, "cut")
    cut.write_bytes(cut.read_bytes()[:-40])
    state(tmp_path, "good")
    assert [run.name for run in broken_off(tmp_path)] == ["good"]
    assert broken_off(tmp_path / "nowhere") == []
