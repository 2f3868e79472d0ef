"""Jobs one after the other: order, failures, a restart of the process, a damaged file."""

from __future__ import annotations

import json
import threading
import time

import pytest

from lora_ext.errors import BadInput, Problem
from lora_ext.training.board import JobBoard
from lora_ext.training.events import Finished, Step, Stop
from lora_ext.training.queue import JobQueue
from lora_ext.training.queue_file import NAME, QueueFile, StoredJob


class Works:
    """Begins runs that wait for `gate`; those named in `refused` cannot begin, those in `broken` fail on the way."""

    def __init__(self):
        self.board, self.gate, self.begun = JobBoard(), threading.Event(), []
        self.refused, self.broken = set(), set()

    def begin(self, values):
        name = values["output"]
        if name in self.refused:
            raise BadInput(Problem("images", "the folder is gone"))
        self.begun.append((name, dict(values)))
        return self.board.start(lambda: self.run(name), name)

    def run(self, name):
        reason = "done"
        try:
            yield Step(1, 2, 1, 1, 0.5, 1e-4, 1.0)
            assert self.gate.wait(5)
            if name in self.broken:
                raise RuntimeError("boom")
            yield Step(2, 2, 1, 1, 0.5, 1e-4, 2.0)
        except Stop:
            reason = "stopped"
        yield Finished(2, reason)


@pytest.fixture
def works():
    made = Works()
    yield made
    made.gate.set()


@pytest.fixture
def queue(works, tmp_path):
    made = JobQueue()
    made.attach(works.begin, tmp_path / NAME)
    return made


def add(queue, *names):
    return [queue.add(name, {"output": name}) for name in names]


def places(queue):
    return {job["name"]: job["place"] for job in queue.view()["jobs"]}


def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def stored(tmp_path):
    path = tmp_path / NAME
    return [(j["name"], j["begun"]) for j in json.loads(path.read_text())["jobs"]] if path.exists() else []


def test_a_row_goes_on_past_what_fails(queue, works):
    works.refused, works.broken = {"b"}, {"c"}
    add(queue, "a", "b", "c", "d")
    assert set(places(queue).values()) == {"waiting"}
    works.gate.set()
    queue.go()
    until(lambda: places(queue)["d"] == "done")
    assert places(queue) == {"a": "done", "b": "failed", "c": "failed", "d": "done"}
    assert [name for name, _ in works.begun] == ["a", "c", "d"]
    problems = {job["name"]: job["problems"] for job in queue.view()["jobs"]}
    assert problems["b"] == [{"field": "images", "text": "the folder is gone."}]
    assert "boom" in problems["c"][0]["text"]


def test_what_is_added_during_a_run_follows_by_itself(queue, works):
    queue.start("now", {"output": "now"})
    add(queue, "next")
    with pytest.raises(BadInput, match="already running"):
        queue.start("too", {"output": "too"})
    assert places(queue) == {"now": "running", "next": "waiting"}
    works.gate.set()
    until(lambda: places(queue) == {"now": "done", "next": "done"})


def test_what_was_added_before_waits_to_be_asked_for(queue, works):
    add(queue, "later")
    works.gate.set()
    queue.start("now", {"output": "now"})
    until(lambda: places(queue)["now"] == "done")
    time.sleep(0.05)
    assert places(queue)["later"] == "waiting"


def test_stopping_a_job_stops_the_row(queue, works):
    queue.start("now", {"output": "now"})
    add(queue, "next")
    works.board.job.stop()
    works.gate.set()
    until(lambda: places(queue)["now"] == "stopped")
    time.sleep(0.05)
    assert (places(queue)["next"], queue.view()["going"]) == ("waiting", False)
    queue.go()
    until(lambda: places(queue)["next"] == "done")


def test_holding_lets_the_running_one_end(queue, works):
    queue.start("now", {"output": "now"})
    add(queue, "next")
    queue.hold()
    works.gate.set()
    until(lambda: places(queue)["now"] == "done")
    time.sleep(0.05)
    assert places(queue)["next"] == "waiting"


def test_one_job_after_another_at_once(queue, works):
    works.gate.set()
    for n in range(20):  # the end of a job and the start of the next come together
        queue.start(f"job {n}", {"output": f"job {n}"})
        works.board.job.join(5)


