"""The queue, wishes, log and results over HTTP; and what every address refuses."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass

import pytest
from fastapi import Depends, FastAPI, HTTPException
from PIL import Image
from refusals import fields
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api.reach import Reach
from lora_ext.api.service import named_paths
from lora_ext.config import TrainConfig, flat, read, settings
from lora_ext.errors import BadInput, Problem

V1 = "/lora-ext/v1"
KEY = {"x-lora-ext-key": api.PAGE_KEY}


def places(client):
    return {job["name"]: job["place"] for job in client.get(f"{V1}/jobs").json()["jobs"]}


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@dataclass(frozen=True)
class Address:
    method: str
    path: str

    @property
    def page(self):
        return self.path.startswith(f"{V1}/page/")

    @property
    def example(self):
        return re.sub(r"{\w+}", "1", self.path)


def every_route(service):
    app = FastAPI()
    api.mount(app, service)
    ours = [r for r in app.router.routes if r.path.startswith(f"{V1}/") and r.path != f"{V1}/schema"]
    return [Address(method, r.path) for r in ours for method in r.methods]


def test_no_page_route_answers_without_the_key(client, stage):
    pages = [route for route in every_route(stage.service) if route.page]
    assert len(pages) > 15
    for route in pages:
        for headers in ({}, {"x-lora-ext-key": "guess"}):
            answer = client.request(route.method, route.example, headers=headers)
            assert answer.status_code == 403, route


def test_no_route_that_changes_something_hears_another_site(client, stage):
    changing = [route for route in every_route(stage.service) if route.method != "GET"]
    assert len(changing) > 20
    for route in changing:
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = client.request(route.method, route.example, headers={**headers, **KEY})
            assert answer.status_code == 403, route


def test_every_api_route_asks_for_the_hosts_password(stage):
    def locked():
        raise HTTPException(401, "password?")

    app = FastAPI()
    api.mount(app, stage.service, [Depends(locked)])
    client = TestClient(app)
    for route in every_route(stage.service):
        if not route.page:
            assert client.request(route.method, route.example).status_code == 401, route
    assert client.get(f"{V1}/schema").status_code == 401
    assert client.get(f"{V1}/page/jobs", headers=KEY).status_code == 200


def test_the_schema_describes_every_route_and_setting(client, stage):
    schema = client.get(f"{V1}/schema").json()
    for route in every_route(stage.service):
        described = schema["paths"].get(route.path, {}).get(route.method.lower())
        assert (described is None) is route.page, route
        if described:
            named = [p["name"] for p in described.get("parameters", ()) if p["in"] == "path"]
            assert named == re.findall(r"{(\w+)}", route.path)
            assert len(described["summary"]) > 10, route
    body = schema["paths"][f"{V1}/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Settings"}
    known = schema["components"]["schemas"]["Settings"]
    assert list(known["properties"]) == list(settings(TrainConfig))
    assert known["properties"]["rank"]["minimum"] == 1
    assert set(known["required"]) == {"images", "output"}
    order = schema["paths"][f"{V1}/jobs/order"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert list(order["properties"]) == ["order"]


def test_checking_starts_nothing(client, stage):
    assert client.post(f"{V1}/check", json=stage.values()).status_code == 204
    assert fields(client.post(f"{V1}/check", json=stage.values(images="/nowhere", rank=0))) == {"rank"}
    assert fields(client.post(f"{V1}/check", json=stage.values(images="/nowhere"))) == {"images"}
    assert stage.script.runs == []


def test_a_queue_from_first_to_last(client, stage):
    ids = [client.post(f"{V1}/jobs", json=stage.values(output=name)).json()["id"] for name in "abc"]
    assert places(client) == {"a": "waiting", "b": "waiting", "c": "waiting"}
    answer = client.put(f"{V1}/jobs/order", json={"order": ids[::-1]})
    assert [job["name"] for job in answer.json()["jobs"]] == ["c", "b", "a"]
    assert client.request("DELETE", f"{V1}/jobs/{ids[1]}").status_code == 200
    assert client.get(f"{V1}/jobs/{ids[0]}/settings").json()["output"] == "a"
    assert client.get(f"{V1}/jobs/{ids[1]}/settings").status_code == 404
    assert client.post(f"{V1}/jobs/start").json()["going"] is True
    until(lambda: places(client) == {"c": "done", "a": "done"})
    assert [run.save.output for run in stage.script.runs] == ["c", "a"]
    assert {result["name"] for result in client.get(f"{V1}/results").json()} == {"a", "c"}


def test_adding_checks_everything_and_a_name_only_once(client, stage):
    wrong = client.post(f"{V1}/jobs", json=stage.values(rank=0, batch_size=0))
    assert (wrong.status_code, fields(wrong)) == (422, {"rank", "batch_size"})
    assert fields(client.post(f"{V1}/jobs", json=stage.values(images="/nowhere"))) == {"images"}
    assert client.post(f"{V1}/jobs", json=stage.values()).status_code == 201
    twice = client.post(f"{V1}/jobs", json=stage.values())
    assert "in the queue already" in twice.json()["problems"][0]["text"]
    assert client.post(f"{V1}/jobs", json=stage.values(overwrite=True)).status_code == 201


def test_what_changes_before_its_turn_fails_and_the_row_goes_on(client, stage):
    stage.script.hold.clear()
    client.post(f"{V1}/job", json=stage.values(output="now"))
    gone = stage.pictures.parent / "gone"
    gone.mkdir()
    client.post(f"{V1}/jobs", json=stage.values(output="second", images=str(gone)))
    client.post(f"{V1}/jobs", json=stage.values(output="third"))
    gone.rmdir()
    stage.script.hold.set()
    until(lambda: places(client)["third"] == "done")
    second = client.get(f"{V1}/jobs").json()["jobs"][1]
    assert (second["place"], second["problems"][0]["label"]) == ("failed", "Picture folder")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"order": 1}', b'{"order": [1]}', b'{"order": ["x"]}'])
def test_an_order_that_is_none(client, body):
    assert client.put(f"{V1}/jobs/order", content=body).status_code == 422


def test_wishes_over_http(client, stage):
    stage.script.pause = 0.005
    client.post(f"{V1}/job", json=stage.values(max_steps=10**5, preview_prompt="a cat", preview_every=10**5))
    until(lambda: client.get(f"{V1}/job").json()["step"] > 2)
    assert client.post(f"{V1}/job/pause").status_code == 202
    paused = stage.wait("paused")
    assert [s["final"] for s in paused["saved"]] == [False]
    assert client.post(f"{V1}/job/resume").json()["state"] == "running"
    client.post(f"{V1}/page/job/save", headers=KEY)
    client.post(f"{V1}/page/job/preview", headers=KEY)
    until(lambda: len(stage.service.snapshot()["saved"]) == 2)
    until(lambda: client.get(f"{V1}/previews").json()["previews"])
    shown = client.get(f"{V1}/previews").json()["previews"][0]
    small = client.get(f"{V1}/preview/{shown['id']}?small=1")
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (256, 256)
    assert client.post(f"{V1}/job/abort").status_code == 202
    stage.wait("aborted")
    assert not (stage.outputs / "my cat.safetensors").exists()
    events = client.get(f"{V1}/events").json()
    kinds = [line["kind"] for line in events["lines"]]
    assert {"stage", "notice", "saved", "paused", "resumed", "preview", "end"} <= set(kinds)
    later = client.get(f"{V1}/events?after={events['lines'][2]['n']}").json()["lines"]
    assert later == events["lines"][3:]
    assert client.get(f"{V1}/events?after=x").status_code == 422
    for name in ("pause", "resume", "save", "preview", "stop", "abort"):  # too late: nothing happens
        assert client.post(f"{V1}/job/{name}").json()["state"] == "aborted"


def test_a_broken_off_run_is_offered_and_goes_on(client, stage, monkeypatch):
    from lora_ext.api import waiting
    from lora_ext.training.resumable import BrokenOff

    toml = stage.outputs / "old.config.toml"
    toml.write_text(
        f"[data]\nimages = '{stage.pictures}'\n[save]\noutput = 'elsewhere/old'\n[model]\ncheckpoint = 'x'\n"
    )
    found = [BrokenOff("old", 40, 7.0, toml), BrokenOff("no settings", 3, 9.0, None)]
    monkeypatch.setattr(waiting, "broken_off", lambda folder: found)
    offers = client.get(f"{V1}/offers").json()
    assert offers == [{"id": "", "name": "old", "step": 40, "age": 7.0}]
    assert client.post(f"{V1}/offers/resume", json={"name": "no settings"}).status_code == 422
    assert client.post(f"{V1}/offers/resume", json={}).status_code == 422
    assert client.post(f"{V1}/offers/resume", json={"name": "old"}).status_code == 200
    stage.wait("done")
    assert (stage.script.runs[0].save.output, stage.script.runs[0].save.resume) == ("old", True)


def test_the_folder_is_reported_as_the_trainer_sees_it(client, stage):
    Image.new("RGB", (80, 64), "red").save(stage.pictures / "a.png")
    (stage.pictures / "a.txt").write_text("a cat")
    report = client.post(f"{V1}/data", json={"images": str(stage.pictures), "resolution": 64}).json()
    (picture,) = report["pictures"]
    assert (picture["name"], picture["caption"], picture["size"]) == ("a.png", "a cat", [80, 64])
    assert fields(client.post(f"{V1}/data", json={"images": "/nowhere"})) == {"images"}


# ---- paths ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(stage):
    """A client of a server that others can reach; only `pictures` is theirs."""
    reach = Reach(False, lambda: (stage.pictures,))
    app = FastAPI()
    api.mount(app, api.make_service(object, lambda: stage.outputs, reach=reach))
    return TestClient(app)


@pytest.mark.parametrize("address", ["job", "jobs", "check", "data"])
def test_paths_are_limited_where_others_can_reach_the_server(outside, stage, address):
    answer = outside.post(f"{V1}/{address}", json=stage.values(images=str(stage.outputs), mask_folder="/"))
    assert (answer.status_code, fields(answer)) == (422, {"images", "mask_folder"})
    assert "limited" in answer.json()["problems"][0]["text"]
    assert stage.script.runs == []


def test_every_setting_that_names_a_path_is_checked(stage):
    named = {"images", "mask_folder", "caption_file", "regularisation_images", "cache_folder", "start_from"}
    values = {name: f"/{name}" for name in named}
    line = "images = '/further', mask_folder = '/masks'"
    config = read(TrainConfig, {**stage.values(), **values, "datasets": line})
    assert dict(named_paths(config)).keys() == {*named, "datasets"}
    assert {path for name, path in named_paths(config) if name == "datasets"} == {"/further", "/masks"}
    texts = {name for name, s in settings(TrainConfig).items() if s.type is str and not s.choices}
    said = {name for name in texts if re.search(r"\b(folder|file)\b", settings(TrainConfig)[name].label, re.I)}
    assert said <= {*named, "caption_extensions"}, "a new setting names a path: add it to named_paths"


def test_inside_the_folders_all_is_well(outside, stage):
    assert outside.post(f"{V1}/check", json=stage.values()).status_code == 204
    assert flat(read(TrainConfig, stage.values()))["images"] == str(stage.pictures)


def test_a_failure_in_the_queue_is_told_at_its_job(client, stage):
    stage.script.failing = BadInput(Problem("resolution", "pictures are too large"))
    client.post(f"{V1}/jobs", json=stage.values())
    client.post(f"{V1}/jobs/start")
    until(lambda: "failed" in places(client).values())
    assert client.get(f"{V1}/jobs").json()["jobs"][0]["problems"][0]["field"] == "resolution"
