"""The folder of pictures over HTTP: what it answers, whom it refuses, and that nothing leaves its folder."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi import Depends, FastAPI
from PIL import Image
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api import pictures
from lora_ext.api.door import guards
from lora_ext.api.reach import Reach
from lora_ext.data.editing import Desk

BASE = "/lora-ext/v1"
KEY = {"x-lora-ext-key": api.PAGE_KEY}


@dataclass
class Stage:
    """Where the pictures are."""

    pictures: Path


@pytest.fixture
def stage(tmp_path):
    (tmp_path / "pictures").mkdir()
    return Stage(tmp_path / "pictures")


def app_of(routes):
    app = FastAPI()
    for route in routes.routes():
        asked = [Depends(guard) for guard in guards(route, api.PAGE_KEY)]
        app.add_api_route(BASE + route.path, route.endpoint, methods=[route.method], dependencies=asked)
    return TestClient(app)


@pytest.fixture
def client(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "desk", Desk(lambda: tmp_path / "cache"))
    for n in range(3):
        low = np.random.default_rng(n).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(low).resize((96, 64)).save(stage.pictures / f"p{n}.png")
    (stage.pictures / "p0.txt").write_text("cat, sofa")
    return app_of(pictures.PictureRoutes(Reach(True, tuple)))


def opened(client, stage, **values):
    state = client.post(f"{BASE}/pictures", json={"images": str(stage.pictures), "resolution": "64", **values}).json()
    for _ in range(500):
        if state["complete"]:
            return state
        time.sleep(0.01)
        fresh = client.get(f"{BASE}/pictures/{state['key']}").json()
        state = fresh
    raise AssertionError("it is never read")


def test_from_opening_to_saving(client, stage):
    state = opened(client, stage)
    place = f"{BASE}/pictures/{state['key']}"
    assert [e["name"] for e in state["entries"]] == ["p0.png", "p1.png", "p2.png"]
    assert state["problems"][0]["field"] == "concept"
    picture = client.get(f"{place}/thumbnail/0")
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (96, 64)
    assert Image.open(io.BytesIO(client.get(f"{place}/trained/0").content)).size == tuple(state["entries"][0]["bucket"])
    assert client.get(f"{place}/whole/0").status_code == 200
    now = client.post(f"{place}/edit", json={"texts": {"1": "a dog"}, "after": state["revision"]}).json()
    assert ([e["name"] for e in now["entries"]], now["unsaved"], now["changed"]) == (["p1.png"], 1, 1)
    now = client.post(f"{place}/bulk", json={"action": "add", "words": "red", "numbers": [0, 1]}).json()
    assert [e["text"] for e in now["entries"]] == ["cat, sofa, red", "a dog, red", None]
    assert now["undo"] == "Tags added"
    now = client.post(f"{place}/undo", json={}).json()
    assert [e["text"] for e in now["entries"]] == ["cat, sofa", "a dog", None]
    assert client.post(f"{place}/redo").json()["changed"] == 2
    assert not (stage.pictures / "p1.txt").exists()
    now = client.post(f"{place}/save", json={}).json()
    assert (now["saved"]["written"], now["unsaved"]) == (2, 0)
    assert (stage.pictures / "p1.txt").read_text() == "a dog, red"
    kept = client.get(f"{place}/backups").json()["backups"]
    assert [b["count"] for b in kept] == [2]
    assert client.post(f"{place}/restore", json={"backup": kept[0]["name"]}).json()["changed"] == 2
    (stage.pictures / "p0.txt").write_text("others were here")
    assert client.post(f"{place}/save").json()["saved"]["conflicts"] == ["p0.txt"]
    assert client.post(f"{place}/save", json={"conflicts": "mine"}).json()["saved"]["written"] == 2
    assert (stage.pictures / "p0.txt").read_text() == "cat, sofa"
    assert client.post(f"{place}/revert").json()["changed"] == 0


def test_wrong_settings_are_told_and_the_folder_opens(client, stage):
    state = opened(client, stage, concept="x")
    assert state["problems"] == []
    answer = client.post(f"{BASE}/pictures", json={"images": str(stage.pictures), "resolution": "many", "rank": 3})
    assert [p["field"] for p in answer.json()["problems"]][:1] == ["resolution"]
    assert answer.json()["entries"]
    for images in ("", "/no/such/folder", "\0"):
        answer = client.post(f"{BASE}/pictures", json={"images": images})
        assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, "images")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "pictures/none", None, 422),
        ("GET", "pictures/KEY?after=x", None, 422),
        ("GET", "pictures/KEY/thumbnail/99", None, 404),
        ("GET", "pictures/KEY/thumbnail/x", None, 404),
        ("GET", "pictures/KEY/trained/0?view=-1", None, 404),
        ("POST", "pictures/KEY/edit", {"texts": {"99": "x"}}, 422),
        ("POST", "pictures/KEY/edit", {"texts": ["x"]}, 422),
        ("POST", "pictures/KEY/edit", {"texts": {"0": 1}}, 422),
        ("POST", "pictures/KEY/edit", [], 422),
        ("POST", "pictures/KEY/bulk", {"action": "delete"}, 422),
        ("POST", "pictures/KEY/bulk", {"action": "add", "words": 5}, 422),
        ("POST", "pictures/KEY/bulk", {"action": "replace_pattern", "words": "("}, 422),
        ("POST", "pictures/KEY/bulk", {"action": "add", "words": "x", "numbers": "all"}, 422),
        ("POST", "pictures/KEY/save", {"conflicts": "yes"}, 422),
        ("POST", "pictures/KEY/restore", {"backup": "../.."}, 422),
        ("POST", "pictures/KEY/restore", {}, 422),
    ],
)
def test_bad_requests_are_told(client, stage, method, path, body, status):
    key = opened(client, stage)["key"]
    answer = client.request(method, f"{BASE}/{path.replace('KEY', key)}", json=body)
    assert answer.status_code == status
    assert answer.json()["problems"][0]["text"]


def test_dropped_files(client, stage):
    picture = (stage.pictures / "p1.png").read_bytes()
    where = f"{BASE}/picture-file?folder={stage.pictures}"
    assert client.put(f"{where}&name=../../new.png", content=picture).json() == {"name": "new.png", "known": False}
    assert (stage.pictures / "new.png").read_bytes() == picture
    assert client.put(f"{where}&name=p0.png", content=picture).json()["name"] == "p0 (2).png"
    for name, data in (("x.exe", b"MZ"), ("x.png", b"<html>"), ("", b"")):
        answer = client.put(f"{where}&name={name}", content=data)
        assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, "file")
    answer = client.put(f"{BASE}/picture-file?folder=&name=a.png", content=picture)
    assert answer.json()["problems"][0]["field"] == "images"


def all_routes():
    listed = pictures.PictureRoutes(Reach(True, tuple)).routes()
    return [(r.method, r.path.replace("{key}", "k").replace("{number}", "1"), r.page) for r in listed]


def test_doors(client, stage):
    listed = all_routes()
    assert len(listed) == 28
    for method, path, page in listed:
        if page:
            assert client.request(method, BASE + path).status_code == 403, path
            assert client.request(method, BASE + path, headers=KEY).status_code != 403, path
        if method != "GET":
            for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
                assert client.request(method, BASE + path, headers={**KEY, **headers}).status_code == 403, path


def test_paths_are_limited_when_others_can_reach_the_server(client, stage, tmp_path):
    inside = tmp_path / "shared"
    inside.mkdir()
    client = app_of(pictures.PictureRoutes(Reach(False, lambda: [inside])))
    Image.new("RGB", (64, 64)).save(inside / "a.png")
    assert client.post(f"{BASE}/pictures", json={"images": str(inside)}).status_code == 200
    for values in (
        {"images": str(stage.pictures)},
        {"images": str(inside / ".." / "pictures")},
        {"images": str(inside), "mask_folder": str(stage.pictures)},
        {"images": str(inside), "caption_file": str(stage.pictures / "p0.txt")},
    ):
        answer = client.post(f"{BASE}/pictures", json=values)
        assert answer.status_code == 422, values
        assert "open to others" in answer.json()["problems"][0]["text"]
    data = (stage.pictures / "p0.png").read_bytes()
    assert client.put(f"{BASE}/picture-file?folder={stage.pictures}&name=n.png", content=data).status_code == 422
    assert client.put(f"{BASE}/picture-file?folder={inside}/new&name=n.png", content=data).status_code == 200
    assert not (stage.pictures / "n.png").exists()
