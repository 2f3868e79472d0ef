"""A run in its own thread: watched, stopped, failed, one at a time."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_ext.errors import BadInput, Problem
from lora_ext.training.board import JobBoard
from lora_ext.training.events import Abort, Finished, Notice, Paused, Preview, Saved, Stage, Step, Stop, Validated
from lora_ext.training.hearing import Wishes, hearing
from lora_ext.training.job import Job

PATH = Path("somewhere") / "cat.safetensors"


def step(n, total=10, loss=0.5, seconds=None):
    return Step(n, total, 1, 2, loss, 1e-4, float(n) if seconds is None else seconds)


def script(*events, gate=None, closed=None):
    """A run that says `events`, waiting for `gate` after each, and obeys Stop as the real one does."""
    reason = "done"
    try:
        for event in events:
            yield event
            if gate:
                assert gate.wait(5)
    except Stop:
        reason = "stopped"
        yield Saved(1, PATH, final=True)
    finally:
        if closed:
            closed.set()
    yield Finished(1, reason)


def done(job):
    job.join(5)
    assert job.over()
    return job.snapshot()


def run(*events, **kinds):
    job = Job(script(*events, **kinds), "cat")
    job.start()
    return done(job)


def test_it_tells_everything_as_json():
    picture = Image.new("RGB", (8, 8), "red")
    snapshot = run(
        Notice("hello"),
        Stage("Training", 0, 10),
        step(1),
        step(2, loss=None),
        step(3),
        Preview(3, "a cat", picture),
        Saved(10, PATH, final=True),
    )
    assert json.loads(json.dumps(snapshot))["state"] == "done"
    assert snapshot["stage"] == {"name": "Training", "done": 0, "total": 10}
    assert (snapshot["step"], snapshot["total"], snapshot["epoch"], snapshot["epochs"]) == (3, 10, 1, 2)
    assert snapshot["losses"] == [(1, 0.5), (3, 0.5)]
    assert (snapshot["cursor"], snapshot["loss_mean"], snapshot["learning_rate"]) == (3, 0.5, 1e-4)
    assert (snapshot["seconds"], snapshot["eta"]) == (3.0, 7.0)
    assert snapshot["notices"] == ["hello"]
    assert snapshot["preview"] == {"id": 1, "step": 3, "prompt": "a cat"}
    assert snapshot["saved"] == [{"step": 10, "name": "cat", "path": str(PATH), "final": True}]
    assert snapshot["problems"] == []


def test_the_cursor_brings_only_news():
    job = Job(script(step(1), step(2), step(3)))
    job.start()
    done(job)
    assert job.snapshot(2)["losses"] == [(3, 0.5)]
    assert (job.snapshot(3)["losses"], job.snapshot(3)["cursor"]) == ([], 3)


def test_time_left_ignores_the_slow_first_step():
    assert run(step(1, seconds=100.0), step(2, seconds=101.0), step(3, seconds=102.0))["eta"] == 7.0
    assert run(step(1, seconds=100.0))["eta"] is None


def test_a_snapshot_is_not_a_window():
    job = Job(script(Notice("a")))
    job.start()
    job.join(5)
    job.snapshot()["notices"].append("mine")
    assert job.snapshot()["notices"] == ["a"]


def test_memory_is_bounded():
    picture = Image.new("RGB", (8, 8))
    job = Job(script(*[Notice(str(i)) for i in range(999)], *[Preview(i, "", picture) for i in range(99)]))
    job.start()
    snapshot = done(job)
    assert snapshot["notices"][-1] == "998"
    assert len(snapshot["notices"]) < 999
    assert snapshot["preview"]["id"] == 99
    assert [p["id"] for p in job.previews()] == list(range(1, 100))
    assert job.preview(99).startswith(b"\x89PNG")
    assert job.thumbnail(99).startswith(b"\xff\xd8")
    assert (job.preview(100), job.thumbnail(100)) == (None, None)


def test_stop_is_heard_in_any_stage_and_keeps_what_was_learnt():
    gate, closed = threading.Event(), threading.Event()
    job = Job(script(*[Stage("Caching latents", i, 10**6) for i in range(10**5)], gate=gate, closed=closed))
    job.start()
    job.stop()
    assert job.snapshot()["state"] == "stopping"
    gate.set()
    snapshot = done(job)
    assert snapshot["state"] == "stopped"
    assert [s["final"] for s in snapshot["saved"]] == [True]
    assert snapshot["stage"]["done"] < 100
    assert closed.is_set()


def test_the_hosts_own_interrupt_button_stops_too():
    pressed = threading.Event()
    gate = threading.Event()
    job = Job(script(*[step(i) for i in range(1, 1000)], gate=gate), should_stop=pressed.is_set)
    job.start()
    pressed.set()
    gate.set()
    assert done(job)["state"] == "stopped"


def obedient(*, steps=10**7, gate=None, heard=None):
    """A run that does what is wished, as the real one does."""
    wishes = Wishes()

    def events():
        reason, n = "done", 0
        try:
            for n in range(1, steps + 1):
                yield step(n)
                if gate:
                    assert gate.wait(5)
                done = [name for name in ("pause", "save", "preview") if getattr(wishes, name)]
                wishes.pause = wishes.save = wishes.preview = False
                if heard is not None:
                    heard.extend((name, n) for name in done)
                if "save" in done:
                    yield Saved(n, PATH, final=False)
                if "pause" in done:
                    yield Paused(n)
        except Stop:
            reason = "stopped"
        except Abort:
            reason = "aborted"
        yield Finished(n, reason)

    return hearing(events(), wishes)


def reach(job, state):
    for _ in range(500):
        if job.snapshot()["state"] == state:
            return job.snapshot()
        time.sleep(0.01)
    raise AssertionError(f"still {job.snapshot()['state']}")


def test_wishes_reach_the_run_one_after_the_other():
    gate, heard = threading.Event(), []
    job = Job(obedient(gate=gate, heard=heard))
    job.start()
    for wish in (job.save_now, job.preview_now, job.pause):
        wish()
    assert job.snapshot()["state"] == "pausing"
    gate.set()
    paused = reach(job, "paused")
    assert {name for name, _ in heard} == {"save", "preview", "pause"}
    assert paused["saved"][-1]["final"] is False
    heard.clear()
    job.save_now()  # while paused: done after the pause
    time.sleep(0.05)
    assert (heard, job.snapshot()["state"]) == ([], "paused")
    job.go_on()
    assert job.snapshot()["state"] == "running"
    while not heard:
        time.sleep(0.01)
    assert heard[0][0] == "save"
    job.abort()
    assert done(job)["state"] == "aborted"
    texts = [line["text"] for line in job.lines()]
    assert texts.index("Step {0}: paused, the model is given back") < texts.index("Going on")
    assert texts[-1] == "Step {0}: aborted, nothing more was saved"


def test_a_pause_that_is_taken_back_at_once():
    gate = threading.Event()
    job = Job(obedient(steps=30, gate=gate))
    job.start()
    job.pause()
    job.go_on()
    gate.set()
    assert done(job)["state"] == "done"


@pytest.mark.parametrize(("end", "state"), [("stop", "stopped"), ("abort", "aborted")])
def test_a_paused_run_can_be_ended(end, state):
    job = Job(obedient())
    job.start()
    job.pause()
    reach(job, "paused")
    getattr(job, end)()
    assert done(job)["state"] == state


def test_an_abort_counts_for_more_than_a_stop_not_heard_yet():
    gate = threading.Event()
    job = Job(obedient(gate=gate))
    job.start()
    job.stop()
    job.abort()
    job.stop()
    gate.set()
    assert done(job)["state"] == "aborted"


def test_the_interrupt_button_is_not_ours_in_a_pause():
    pressed = threading.Event()
    job = Job(obedient(), should_stop=pressed.is_set)
    job.start()
    job.pause()
    reach(job, "paused")
    pressed.set()
    time.sleep(0.05)
    assert job.snapshot()["state"] == "paused"
    pressed.clear()
    job.stop()
    done(job)


def test_pace_rates_and_log():
    job = Job(script(Stage("Training", 0, 9), *[step(n, seconds=n / 4) for n in range(1, 6)], Validated(5, 0.123456)))
    job.start()
    snapshot = done(job)
    assert snapshot["speed"] == 4.0
    assert snapshot["rates"] == [(n, 1e-4) for n in range(1, 6)]
    assert job.snapshot(3)["rates"] == [(4, 1e-4), (5, 1e-4)]
    lines = job.lines()
    assert [line["n"] for line in lines] == list(range(1, snapshot["lines"] + 1))
    assert [line["kind"] for line in lines] == ["stage", "measured", "end"]
    assert lines[1]["values"] == [5, "0.1235"]
    assert all(abs(line["at"] - time.time()) < 60 for line in lines)
    assert job.lines(2) == lines[2:]


def test_stopping_after_the_end_does_nothing():
    job = Job(script(step(1)))
    job.start()
    done(job)
    job.stop()
    assert job.snapshot()["state"] == "done"


def failing(error):
    yield step(1)
    raise error


@pytest.mark.parametrize(
    ("error", "problems"),
    [
        (
            BadInput(Problem("rank", "is odd", "even", "3"), Problem("", "and so on")),
            [{"field": "rank", "text": "is odd; expected even; got 3."}, {"field": "", "text": "and so on."}],
        ),
        (RuntimeError("boom"), [{"field": "", "text": "RuntimeError: boom"}]),
    ],
)
def test_failure_is_told_by_field(error, problems):
    job = Job(failing(error))
    job.start()
    snapshot = done(job)
    assert snapshot["state"] == "failed"
    assert snapshot["problems"] == problems
    assert snapshot["losses"] == [(1, 0.5)]


def test_the_run_is_closed_when_watching_it_fails():
    closed = threading.Event()
    job = Job(script(Preview(1, "", None), closed=closed))  # a picture that cannot be encoded
    job.start()
    assert done(job)["state"] == "failed"
    assert closed.is_set()


def test_one_at_a_time():
    board, gate = JobBoard(), threading.Event()
    assert board.snapshot()["state"] == "idle"
    job = board.start(lambda: script(step(1), gate=gate), "one")
    with pytest.raises(BadInput, match="already running"):
        board.start(lambda: script(step(1)), "two")
    assert board.snapshot()["name"] == "one"
    gate.set()
    job.join(5)
    first = board.snapshot()["run"]
    board.start(lambda: script(step(1)), "two").join(5)
    assert board.snapshot()["name"] == "two"
    assert board.snapshot()["run"] != first


def test_of_many_starts_at_once_one_wins():
    board, gate, barrier = JobBoard(), threading.Event(), threading.Barrier(8)
    outcomes = []

    def begin():
        time.sleep(0.05)  # loading the model takes a while
        return script(step(1), gate=gate)

    def press():
        barrier.wait(5)
        try:
            board.start(begin)
            outcomes.append("started")
        except BadInput:
            outcomes.append("refused")

    threads = [threading.Thread(target=press) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(5)
    gate.set()
    assert sorted(outcomes) == ["refused"] * 7 + ["started"]


def test_a_start_that_is_refused_leaves_the_board_as_it_was():
    board = JobBoard()
    board.start(lambda: script(step(1)), "good").join(5)

    def bad():
        raise BadInput(Problem("rank", "no"))

    with pytest.raises(BadInput):
        board.start(bad)
    assert board.snapshot()["name"] == "good"
    assert board.snapshot()["state"] == "done"
    board.start(lambda: script(step(1)), "again").join(5)
    assert board.snapshot()["name"] == "again"


@pytest.mark.parametrize(("card", "told"), [(True, 3 * 2**30), (False, None)])
def test_the_memory_of_a_card_is_told_where_there_is_one(monkeypatch, card, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda number: number * 3 * 2**30)
    assert run(step(1))["memory"] == told
