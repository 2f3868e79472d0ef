"""The HTTP calls: what they answer, whom they refuse, and that no host's own routes hide them."""

from __future__ import annotations

import io

import pytest
from fastapi import Depends, FastAPI, HTTPException
from PIL import Image
from refusals import fields
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api.service import _Announced
from lora_ext.config import TrainConfig, read, settings
from lora_ext.errors import BadInput, Problem
from lora_ext.training import Saved, Stop

JOB = "/lora-ext/v1/job"
PAGE_JOB = "/lora-ext/v1/page/job"
KEY = {"x-lora-ext-key": api.PAGE_KEY}


def test_a_run_from_start_to_file(client, stage):
    assert client.get(JOB).json()["state"] == "idle"
    answer = client.post(JOB, json=stage.values(preview_prompt="a cat", preview_every=10))
    assert answer.status_code == 202
    stage.wait("done")
    job = client.get(JOB).json()
    assert (job["step"], job["total"], job["name"]) == (30, 30, "my cat")
    assert job["saved"][-1] == {
        "step": 30,
        "name": "my cat",
        "path": str(stage.outputs / "my cat.safetensors"),
        "final": True,
    }
    assert stage.saved == [stage.outputs / "my cat.safetensors"]
    assert len(job["losses"]) == 30
    assert client.get(f"{JOB}?after=25").json()["losses"] == job["losses"][25:]
    png = client.get(f"/lora-ext/v1/preview/{job['preview']['id']}")
    assert png.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(png.content)).size == (256, 256)
    assert client.get("/lora-ext/v1/preview/99").status_code == 404


def test_all_problems_at_once(client, stage):
    answer = client.post(JOB, json={"rank": 0, "learning_rate": "much", "seeds": 1})
    assert answer.status_code == 422
    assert fields(answer) == {"images", "output", "rank", "learning_rate", "seeds"}
    rank = next(p for p in answer.json()["problems"] if p["field"] == "rank")
    assert rank["label"] == "Rank"
    assert "1 to 1024" in rank["text"]
    assert client.get(JOB).json()["state"] == "idle"


def test_what_only_the_run_can_know_is_told_at_once_too(client, stage):
    answer = client.post(JOB, json=stage.values(images=str(stage.pictures / "none")))
    assert (answer.status_code, fields(answer)) == (422, {"images"})


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'"text"'])
def test_a_body_that_is_no_object(client, body):
    assert client.post(JOB, content=body).status_code == 422


def test_only_one_run_at_a_time(client, stage):
    stage.script.hold.clear()
    assert client.post(JOB, json=stage.values()).status_code == 202
    second = client.post(JOB, json=stage.values(output="other"))
    assert second.status_code == 422
    assert "already running" in second.json()["problems"][0]["text"]


def test_stop_keeps_what_was_learnt(client, stage):
    stage.script.pause = 0.01
    client.post(JOB, json=stage.values(max_steps=10000))
    while client.get(JOB).json()["step"] < 3:
        pass
    assert client.post(f"{JOB}/stop").json()["state"] in ("stopping", "stopped")
    assert stage.wait("stopped")["step"] < 10000
    assert (stage.outputs / "my cat.safetensors").exists()


def test_the_hosts_own_interrupt_stops_it(stage):
    service = api.make_service(object, lambda: stage.outputs, should_stop=lambda: True)
    service.start(stage.values(max_steps=10000))
    assert stage.wait("stopped")["step"] < 10000


def test_a_failing_run_names_the_field(client, stage):
    stage.script.failing = BadInput(Problem("resolution", "pictures are too large", "at most 64 px", "512"))
    client.post(JOB, json=stage.values())
    stage.wait("failed")
    problem = {"field": "resolution", "label": "Resolution"}
    text = "Pictures are too large; expected at most 64 px; got 512."
    assert client.get(JOB).json()["problems"] == [{**problem, "text": text}]


def test_a_crash_is_told(client, stage):
    stage.script.failing = RuntimeError("it broke")
    client.post(JOB, json=stage.values())
    stage.wait("failed")
    assert "it broke" in client.get(JOB).json()["problems"][0]["text"]


