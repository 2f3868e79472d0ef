"""Step 4 over HTTP: what runs saved, the sheet that compares it, and picking."""

from __future__ import annotations

import io
import time

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from lora_ext import api

V1 = "/lora-ext/v1"
KEY = {"x-lora-ext-key": api.PAGE_KEY}


@pytest.fixture
def client(stage):
    app = FastAPI()
    api.mount(app, stage.service)
    return TestClient(app)


def until(client, *states):
    for _ in range(1000):
        now = client.get(f"{V1}/sheet").json()
        if now["state"] in states:
            return now
        time.sleep(0.01)
    raise AssertionError(f"still {now}")


def wish(files, **more):
    return {"files": files, "strengths": [0, 0.7, 1], "prompts": ["a cat"], "width": 64, "height": 64, **more}


def fields(answer):
    return [problem["field"] for problem in answer.json()["problems"]]


def ids(client, run=0):
    return [file["file"] for file in client.get(f"{V1}/saved").json()["runs"][run]["files"]]


def test_saved_files_are_listed_by_run_with_their_losses(client, stage):
    stage.save_run("my cat", (100, 200), {100: 0.5, 150: 0.4, 200: 0.25}, final=300, trigger_words="sks cat")
    (stage.outputs / "foreign.safetensors").write_bytes(b"someone else's")
    stage.save_run("old", (10,), begun=1_600_000_000.0, preview_prompt="a dog --w 768\na cat", preview_strength=0.8)
    cat, old = client.get(f"{V1}/saved").json()["runs"]
    assert (cat["name"], cat["family"], cat["trigger"], cat["prompts"], cat["strength"]) == (
        "my cat", "sd1", "sks cat", [], None,
    )  # fmt: skip
    told = [(f["file"], f["label"], f["step"], f["loss"], f["final"]) for f in cat["files"]]
    assert told == [
        ("my cat-step000100.safetensors", "step 100", 100, 0.5, False),
        ("my cat-step000200.safetensors", "step 200", 200, 0.25, False),
        ("my cat.safetensors", "final", 300, None, True),
    ]
    assert cat["files"][0]["saved"] == 1_700_000_100.0
    assert cat["files"][0]["bytes"] == (stage.outputs / "my cat-step000100.safetensors").stat().st_size
    assert (old["name"], old["prompts"], old["strength"]) == ("old", ["a dog", "a cat"], 0.8)


def test_a_sheet_is_made_and_shown(client, stage):
    stage.save_run("my cat", (100, 200))
    answer = client.post(f"{V1}/page/sheet", json=wish(ids(client), seed=5, pictures=2), headers=KEY)
    assert answer.status_code == 202
    sheet = until(client, "done")
    assert (sheet["done"], sheet["total"], sheet["error"], sheet["left"]) == (10, 10, "", None)
    assert [c["label"] for c in sheet["columns"]] == ["step 100", "step 200"]
    assert [(r["strength"], r["seed"]) for r in sheet["rows"]] == [(s, n) for n in (5, 6) for s in (0, 0.7, 1)]
    places = {(cell["column"], cell["row"]): cell["id"] for cell in sheet["cells"]}
    assert len(places) == 12
    assert places[0, 0] == places[1, 0]  # the model alone, painted once
    assert places[0, 1] != places[1, 1]
    picture = client.get(f"{V1}/page/sheet/pictures/{places[1, 1]}.png", headers=KEY)
    assert Image.open(io.BytesIO(picture.content)).size == (64, 64)
    small = client.get(f"{V1}/sheet/pictures/{places[1, 1]}/small")
    assert Image.open(io.BytesIO(small.content)).format == "JPEG"
    whole = Image.open(io.BytesIO(client.get(f"{V1}/sheet.png").content))
    assert whole.width > 2 * 64
    assert whole.height > 6 * 64


def test_one_sheet_at_a_time(client, stage):
    stage.save_run("my cat", (100,))
    stage.script.brush.clear()
    assert client.post(f"{V1}/sheet", json=wish(ids(client))).status_code == 202
    assert client.post(f"{V1}/sheet", json=wish(ids(client))).status_code == 409
    client.delete(f"{V1}/sheet")
    client.delete(f"{V1}/sheet")
    stage.script.brush.set()
    assert until(client, "cancelled")["done"] <= 1
    assert client.post(f"{V1}/sheet", json=wish(ids(client))).status_code == 202
    until(client, "done")
