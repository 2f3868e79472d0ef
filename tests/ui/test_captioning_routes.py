"""Describing pictures over HTTP: nothing is fetched or written unasked, and what is said can be taken back."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest
from fastapi import Depends, FastAPI
from PIL import Image
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api import captioning, pictures
from lora_ext.api.door import guards
from lora_ext.api.reach import Reach
from lora_ext.captioner import Captioners, Tag, Weights
from lora_ext.data.editing import Desk
from lora_ext.errors import BadInput, Problem

BASE = "/lora-ext/v1"


class Service:
    """What the routes need of one."""

    state = "idle"

    def snapshot(self, after=0):
        return {"state": self.state}


class Host:
    """A host's tagger that is fetched first, and waits before each picture when held."""

    name, label, kind = "host", "Host's own", "tags"

    def __init__(self):
        self.there, self.free, self.fails = False, threading.Event(), None
        self.free.set()

    def weights(self):
        return Weights(self.there, "/models/host", "https://example.org/host", 5)

    def fetch(self, progress, stop):
        progress(1, 2)
        if self.fails:
            raise self.fails
        self.there = True

    @contextmanager
    def opened(self, stop):
        def say(image):
            self.free.wait(20)
            if self.fails:
                raise self.fails
            return [Tag("some_thing", 0.9), Tag("guess", 0.2)]

        yield say


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def client(tmp_path, monkeypatch, host, service):
    monkeypatch.setattr(pictures, "desk", Desk(lambda: tmp_path / "cache"))
    monkeypatch.setattr(captioning, "bench", captioning._Bench())
    (tmp_path / "pictures").mkdir()
    for n in range(3):
        Image.new("RGB", (64, 64), (80 * n, 0, 0)).save(tmp_path / "pictures" / f"p{n}.png")
    (tmp_path / "pictures" / "p0.txt").write_text("cat")
    app = FastAPI()
    brought = Captioners((host,), tmp_path / "models")
    groups = (captioning.CaptionRoutes(service, brought), pictures.PictureRoutes(Reach(True, tuple)))
    for route in (route for group in groups for route in group.routes()):
        asked = [Depends(guard) for guard in guards(route, api.PAGE_KEY)]
        app.add_api_route(BASE + route.path, route.endpoint, methods=[route.method], dependencies=asked)
    yield TestClient(app)
    host.free.set()


@pytest.fixture
def key(client, tmp_path):
    found = client.post(f"{BASE}/pictures", json={"images": str(tmp_path / "pictures"), "resolution": 64}).json()["key"]
    pictures.desk.get(found).wait(20)
    return found


def ended(client):
    for _ in range(1000):
        job = client.get(f"{BASE}/captioners").json()["job"]
        if not job["busy"]:
            return job
        time.sleep(0.01)
    raise AssertionError("it never ends")


def captions(client, key):
    return [entry["text"] for entry in client.get(f"{BASE}/pictures/{key}").json()["entries"]]


def ask(client, key, **more):
    return client.post(f"{BASE}/pictures/{key}/captions", json={"captioner": "host", **more})


def test_from_fetching_to_undoing(client, host, key, tmp_path):
    listed = client.get(f"{BASE}/captioners").json()["captioners"]
    mine = next(one for one in listed if one["name"] == "host")
    assert (mine["present"], mine["place"], mine["megabytes"]) == (False, "/models/host", 5)
    assert len(listed) >= 5
    assert not any(one["present"] for one in listed)
    assert ask(client, key).json()["problems"][0]["field"] == "captioner"
    assert not (tmp_path / "models").exists()
    assert client.post(f"{BASE}/captioners/host/fetch").status_code == 200
    assert ended(client)["said"] == "The model is on disk."
    assert ask(client, key, mode="append").status_code == 200
    job = ended(client)
    assert (job["said"], job["values"], job["done"], job["total"]) == ("{0} captions changed.", [3], 3, 3)
    assert captions(client, key) == ["cat, some thing", "some thing", "some thing"]
    assert [p.name for p in (tmp_path / "pictures").glob("*.txt")] == ["p0.txt"]
    client.post(f"{BASE}/pictures/{key}/undo")
    assert captions(client, key) == ["cat", None, None]
    ask(client, key, mode="empty", numbers=[0, 1])
    ended(client)
    assert captions(client, key) == ["cat", "some thing", None]
    ask(client, key, mode="overwrite", threshold=0.1, numbers=[0])
    ended(client)
    assert captions(client, key)[0] == "some thing, guess"


def test_cancelling_and_one_at_a_time(client, host, key):
    host.there = True
    host.free.clear()
    assert ask(client, key, mode="overwrite").json()["job"]["busy"]
    assert "at work" in ask(client, key).json()["problems"][0]["text"]
    client.post(f"{BASE}/captioners/cancel")
    host.free.set()
    job = ended(client)
    assert job["said"].startswith("Cancelled")
    assert job["values"] == [1]


@pytest.mark.parametrize("failure", [BadInput(Problem("captioner", "no connection")), RuntimeError("out of memory")])
def test_failures_are_told(client, host, key, failure):
    host.there, host.fails = True, failure
    ask(client, key, mode="overwrite")
    problem = ended(client)["problems"][0]
    assert problem["field"] == "captioner"
    assert str(failure).rpartition(": ")[2].lower().rstrip(".") in problem["text"].lower()
    assert captions(client, key) == ["cat", None, None]
    host.fails = None
    ask(client, key, mode="overwrite")
    assert ended(client)["problems"] == []


def test_not_while_a_training_runs(client, host, key, service):
    host.there, service.state = True, "running"
    assert "training" in ask(client, key).json()["problems"][0]["text"]
    service.state = "paused"
    assert ask(client, key).status_code == 200
    ended(client)


@pytest.mark.parametrize(
    "body", [{"captioner": "none"}, {"mode": "x"}, {"threshold": 0}, {"numbers": "x"}, {"captioner": None}]
)
def test_bad_wishes(client, host, key, body):
    host.there = True
    answer = ask(client, key, **body)
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["text"]
    assert client.post(f"{BASE}/captioners/none/fetch").status_code == 422


def test_doors(client, key):
    for path in ("captioners/cancel", "captioners/host/fetch", f"pictures/{key}/captions"):
        assert client.post(f"{BASE}/{path}", headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert client.post(f"{BASE}/page/{path}").status_code == 403
    assert client.get(f"{BASE}/page/captioners").status_code == 403