def test_order_and_removal(queue, works):
    a, b, c = add(queue, "a", "b", "c")
    queue.order([c, a, b])
    assert list(places(queue)) == ["c", "a", "b"]
    queue.remove(a)
    for wrong in ([c], [c, b, a], [c, c], [c, b, "x"]):
        with pytest.raises(BadInput, match="not the jobs"):
            queue.order(wrong)
    with pytest.raises(BadInput, match="no such job"):
        queue.remove(a)
    queue.go()
    until(lambda: places(queue)["c"] == "running")
    with pytest.raises(BadInput, match="the job runs"):
        queue.remove(c)
    with pytest.raises(BadInput, match="not the jobs"):
        queue.order([b, c])
    works.gate.set()
    until(lambda: places(queue)["b"] == "done")


def test_a_refused_start_leaves_no_trace(queue, works, tmp_path):
    works.refused = {"a"}
    with pytest.raises(BadInput):
        queue.start("a", {"output": "a"})
    assert (places(queue), stored(tmp_path)) == ({}, [])
    works.gate.set()
    queue.start("b", {"output": "b"})


def test_a_restart_offers_what_was_left(queue, works, tmp_path):
    add(queue, "later")
    queue.start("now", {"output": "now", "rank": 7})
    assert stored(tmp_path) == [("now", True), ("later", False)]
    after, again = Works(), JobQueue()
    again.attach(after.begin, tmp_path / NAME)  # the process was killed
    assert places(again) == {"now": "broken off", "later": "waiting"}
    time.sleep(0.05)
    assert (after.begun, again.view()["going"]) == ([], False)
    after.refused = {"now"}
    broken = again.view()["jobs"][0]["id"]
    with pytest.raises(BadInput):
        again.resume(broken, {"resume": True})
    assert (places(again)["now"], again.values(broken)) == ("broken off", {"output": "now", "rank": 7})
    after.refused = set()
    after.gate.set()
    again.resume(broken, {"resume": True})
    until(lambda: places(again)["now"] == "done")
    assert after.begun == [("now", {"output": "now", "rank": 7, "resume": True})]
    assert stored(tmp_path) == [("later", False)]


def test_a_host_that_reloads_its_ui_keeps_the_row(queue, works, tmp_path):
    add(queue, "a")
    newer = Works()
    newer.gate.set()
    queue.attach(newer.begin, tmp_path / NAME)
    assert list(places(queue)) == ["a"]
    queue.go()
    until(lambda: places(queue)["a"] == "done")
    assert (works.begun, [n for n, _ in newer.begun]) == ([], ["a"])
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": 2, "jobs": []}',
        '{"version": 1, "jobs": [{"id": 1, "name": "a", "begun": true, "settings": {}}]}',
        '{"version": 1, "jobs": [{"id": "1", "name": "a", "begun": true, "settings": {"a": [1]}}]}',
        '{"version": 1, "jobs": ["a"]}',
        "[" * 100_000,
        "\\xff",
    ],
)
def test_a_damaged_file_is_set_aside_and_told(works, tmp_path, text):
    (tmp_path / NAME).write_text(text)
    queue = JobQueue()
    queue.attach(works.begin, tmp_path / NAME)
    assert "damaged" in queue.view()["trouble"]
    assert (tmp_path / f"{NAME}.damaged").read_text() == text
    add(queue, "a")
    assert (stored(tmp_path), queue.view()["trouble"]) == ([("a", False)], "")


def test_a_disk_that_refuses_is_told_and_the_jobs_go_on(works, tmp_path):
    (tmp_path / "file").write_text("")
    queue = JobQueue()
    queue.attach(works.begin, tmp_path / "file" / NAME)
    works.gate.set()
    add(queue, "a")
    assert queue.view()["trouble"]
    queue.go()
    until(lambda: places(queue)["a"] == "done")


def test_a_file_is_read_as_it_was_written(tmp_path):
    jobs = [StoredJob("1", "кошка <b>", True, {"rank": 4, "learning_rate": 1e-4, "flip": True, "images": "D:\\x"})]
    file = QueueFile(tmp_path / "new folder" / NAME)
    file.write(jobs)
    assert file.read() == jobs
    file.write([])
    assert (file.read(), list((tmp_path / "new folder").iterdir())) == ([], [])
