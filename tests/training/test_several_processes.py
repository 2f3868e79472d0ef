"""Several processes on one run: the same data, the same steps, the same end; one of them writes and speaks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from training_runs import contents, pictures, run, same

from lora_ext.errors import BadInput
from lora_ext.training.world import ALONE, World, joined

STEADY = {
    "optimizer": "custom",
    "optimizer_class": "torch.optim.SGD",
    "optimizer_args": "momentum=0.9",
    "learning_rate": 1.0,
    "weight_decay": 0.0,
}
"""Not Adam, which makes as much of a gradient that is rounding as of any other."""
PLAIN = {**STEADY, "max_steps": 5, "dropout": 0.0, "text_encoder_lr": 1.0, "min_snr_gamma": 5.0, "pyramid_levels": 2}
DROPPING = {
    "a lora with dropout": {"dropout": 0.3, "rank_dropout": 0.3, "module_dropout": 0.3, "text_encoder_lr": 1.0},
    "a loha with dropout": {"kind": "loha", "rank_dropout": 0.3, "dropout": 0.3, "text_encoder_lr": 1.0},
    "numbers of the change left out": {"weight_dropout": 0.3, "dropout": 0.3},
}
DROPPED = {**STEADY, "max_steps": 3}
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes said and wrote; three pictures, so that the last batch of an epoch is one picture."""
    folder = tmp_path_factory.mktemp("together")
    pictures(folder / "pictures")
    pictures(folder / "one picture", count=1)
    dropping = {name: {**DROPPED, **values} for name, values in DROPPING.items()}
    (folder / "settings.json").write_text(json.dumps({"plain": PLAIN, **dropping}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    ours = [
        subprocess.Popen(
            [sys.executable, str(HERE / "one_of_many.py"), str(folder)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=1500)[1] for process in ours]
    finally:
        for process in ours:
            process.kill()
    assert [process.returncode for process in ours] == [0, 0], "\n".join(errors)
    return folder, [json.loads((folder / f"said {rank}.json").read_text()) for rank in range(2)]


def apart(one, other, keys):
    """How far two files are from each other."""
    assert one.keys() == other.keys()
    return torch.cat([(one[key] - other[key]).flatten() for key in keys]).norm().item()


def test_all_see_the_same_pictures_in_the_same_order(together):
    _, (first, second) = together
    assert first["plain"]["seen"] == second["plain"]["seen"]
    assert [len(samples) for samples in first["plain"]["seen"]] in ([2, 1, 2, 1, 2], [1, 2, 1, 2, 1], [2, 1, 1, 2, 2])


def test_it_is_one_process_with_the_whole_batch_to_rounding(together, tmp_path):
    folder, (first, second) = together
    alone = run(tmp_path, images=str(folder / "pictures"), batch_size=2, **PLAIN)
    mine, theirs = alone.tensors, contents(folder / "plain" / "x.safetensors")[0]
    nothing = {"learning_rate": 1e-30, "text_encoder_lr": 1e-30}
    start = run(tmp_path / "start", images=str(folder / "pictures"), batch_size=2, **{**PLAIN, **nothing})
    ups = [key for key in mine if "lora_up" in key]
    assert apart(mine, theirs, ups) < 1e-3 * apart(mine, start.tensors, ups)
    assert first["plain"]["losses"] == pytest.approx([s.loss for s in alone.steps], rel=1e-4)
    assert first["plain"]["losses"] == second["plain"]["losses"]
    one_each = run(tmp_path / "one", images=str(folder / "pictures"), batch_size=1, **PLAIN)
    assert not same(one_each.tensors, theirs)
    assert [s.loss for s in one_each.steps] != pytest.approx(first["plain"]["losses"], rel=1e-3), "it could differ"


@pytest.mark.parametrize("name", DROPPING)
def test_what_is_left_out_is_that_of_one_process_too(together, tmp_path, name):
    """A picture's dropout hangs on its place in the whole batch, so it is the same in whichever process."""
    folder, (first, second) = together
    text_learns = "text_encoder_lr" in DROPPING[name]

    def alone(**values):
        given = {"images": str(folder / "pictures"), "batch_size": 2, **DROPPED, **DROPPING[name], **values}
        return run(tmp_path / str(len(list(tmp_path.iterdir()))), **given)

    whole, start = alone(), alone(max_steps=1, learning_rate=1e-30, text_encoder_lr=bool(text_learns) * 1e-30)
    mine, theirs = whole.tensors, contents(folder / name / "x.safetensors")[0]
    learnt = [key for key in theirs if not key.endswith("alpha")]
    assert apart(mine, theirs, learnt) < 1e-3 * apart(mine, start.tensors, learnt)
    assert first[name]["losses"] == second[name]["losses"] == pytest.approx([s.loss for s in whole.steps], rel=1e-4)


def test_one_writes_and_shows(together):
    folder, (first, second) = together
    assert first["plain"]["saved"] == [[5, True]]
    assert "Preview" in first["plain"]["kinds"]
    assert second["plain"]["saved"] == []
    assert "Preview" not in second["plain"]["kinds"]
    assert sorted(p.name for p in (folder / "plain").iterdir()) == [
        "x.config.toml",
        "x.log.csv",
        "x.safetensors",
        "x.state",
        "x.state.previous",
    ]
    assert (folder / "plain" / "x.log.csv").read_text().count("\n") == 6
    assert first["given back"]
    assert second["given back"]


def test_a_stop_anywhere_stops_all_after_the_same_step(together):
    folder, said = together
    assert [one["stopped"]["end"] for one in said] == [[2, "stopped"]] * 2
    assert said[0]["stopped"]["saved"] == [[2, True]]
    assert [one["aborted"]["end"] for one in said] == [[1, "aborted"]] * 2
    assert not list((folder / "aborted").glob("*.safetensors"))


def test_a_state_of_the_first_is_resumed_by_all(together):
    folder, said = together
    assert [one["half"]["end"] for one in said] == [[4, "done"]] * 2
    assert same(*(contents(folder / name / "x.safetensors")[0] for name in ("half", "whole")))


def test_a_state_of_two_is_not_resumed_by_one(together):
    from training_runs import config, model

    from lora_ext.training import train

    folder, _ = together
    values = config(folder, max_steps=9, state_every=1, seed=3, resume=True)
    with pytest.raises(BadInput, match="another number of processes; expected 2"):
        list(train(model(), values, output=folder / "half" / "x.safetensors"))


def test_a_failure_anywhere_ends_all_and_costs_nothing(together):
    _, (first, second) = together
    assert second["one is broken"] == ["out of luck", []]
    assert first["one is broken"] == ["another process of this run failed", ["x-step000001.safetensors"]]
    assert first["the first is broken"] == ["out of luck", []]
    assert second["the first is broken"][0] == "another process of this run failed"


def test_all_hear_of_bad_input(together):
    _, (first, second) = together
    assert second["one refuses"].startswith("clip_skip")
    assert first["one refuses"] == "another process of this run failed"
    assert all("2 processes share each batch" in one["all refuse"] for one in (first, second))


def test_what_was_said_outlives_the_saying(monkeypatch):
    """A tensor that only gloo's thread still holds blocks the end of the run for ever on torch 2.1."""
    sent = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, _: sent.append(weakref.ref(tensor)))
    world = World(0, 2)
    world.agree()
    world.fail()
    assert len(sent) == 2
    assert all(tensor() is not None for tensor in sent)


def test_shares_of_a_batch():
    for size in range(1, 5):
        for samples in range(9):
            shares = [list(World(rank, size).share(samples)) for rank in range(size)]
            assert [n for share in shares for n in share] == list(range(samples))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_without_a_launcher_a_process_is_alone(environment):
    with joined(environment) as world:
        assert world is ALONE


@pytest.mark.parametrize(
    "environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "many", "RANK": "0"}]
)
def test_an_environment_that_makes_no_sense(environment):
    with pytest.raises(BadInput) as caught, joined(environment):
        pass
    assert [p.field for p in caught.value.problems] == ["processes"]
