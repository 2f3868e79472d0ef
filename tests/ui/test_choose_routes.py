"""Step 4 over HTTP: what runs saved, the sheet that compares it, and picking."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api import moving, picking
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.prompt import parse

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


def pick(client, **wish):
    return client.post(f"{V1}/pick", json={"name": "best cat", "strength": 0.8, **wish})


def notes(stage, name):
    return json.loads((stage.outputs / f"{name}.json").read_text(encoding="utf8"))


def test_a_picked_file_is_a_card(client, stage):
    stage.save_run("my cat", (100, 200), trigger_words="sks cat")
    before = (stage.outputs / "my cat-step000200.safetensors").read_bytes()
    (stage.outputs / "my cat-step000200.json").write_text('{"notes": "mine", "preferred weight": 1}', encoding="utf8")
    (stage.outputs / "my cat-step000200.png").write_bytes(b"an older picture")
    client.post(f"{V1}/sheet", json=wish(ids(client)))
    sheet = until(client, "done")
    cell = next(c["id"] for c in sheet["cells"] if (c["column"], c["row"]) == (1, 1))
    answer = pick(client, file=ids(client)[1], trigger="sks cat", description="<b>A cat</b>", cell=cell)
    assert answer.json() == {
        "name": "best cat", "tag": "<lora:best cat:0.8>", "prompt": "<lora:best cat:0.8> sks cat",
        "deleted": [], "trouble": "",
    }  # fmt: skip
    assert (stage.outputs / "best cat.safetensors").read_bytes() == before
    assert notes(stage, "best cat") == {
        "notes": "mine", "preferred weight": 0.8, "activation text": "sks cat", "description": "<b>A cat</b>",
        "sd version": "SD1",
    }  # fmt: skip
    assert (stage.outputs / "best cat.preview.png").read_bytes() == client.get(
        f"{V1}/sheet/pictures/{cell}.png"
    ).content
    assert (stage.outputs / "best cat.png").read_bytes() == b"an older picture"
    assert not list(stage.outputs.glob("my cat-step000200*"))
    assert stage.saved == [stage.outputs / "best cat.safetensors"]
    assert client.get(f"{V1}/sheet").json()["columns"][1]["file"] == "best cat.safetensors"
    told = [(f["file"], f["label"]) for f in client.get(f"{V1}/saved").json()["runs"][0]["files"]]
    assert told == [("my cat-step000100.safetensors", "step 100"), ("best cat.safetensors", "best cat")]


def test_only_what_the_same_run_left_unnamed_is_deleted(client, stage):
    stage.save_run("my cat", (100, 200, 300), final=400, begun=1_600_000_000.0)  # an older run of the same name
    stage.save_run("my cat", (100, 200), final=250)
    stage.save_run("my cats", (100,))
    (stage.outputs / "my cat-step000500.safetensors").write_bytes(b"someone else's")
    (stage.outputs / "my cat.state").write_bytes(b"state")
    (stage.outputs / "my cat.log.csv").write_bytes(b"log")
    listed = client.get(f"{V1}/saved").json()["runs"]
    assert [[f["step"] for f in run["files"]] for run in listed] == [[100, 200, 250], [100], [300]]
    assert [run["name"].partition(" (")[0] for run in listed] == ["my cat", "my cats", "my cat"]
    answer = pick(client, file="my cat-step000100.safetensors", others="delete").json()
    assert answer["deleted"] == ["my cat-step000200", "my cat", "my cat.state"]
    left = {path.name for path in stage.outputs.iterdir()}
    assert left == {
        "best cat.safetensors", "best cat.json", "my cat-step000300.safetensors", "my cat-step000500.safetensors",
        "my cats-step000100.safetensors", "my cat.log.csv",
    }  # fmt: skip


def test_what_was_picked_before_is_never_deleted(client, stage):
    stage.save_run("my cat", (100, 200, 300))
    pick(client, file="my cat-step000200.safetensors", name="second best")
    pick(client, file="my cat-step000300.safetensors", name="my cat-step000300")  # under its own name, with notes
    assert pick(client, file="my cat-step000100.safetensors", others="delete").json()["deleted"] == []


def test_the_state_of_a_run_goes_with_its_own_file(client, stage):
    stage.save_run("my cat", (), final=100)
    (stage.outputs / "my cat.state").write_bytes(b"state")
    pick(client, file="my cat.safetensors")
    assert (stage.outputs / "best cat.state").read_bytes() == b"state"
    assert not (stage.outputs / "my cat.state").exists()


UNSPEAKABLE = (
    ["", "  ", "a<b", "a:b", "a,b", "a=b", "../up", "a/b", "a\\b", "con", "LPT1.x", "x" * 151, "猫" * 60, ".hidden",
     "a\u202eb", "a\nb", "half \ud83d", "my cat-step000200", "MY CAT-STEP000200", "taken", "noted", 7, None]
)  # fmt: skip


def test_names_that_a_tag_or_a_system_cannot_have_are_refused(client, stage):
    stage.save_run("my cat", (100, 200))
    (stage.outputs / "sub").mkdir()
    (stage.outputs / "sub" / "Taken.pt").write_bytes(b"")
    (stage.outputs / "noted.json").write_bytes(b"{}")
    before = {path: path.read_bytes() for path in stage.outputs.rglob("*") if path.is_file()}
    for name in UNSPEAKABLE:
        body = json.dumps({"file": "my cat-step000100.safetensors", "name": name, "strength": 1})
        answer = client.post(f"{V1}/pick", content=body)
        assert (answer.status_code, set(fields(answer))) == (422, {"name"}), name
    assert {path: path.read_bytes() for path in stage.outputs.rglob("*") if path.is_file()} == before


def test_other_names_are_taken(client, stage):
    stage.save_run("my cat", (100,))
    file = "my cat-step000100.safetensors"
    for name in ("my cat-step000100", "My Cat-Step000100", "猫と犬", "кот", "été (v1.5) [x] {y}"):
        assert pick(client, file=file, name=f" {name}.safetensors").json()["name"] == name
        file = f"{name}.safetensors"
        assert [path.name for path in stage.outputs.glob("*.safetensors")] == [file]
        assert parse(f"a <lora:{name}:0.8>").wanted[0].name == name


WRONG = (
    ({"strength": "NaN"}, "strength"),
    ({"strength": 0}, "strength"),
    ({"strength": 1e9}, "strength"),
    ({"strength": True}, "strength"),
    ({"trigger": ["a"]}, "trigger"),
    ({"trigger": "x" * 20_001}, "trigger"),
    ({"cell": "0"}, "cell"),
    ({"cell": 3}, "cell"),
    ({"others": "all"}, "others"),
    ({"others": ["keep"]}, "others"),
    ({"file": "../my cat-step000100.safetensors"}, "file"),
    ({"file": "gone.safetensors"}, "file"),
    ({"file": "foreign.safetensors"}, "file"),
    ({"file": None}, "file"),
)


def test_a_wrong_pick_changes_nothing(client, stage):
    stage.save_run("my cat", (100,))
    (stage.outputs / "foreign.safetensors").write_bytes(b"x" * 100)
    for wrong, field in WRONG:
        answer = pick(client, **{"file": "my cat-step000100.safetensors", **wrong})
        assert (answer.status_code, fields(answer)) == (422, [field]), wrong
    assert len(list(stage.outputs.iterdir())) == 2


def test_a_picture_of_another_file_is_no_preview(client, stage):
    stage.save_run("my cat", (100, 200))
    client.post(f"{V1}/sheet", json=wish(ids(client)))
    cells = {(c["column"], c["row"]): c["id"] for c in until(client, "done")["cells"]}
    for cell in (cells[1, 1], cells[0, 0]):
        answer = pick(client, file=ids(client)[0], cell=cell)
        assert (answer.status_code, fields(answer)) == (422, ["cell"])


def test_a_disk_that_refuses_leaves_all_as_it_was(client, stage, monkeypatch):
    stage.save_run("my cat", (100,))
    (stage.outputs / "my cat-step000100.txt").write_text("told", encoding="utf8")
    before = {path: path.read_bytes() for path in stage.outputs.iterdir()}

    def refuse(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picking, "move", refuse)
    answer = pick(client, file="my cat-step000100.safetensors")
    assert (answer.status_code, fields(answer)) == (422, ["name"])
    assert "No space left" in answer.text
    assert {path: path.read_bytes() for path in stage.outputs.iterdir()} == before


def test_two_picks_at_once_do_not_take_each_others_name(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    moving.move(tmp_path / "a", tmp_path / "c")
    with pytest.raises(BadInput):
        moving.move(tmp_path / "b", tmp_path / "c")
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == [("b", b"b"), ("c", b"a")]


def test_a_file_system_without_second_names_serves_too(tmp_path, monkeypatch):
    def refuse(*paths, **more):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(moving.os, "link", refuse)
    test_two_picks_at_once_do_not_take_each_others_name(tmp_path)


MUCH = [n / 1000 for n in range(1, 500)]
BAD_SHEETS = (
    (b"{", ""),
    (b"[1]", ""),
    (b'{"files": NaN}', "files"),
    ({"files": []}, "files"),
    ({"files": "my cat-step000100.safetensors"}, "files"),
    ({"files": ["../loras/my cat-step000100.safetensors"]}, "files"),
    ({"files": ["/etc/passwd.safetensors"]}, "files"),
    ({"files": ["..\\my cat-step000100.safetensors"]}, "files"),
    ({"files": ["C:my cat.safetensors"]}, "files"),
    ({"files": ["gone.safetensors"]}, "files"),
    ({"files": ["x" * 5000 + ".safetensors"]}, "files"),
    ({"files": ["nul\0.safetensors"]}, "files"),
    ({"files": ["\ud83d.safetensors"]}, "files"),
    ({"files": [1]}, "files"),
    ({"files": ["big-step000100.safetensors"]}, "files"),
    ({"files": ["damaged.safetensors"]}, "files"),
    ({"strengths": [float("nan")]}, "strengths"),
    ({"strengths": [float("inf")]}, "strengths"),
    ({"strengths": ["1"]}, "strengths"),
    ({"strengths": MUCH}, "files"),
    ({"prompts": []}, "prompts"),
    ({"prompts": ["x" * 5000]}, "prompts"),
    ({"prompts": ["a <lora:my cat:1>"]}, "prompts"),
    ({"seed": 2**40}, "seed"),
    ({"seed": 10**400}, "seed"),
    ({"pictures": 1e9}, "pictures"),
    ({"steps": 0}, "steps"),
    ({"cfg": "x"}, "cfg"),
    ({"width": 8192}, "width"),
    ({"height": 65}, "height"),
    ({"negative": 5}, "negative"),
    ({"colour": "red"}, "colour"),
)


def test_what_cannot_be_a_sheet_is_refused_by_field(client, stage):
    stage.save_run("my cat", (100,))
    stage.save_run("big", (100,), family="sdxl")
    (stage.outputs / "damaged.safetensors").write_bytes(b"<html>" * 9)
    for wrong, field in BAD_SHEETS:
        body = wrong if isinstance(wrong, bytes) else json.dumps({**wish(["my cat-step000100.safetensors"]), **wrong})
        answer = client.post(f"{V1}/sheet", content=body)
        assert answer.status_code == 422, wrong
        assert field in fields(answer), (wrong, answer.text)
    assert not stage.script.sheets
    text = client.post(f"{V1}/sheet", json=wish(["big-step000100.safetensors"])).json()["problems"][0]["text"]
    assert "big-step000100 was made for SDXL, and the loaded model is SD 1.x" in text


def test_halves_of_characters_break_no_answer(client, stage):
    stage.save_run("my cat", (100,), trigger_words="sks \ud83d", preview_prompt="a \ud83d cat")
    odd = os.fsencode(stage.outputs) + b"/caf\xe9.safetensors"
    if sys.platform == "linux":
        shutil.copy(stage.outputs / "my cat-step000100.safetensors", odd)
    run = client.get(f"{V1}/saved").json()["runs"][0]
    assert (run["trigger"], run["prompts"], len(run["files"])) == ("sks ?", ["a ? cat"], 1)
    body = json.dumps(wish(ids(client), prompts=["half \ud83d"], negative="half \ud83d"))
    assert client.post(f"{V1}/sheet", content=body).status_code == 202
    assert until(client, "done")["rows"][0]["prompt"] == "half ?"
    assert client.get(f"{V1}/sheet.png").status_code == 200
    picked = client.post(f"{V1}/pick", content=json.dumps({"file": ids(client)[0], "name": "x", "trigger": "\ud83d"}))
    assert picked.json()["prompt"] == "<lora:x:1> ?"


def test_a_sheet_is_refused_while_a_run_trains_and_made_while_it_is_paused(client, stage):
    stage.save_run("old", (100,))
    stage.script.hold.clear()
    stage.service.start(stage.values(output="new", max_steps=500))
    assert client.post(f"{V1}/sheet", json=wish(ids(client))).status_code == 409
    assert client.get(f"{V1}/saved").json()["running"] == "new"
    stage.script.hold.set()
    stage.service.job.pause()
    stage.wait("paused")
    assert client.post(f"{V1}/sheet", json=wish(ids(client, 0))).status_code == 202
    until(client, "done")
    taken = pick(client, file="old-step000100.safetensors", name="new")  # the run would write over it at its end
    assert fields(taken) == ["name"]


def test_a_training_that_begins_meanwhile_holds_the_sheet_up(client, stage):
    stage.save_run("old", (100, 200))
    stage.script.brush.clear()
    client.post(f"{V1}/sheet", json=wish(["old-step000100.safetensors"]))
    stage.script.hold.clear()
    stage.service.start(stage.values(output="new"))
    stage.script.brush.set()
    time.sleep(0.5)
    held = client.get(f"{V1}/sheet").json()
    assert (held["state"], held["done"] <= 1) == ("running", True)
    refused = pick(client, file="old-step000100.safetensors")  # the sheet still needs it
    assert (refused.status_code, fields(refused)) == (422, ["file"])
    stage.script.hold.set()
    stage.wait("done")
    assert until(client, "done")["done"] == 3


def test_a_sheet_that_fails_says_why_and_keeps_what_is_made(client, stage):
    stage.save_run("my cat", (100,))
    for spoiled, said in (
        (
            BadInput(Problem("files", "my cat is not there any more", fix="Choose again.")),
            "My cat is not there any more",
        ),
        (RuntimeError("the sampler broke"), "RuntimeError: the sampler broke"),
    ):
        stage.script.brush.clear()
        stage.script.spoiled = None
        client.post(f"{V1}/sheet", json=wish(ids(client)))
        stage.script.spoiled = spoiled
        stage.script.brush.set()
        sheet = until(client, "failed")
        assert said in sheet["error"]
        assert len(sheet["rows"]) == 3
    assert client.get(f"{V1}/sheet.png").status_code == 404
    assert client.get(f"{V1}/sheet/pictures/0.png").status_code == 404