def test_losses_that_json_cannot_hold(client, stage, monkeypatch):
    monkeypatch.setattr("scripted.loss", lambda step: float("nan"))
    client.post(JOB, json=stage.values())
    stage.wait("done")
    job = client.get(JOB).json()
    assert (job["losses"], job["loss_mean"]) == ([], None)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # a program
        ({"sec-fetch-site": "same-origin", "origin": "http://testserver"}, True),
        ({"origin": "http://testserver"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://evil.example"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://testserver:1"}, False),
        ({"origin": "null"}, False),
    ],
)
@pytest.mark.parametrize("path", [JOB, f"{JOB}/stop"])
def test_other_sites_cannot_steer(client, headers, allowed, path):
    assert (client.post(path, json={}, headers=headers).status_code != 403) is allowed


def locked() -> None:
    raise HTTPException(401, "password?")


def test_dependencies_guard_the_api_but_not_the_tab(stage):
    app = FastAPI()
    api.mount(app, stage.service, [Depends(locked)])
    client = TestClient(app)
    guarded = [("GET", JOB), ("POST", JOB), ("POST", f"{JOB}/stop"), ("GET", "/lora-ext/v1/settings")]
    for method, path in [*guarded, ("GET", "/lora-ext/v1/preview/1")]:
        assert client.request(method, path).status_code == 401, path
    assert client.get(PAGE_JOB, headers=KEY).json()["state"] == "idle"


@pytest.mark.parametrize("headers", [{}, {"x-lora-ext-key": ""}, {"x-lora-ext-key": "guess"}])
@pytest.mark.parametrize("path", [PAGE_JOB, "/lora-ext/v1/page/preview/1"])
def test_the_tabs_routes_want_its_key(client, headers, path):
    assert client.get(path, headers=headers).status_code == 403
    assert client.get(path, headers=KEY).status_code in (200, 404)


def test_mounting_twice_and_before_a_catch_all(stage):
    app = FastAPI()

    @app.get("/{path:path}")
    def everything(path: str) -> str:
        return "host"

    found = []
    for _ in range(2):
        api.mount(app, stage.service)
        found.append([r.path for r in app.router.routes if getattr(r, "path", "").startswith("/lora-ext")])
    assert found[0] == found[1] != []
    assert TestClient(app).get(JOB).json()["state"] == "idle"
    assert TestClient(app).get("/other").json() == "host"


def test_settings_come_from_config(client):
    answer = client.get("/lora-ext/v1/settings").json()
    assert [s["name"] for s in answer] == list(settings(TrainConfig))
    assert all(s["label"] and s["type"] in ("str", "int", "float", "bool") for s in answer)


def test_a_new_service_shows_the_same_run(stage):
    stage.script.hold.clear()
    stage.service.start(stage.values(rank=7))
    again = api.make_service(object, lambda: stage.outputs)
    assert again.snapshot()["run"] == stage.service.snapshot()["run"] != ""
    assert again.values()["rank"] == 7
    assert again.page_key == stage.service.page_key


def test_what_is_thrown_in_reaches_the_run(stage):
    run = _Announced(stage.script.train(object(), config(stage), output=stage.outputs / "x.safetensors"), print)
    next(run)
    assert isinstance(run.throw(Stop()), Saved)


def config(stage):
    return read(TrainConfig, stage.values())


@pytest.mark.parametrize("name", ["my cat", "my cat.safetensors", " my cat ", "кошка", "a.b", "v1.0", "com", "console"])
def test_good_names(name, tmp_path):
    path = api.output_path(name, tmp_path)
    assert (path.parent, path.suffix) == (tmp_path, ".safetensors")
    assert path.stem == name.strip().removesuffix(".safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "../a",
        "/a",
        "a\\b",
        "C:a",
        "a:b",
        "a<b",
        "a>b",
        'a"b',
        "a|b",
        "a?",
        "a*",
        "a\nb",
        "a\0",
        "",
        " ",
        ".",
        "..",
        "...",
        ".a",
        "a.",
        ".safetensors",
        "a .safetensors",
        "con",
        "CON",
        "nul.txt",
        "Com1",
        "lpt9.safetensors",
        "aux.b",
        "x" * 151,
        "ж" * 100,
    ],
)
def test_bad_names(name, tmp_path):
    with pytest.raises(BadInput) as caught:
        api.output_path(name, tmp_path)
    assert [p.field for p in caught.value.problems] == ["output"]


def test_a_name_that_is_there_already(client, stage):
    (stage.outputs / "my cat.safetensors").write_bytes(b"mine")
    assert fields(client.post(JOB, json=stage.values())) == {"output"}
    assert client.post(JOB, json=stage.values(overwrite=True)).status_code == 202
