"""What is thrown into a run at any moment: a file now, a preview now, or an end without a file."""

from __future__ import annotations

import pytest
from training_runs import config, contents, fingerprint, model, pictures, run, same

from lora_ext.training import Abort, Finished, Notice, Pause, Paused, Preview, PreviewNow, Saved, SaveNow, Step, train


@pytest.fixture
def folder(tmp_path):
    pictures(tmp_path / "pictures")
    return tmp_path


def start(folder, **values):
    return train(model(), config(folder, **values), output=folder / "out" / "x.safetensors")


def told(events, step, *wishes):
    """Everything a run says, with wishes thrown in at the event of one step."""
    said = [next(events)]
    while True:
        last = said[-1]
        try:
            if isinstance(last, Step) and last.step == step and wishes:
                wish, *wishes = wishes
                said.append(events.throw(wish()))
            else:
                said.append(next(events))
        except StopIteration:
            return said


def files(folder):
    return sorted(p.name for p in (folder / "out").glob("*.safetensors"))


def test_a_file_now_is_what_a_run_up_to_there_gives(folder):
    before = fingerprint(model())
    said = told(start(folder, max_steps=3), 1, SaveNow)
    assert fingerprint(model()) == before
    assert [(e.step, e.final) for e in said if isinstance(e, Saved)] == [(1, False), (3, True)]
    assert files(folder) == ["x-step000001.safetensors", "x.safetensors"]
    short = run(folder / "short", images=str(folder / "pictures"), max_steps=1)
    assert same(contents(folder / "out" / "x-step000001.safetensors")[0], short.tensors)
    whole = run(folder / "whole", images=str(folder / "pictures"), max_steps=3)
    assert same(contents(folder / "out" / "x.safetensors")[0], whole.tensors), "a wish changes nothing that is learnt"


def test_a_file_now_keeps_the_state_too(folder):
    told(start(folder, max_steps=3, state_every=100), 1, SaveNow)
    assert (folder / "out" / "x.state.previous").exists(), "one at the wish, one at the end"


def test_at_the_last_step_the_runs_own_file_is_the_one(folder):
    said = told(start(folder, max_steps=2), 2, SaveNow, Pause)
    assert [(e.step, e.final) for e in said if isinstance(e, Saved)] == [(2, True)]
    assert not [e for e in said if isinstance(e, Paused)]


def test_a_preview_now(folder):
    values = {"preview_prompt": "a cat", "preview_every": 100}
    said = told(start(folder, max_steps=3, **values), 2, PreviewNow)
    assert [(e.step, e.prompt) for e in said if isinstance(e, Preview)] == [(2, "a cat")]
    without = told(start(folder, max_steps=2, overwrite=True), 1, PreviewNow)
    assert any("preview prompt" in e.text for e in without if isinstance(e, Notice))
    assert not [e for e in without if isinstance(e, Preview)]


def test_a_wish_in_a_pause_waits_for_the_next_step(folder):
    events = start(folder, max_steps=3)
    event = next(events)
    while not isinstance(event, Step):
        event = next(events)
    while not isinstance(event, Paused):
        event = events.throw(Pause()) if isinstance(event, Step) else next(events)
    for wish in (SaveNow, Pause):
        assert events.throw(wish()) is event, "still paused"
    said = list(events)
    assert [(e.step, e.final) for e in said if isinstance(e, Saved)] == [(2, False), (3, True)]
    assert not [e for e in said if isinstance(e, Paused)]


@pytest.mark.parametrize("step", [None, 1], ids=["before the first step", "after a step"])
def test_an_abort_writes_nothing_and_gives_everything_back(folder, step):
    before = fingerprint(model())
    events = start(folder, max_steps=3, state_every=2)
    event = next(events)
    while step and not (isinstance(event, Step) and event.step == step):
        event = next(events)
    said = [events.throw(Abort()), *events]
    assert said == [Finished(step or 0, "aborted")]
    assert not (folder / "out").exists() or not [p for p in (folder / "out").iterdir() if "log" not in p.name]
    assert fingerprint(model()) == before


def test_an_abort_keeps_files_written_before(folder):
    told(start(folder, max_steps=4, save_every_steps=1), 2, Abort)
    assert files(folder) == ["x-step000001.safetensors"]
