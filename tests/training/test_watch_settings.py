"""What is measured and written down while training: held-out loss, log and the settings that repeat a run."""

from __future__ import annotations

import csv
import errno
import sys

import pytest
import torch
from settings_table import about
from training_runs import config, contents, pictures, run, same

from lora_ext.cli.flags import read_settings
from lora_ext.cli.train import TrainCommand
from lora_ext.config import TrainConfig, flat, read
from lora_ext.training import Notice, Validated
from lora_ext.training.log import COLUMNS, settings_toml


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@about("validation_every", "validation_share")
def test_held_out_pictures_are_measured_the_same_way_every_time(tmp_path):
    folder = str(pictures(tmp_path / "pictures", count=4))
    held = {"images": folder, "validation_share": 25.0, "max_steps": 5, "validation_every": 2, "dropout": 0.5}
    result = run(tmp_path / "a", **held)
    measured = result.of(Validated)
    assert [v.step for v in measured] == [1, 2, 4, 5]
    assert len({v.loss for v in measured}) == 4, "it follows what is learnt"
    still = run(tmp_path / "b", **held, learning_rate=1e-30).of(Validated)
    assert len({v.loss for v in still}) == 1, "the same noise, timesteps and no dropout each time"
    assert result.metadata["ss_num_train_images"] == "3"
    blind = run(tmp_path / "c", **{**held, "validation_every": 1000, "max_steps": 5})
    assert [v.step for v in blind.of(Validated)] == [1, 5]
    assert same(blind.tensors, result.tensors), "measuring changes nothing"
    assert not run(tmp_path / "d", images=folder).of(Validated)


@about("log")
def test_a_log_and_the_settings_lie_beside_the_file(tmp_path):
    result = run(tmp_path, max_steps=3)
    table = rows(result.path.with_name("x.log.csv"))
    assert list(table[0]) == list(COLUMNS)
    assert [int(row["step"]) for row in table] == [1, 2, 3]
    assert [float(row["loss"]) for row in table] == pytest.approx([s.loss for s in result.steps], rel=1e-5)
    assert float(table[0]["learning_rate"]) == 1e-2
    quiet = run(tmp_path / "quiet", log=False)
    assert sorted(p.name for p in quiet.path.parent.iterdir()) == ["x.safetensors"]


def test_the_settings_repeat_the_run(tmp_path):
    first = run(
        tmp_path, rank=3, seed=7, layer_rules='attn2 => rank=4 ; "\\d" => rank=2', preview_negative='a "quote" \\ ü\x7f'
    )
    read_back = read_settings(first.path.with_name("x.config.toml"), TrainCommand)
    assert read_back.pop("checkpoint")
    again = read(TrainConfig, read_back)
    assert flat(again) == flat(
        config(tmp_path, rank=3, seed=7, **{k: flat(again)[k] for k in ("layer_rules", "preview_negative")})
    )
    assert flat(again)["preview_negative"] == 'a "quote" \\ ü\x7f'
    second = run(tmp_path / "again", **{**flat(again), "images": str(tmp_path / "pictures")})
    assert same(first.tensors, second.tensors)


def test_every_setting_is_in_the_settings_file():
    made = read(TrainConfig, {"images": "a", "output": "b"})
    text = settings_toml(made, "")
    assert all(f"{name} = " in text for name in flat(made))


def test_a_resumed_log_goes_on_behind_the_state(tmp_path):
    run(tmp_path, max_steps=2, state_every=10)
    path = tmp_path / "out" / "x.log.csv"
    with path.open("a", encoding="utf-8") as file:
        file.write("3,1,0.5,,0.01,9\n")  # a row written after the last state, before a crash
    run(tmp_path, max_steps=4, resume=True)
    assert [int(row["step"]) for row in rows(path)] == [1, 2, 3, 4]


def test_a_full_disk_costs_the_log_not_the_run(tmp_path, monkeypatch):
    from lora_ext.training.log import RunLog

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunLog, "_begin", full)
    result = run(tmp_path, max_steps=3)
    assert [n.text for n in result.of(Notice) if "log" in n.text] == [
        "The log could not be written and ends here (No space left on device)."
    ]
    assert all(torch.isfinite(t).all() for t in contents(result.path)[0].values())


def chart(folder):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard, which reads charts, is missing"
    )
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return found


@about("tensorboard")
def test_charts_for_tensorboard_say_what_the_log_says(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard, which writes charts, is missing")
    result = run(tmp_path, max_steps=3, tensorboard=True, preview_prompt="a cat\na dog", preview_every=2)
    found = chart(tmp_path / "out" / "x.tensorboard")
    losses = [(e.step, e.value) for e in found.Scalars("loss/train")]
    assert losses == [(s.step, pytest.approx(s.loss, rel=1e-6)) for s in result.steps]
    assert [e.value for e in found.Scalars("learning_rate")] == pytest.approx([1e-2] * 3)
    assert [e.step for e in found.Images("preview/2")] == [2]
    assert not list(run(tmp_path / "b", max_steps=1).path.parent.glob("*.tensorboard"))


def test_without_tensorboard_the_run_goes_on_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = run(tmp_path, max_steps=3, tensorboard=True)
    (told,) = [n.text for n in result.of(Notice) if "TensorBoard" in n.text]
    assert "pip install" in told
    assert len(result.steps) == 3
    assert not list(result.path.parent.glob("*.tensorboard"))


def test_charts_of_a_resumed_run_go_on(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard, which writes charts, is missing")
    run(tmp_path, max_steps=2, state_every=1, tensorboard=True)
    run(tmp_path, max_steps=4, resume=True, state_every=1, tensorboard=True)
    assert [e.step for e in chart(tmp_path / "out" / "x.tensorboard").Scalars("loss/train")] == [1, 2, 3, 4]
