"""Pause, resume, and what a crash, a full disk, bad numbers or little memory cost: nothing that was learnt."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from settings_table import about
from training_runs import config, contents, fingerprint, model, pictures, run, same

from lora_ext.errors import BadInput
from lora_ext.live import RenderRequest
from lora_ext.training import Finished, Notice, Pause, Paused, Saved, Step, Stop, precision, train
from lora_ext.training.job import Job
from lora_ext.training.learner import Learner
from lora_ext.training.state import Identity, State, StateFile, tensors_digest

LONG = {
    "max_steps": 6,
    "flip": True,
    "dropout": 0.1,
    "ema_decay": 0.9,
    "text_encoder_lr": 1e-3,
    "pyramid_levels": 3,
    "schedule": "cosine",
    "accumulate": 2,
}


@pytest.fixture
def folder(tmp_path):
    pictures(tmp_path / "pictures")
    return tmp_path


def out(folder):
    return folder / "out" / "x.safetensors"


def start(folder, live=None, **values):
    return train(live or model(), config(folder, **values), output=out(folder))


def until(events, step):
    """Take events up to a step."""
    taken = []
    for event in events:
        taken.append(event)
        if isinstance(event, Step) and event.step == step:
            return taken
    raise AssertionError(f"no step {step}")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return run(tmp_path_factory.mktemp("unbroken"), **LONG)


@about("state_every", "resume")
def test_a_killed_run_goes_on_bit_for_bit(folder, unbroken):
    script = Path(__file__).with_name("killed_run.py")
    words = [sys.executable, str(script), str(folder), str(torch.get_num_threads())]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "4":
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -9
    assert not out(folder).exists()
    result = run(folder, **LONG, resume=True)
    assert result.steps[0].step in (4, 5), "the state of the third or the fourth step was the last whole one"
    assert same(result.tensors, unbroken.tensors)
    later = [s.loss for s in unbroken.steps][-len(result.steps) :]
    assert [s.loss for s in result.steps] == later


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy", "adamw_schedulefree", "lion", "came", "adafactor"])
def test_every_optimizer_resumes(folder, optimizer):
    values = {"optimizer": optimizer, "max_steps": 4, "only_layers": "attn2"}
    whole = run(folder / "whole", images=str(folder / "pictures"), **values)
    events = start(folder, **values, state_every=2)
    until(events, 3)
    state = StateFile(out(folder)).read()
    assert state.step == 2
    events.throw(Stop())
    StateFile(out(folder)).write(state)
    out(folder).unlink()
    assert same(run(folder, **values, resume=True).tensors, whole.tensors)


def test_a_run_is_made_longer(folder):
    short = run(folder, max_steps=2, state_every=10).tensors
    longer = run(folder, max_steps=4, resume=True, state_every=10)
    assert [s.step for s in longer.steps] == [3, 4]
    whole = run(folder / "whole", images=str(folder / "pictures"), max_steps=4)
    assert same(longer.tensors, whole.tensors)
    assert not same(short, longer.tensors)
    with pytest.raises(BadInput, match="finished") as caught:
        run(folder, max_steps=4, resume=True)
    assert [p.field for p in caught.value.problems] == ["resume"]


def test_the_state_of_another_run_is_not_lost_in_silence(folder):
    run(folder, state_every=1).path.unlink()
    with pytest.raises(BadInput, match="left its state") as caught:
        run(folder, state_every=1)
    assert [p.field for p in caught.value.problems] == ["resume"]
    assert StateFile(out(folder)).read().step == 2
    assert run(folder, state_every=1, overwrite=True, max_steps=1).steps
    assert StateFile(out(folder)).read().step == 1


def test_a_device_that_computes_otherwise_is_told(folder, monkeypatch):
    run(folder, state_every=1, precision="auto")
    monkeypatch.setattr(precision, "_automatic", lambda device: torch.bfloat16)
    with pytest.raises(BadInput, match="expected cpu, float32; got cpu, bfloat16") as caught:
        run(folder, precision="auto", resume=True, max_steps=4)
    assert [p.field for p in caught.value.problems] == ["resume"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: a model in two places needs a CUDA card")
def test_a_model_in_two_places_is_known_again():
    tensors = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert tensors_digest({**tensors, "b": tensors["b"].cuda()}) == tensors_digest(tensors)


def test_without_a_state_there_is_nothing_to_resume(folder):
    with pytest.raises(BadInput) as caught:
        run(folder, resume=True)
    assert [p.field for p in caught.value.problems] == ["resume"]
    run(folder)
    assert not StateFile(out(folder)).current.exists(), "no state is saved unless asked for"


@pytest.mark.parametrize("change", ["rank", "caption", "picture", "gone", "new", "checkpoint", "seed"])
def test_other_data_or_another_checkpoint_is_refused_by_name(folder, change):
    run(folder, state_every=1)
    shown, live, values, field = change, model(), {}, "images"
    if change in ("rank", "seed"):
        values, field = {change: 5}, change
    elif change == "caption":
        (folder / "pictures" / "1.txt").write_text("something else", encoding="utf8")
        shown = "1.png"
    elif change == "picture":
        Image.fromarray(np.full((64, 64, 3), 9, dtype=np.uint8)).save(folder / "pictures" / "2.png")
        shown = "2.png or its caption changed"
    elif change == "gone":
        (folder / "pictures" / "0.png").unlink()
        shown = "0.png is gone"
    elif change == "new":
        Image.fromarray(np.full((64, 64, 3), 9, dtype=np.uint8)).save(folder / "pictures" / "9.png")
        (folder / "pictures" / "9.txt").write_text("a", encoding="utf8")
        shown = "9.png is new"
    else:
        field, key = "checkpoint", "model.diffusion_model.out.2.weight"
        held = live.tensors[key]
        live.tensors[key] = held + 1
    try:
        with pytest.raises(BadInput) as caught:
            run(folder, live, max_steps=4, resume=True, **values)
    finally:
        if change == "checkpoint":
            live.tensors[key] = held
    assert [p.field for p in caught.value.problems] == [field]
    assert shown in str(caught.value)


def states(folder):
    identity = Identity({}, "name", "digest", {})
    return StateFile(folder), [State(identity, n, {"n": torch.full((3,), n)}) for n in (1, 2, 3)]


def test_the_previous_state_is_kept_and_a_damaged_one_passed_over(tmp_path):
    file, (one, two, three) = states(tmp_path / "x.safetensors")
    assert file.read() is None
    for state in (one, two, three):
        file.write(state)
    assert file.read().step == 3
    file.current.write_bytes(file.current.read_bytes()[:200])
    assert file.read().step == 2
    file.previous.write_bytes(b"")
    with pytest.raises(BadInput, match="damaged"):
        file.read()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_death_at_any_moment_of_saving_leaves_a_whole_state(tmp_path, monkeypatch, nth):
    file, (one, two, three) = states(tmp_path / "x.safetensors")
    file.write(one)
    file.write(two)
    replace, calls = os.replace, []

    def dying(source, target):
        calls.append(1)
        if len(calls) == nth:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        file.write(three)
    monkeypatch.undo()
    assert file.read().step == (2 if nth < 3 else 3)


def test_a_full_disk_costs_no_good_file(folder, monkeypatch):
    """While there is room a file and a state are saved; then there is none."""
    from lora_ext.formats import atomic

    events = start(folder, max_steps=5, state_every=1, save_every_steps=1)
    until(events, 3)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_write", full)
    told, failed = [], None
    try:
        told = list(events)
    except BadInput as e:
        failed = e
    assert failed is not None, "the run's own file could not be written: that is told"
    monkeypatch.undo()
    assert not told
    assert StateFile(out(folder)).read().step in (2, 3)
    kept = sorted(p.name for p in out(folder).parent.glob("*.safetensors"))
    assert "x-step000002.safetensors" in kept
    assert all(torch.isfinite(t).all() for t in contents(out(folder).parent / kept[-1])[0].values())
    assert not list(out(folder).parent.rglob("*.tmp"))
    again = run(folder, max_steps=5, resume=True)
    assert again.steps[-1].step == 5


def test_a_pause_gives_everything_back_and_goes_on_bit_for_bit(folder, unbroken):
    live = model()
    before = fingerprint(live)
    events = start(folder, **LONG)
    until(events, 3)
    said = [events.throw(Pause())]
    while not isinstance(said[-1], Paused):
        said.append(next(events))
    assert not any(isinstance(e, Step) for e in said), "no further step was begun"
    assert fingerprint(live) == before, "weights, flags and places are the host's"
    saved = next(e for e in said if isinstance(e, Saved))
    assert saved.path.is_file()
    assert not saved.final
    live.render(RenderRequest("a cat", steps=1, width=64, height=64))
    assert live._lock.acquire(blocking=False), "the lock is free"
    live._lock.release()
    rest = list(events)
    assert rest[-1] == Finished(6, "done")
    assert [e.step for e in rest if isinstance(e, Step)] == [4, 5, 6]
    assert same(contents(out(folder))[0], unbroken.tensors)
    assert fingerprint(live) == before


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_run_can_end_in_a_pause(folder, how):
    events = start(folder, max_steps=6)
    until(events, 2)
    event = events.throw(Pause())
    while not isinstance(event, Paused):
        event = next(events)
    if how == "stop":
        rest = [events.throw(Stop()), *events]
        assert rest[-1] == Finished(2, "stopped")
    else:
        events.close()
    assert contents(out(folder))[1]["ss_steps"] == "2"


def test_another_checkpoint_in_the_pause_is_told(folder):
    live = model()
    events = start(folder, live, max_steps=6)
    until(events, 2)
    event = events.throw(Pause())
    while not isinstance(event, Paused):
        event = next(events)
    key = "model.diffusion_model.out.2.weight"
    held = live.tensors[key]
    live.tensors[key] = held + 1
    try:
        with pytest.raises(BadInput, match="during the pause") as caught:
            next(events)
    finally:
        live.tensors[key] = held
    assert [p.field for p in caught.value.problems] == ["checkpoint"]
    assert (folder / "out" / "x-step000002.safetensors").is_file()


def test_a_job_pauses_and_goes_on(folder):
    job = Job(start(folder, max_steps=2000, only_layers="attn2.to_k"))
    job.start()
    wait_for(lambda: job.snapshot()["step"] >= 1)
    job.pause()
    wait_for(lambda: job.snapshot()["state"] == "paused")
    step = job.snapshot()["step"]
    assert model()._lock.acquire(timeout=5)
    model()._lock.release()
    assert job.snapshot()["step"] == step
    assert not job.over()
    job.go_on()
    wait_for(lambda: job.snapshot()["step"] > step)
    job.pause()
    wait_for(lambda: job.snapshot()["state"] == "paused")
    job.stop()
    job.join(60)
    assert job.snapshot()["state"] == "stopped"
    assert out(folder).is_file()


def wait_for(condition, seconds=120):
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def poisoned(monkeypatch, steps):
    """A learner whose loss is not a number in these calls (from 1)."""
    loss, seen = Learner.loss, []

    def bad(self, *given):
        seen.append(1)
        return loss(self, *given) * (float("nan") if len(seen) in steps else 1.0)

    monkeypatch.setattr(Learner, "loss", bad)


@about("bad_steps", "on_divergence")
def test_too_many_bad_steps_end_the_run_or_roll_back(folder, monkeypatch):
    poisoned(monkeypatch, range(3, 6))
    with pytest.raises(BadInput, match="last 3 steps"):
        run(folder / "a", images=str(folder / "pictures"), max_steps=9, bad_steps=3)
    monkeypatch.undo()
    rescued = contents(folder / "a" / "out" / "x-step000005.safetensors")[0]
    two = run(folder / "two", images=str(folder / "pictures"), max_steps=2).tensors
    assert same(rescued, two), "what was bad never reached the weights"

    poisoned(monkeypatch, range(3, 6))
    result = run(folder / "b", images=str(folder / "pictures"), max_steps=9, bad_steps=3, on_divergence="roll_back")
    assert any("back to what was learnt until step 0" in n.text for n in result.of(Notice))
    assert [s.learning_rate for s in result.steps] == pytest.approx([1e-2] * 5 + [5e-3] * 4)
    assert result.events[-1] == Finished(9, "done")
    assert all(torch.isfinite(t).all() for t in result.tensors.values())
    monkeypatch.undo()

    poisoned(monkeypatch, range(1, 100))
    with pytest.raises(BadInput, match="not finite"):
        run(folder / "c", images=str(folder / "pictures"), max_steps=40, bad_steps=3, on_divergence="roll_back")
    assert not list((folder / "c").rglob("*.safetensors"))


def test_a_roll_back_returns_to_a_remembered_step(folder, monkeypatch):
    monkeypatch.setattr("lora_ext.training.rollback.REMEMBER_EVERY", 2)
    poisoned(monkeypatch, range(6, 9))
    result = run(folder, max_steps=9, bad_steps=3, on_divergence="roll_back")
    assert any("until step 4" in n.text for n in result.of(Notice))


def short_of_memory(monkeypatch, fits):
    """A card on which only so many samples fit at once."""
    loss, sizes = Learner.loss, []

    def full(self, batch, draw=None):
        sizes.append(len(batch.latents))
        if not fits(len(batch.latents), self.checkpointing):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss(self, batch, draw)

    monkeypatch.setattr(Learner, "loss", full)
    return sizes


def test_out_of_memory_is_retried_smaller_with_the_same_mathematics(folder, monkeypatch):
    values = {"batch_size": 3, "pyramid_levels": 3, "min_snr_gamma": 5.0, "max_steps": 3}
    whole = run(folder / "whole", images=str(folder / "pictures"), **values)
    sizes = short_of_memory(monkeypatch, lambda size, checkpointing: size <= 1)
    result = run(folder, **values)
    assert sizes == [3, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    told = [n.text for n in result.of(Notice) if "Memory ran out" in n.text]
    assert len(told) == 1
    assert "pieces of 1" in told[0]
    assert [s.loss for s in result.steps] == pytest.approx([s.loss for s in whole.steps], rel=1e-3)


def test_at_one_sample_checkpointing_is_tried(folder, monkeypatch):
    sizes = short_of_memory(monkeypatch, lambda size, checkpointing: checkpointing)
    result = run(folder, batch_size=2, max_steps=2)
    assert sizes[:4] == [2, 1, 1, 1]
    assert any("gradient checkpointing is on" in n.text for n in result.of(Notice))
    assert len(result.steps) == 2


def test_what_does_not_fit_at_all_ends_the_run(folder, monkeypatch):
    short_of_memory(monkeypatch, lambda size, checkpointing: False)
    before = fingerprint(model())
    with pytest.raises(BadInput, match="out of memory"):
        run(folder, batch_size=2)
    assert fingerprint(model()) == before
