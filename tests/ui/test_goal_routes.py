"""Goals, presets and settings files over HTTP: what is answered, whom it refuses."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from scripted_model import model
from starlette.testclient import TestClient

from lora_ext import api
from lora_ext.api.door import guards
from lora_ext.api.exchange import ExchangeRoutes
from lora_ext.api.forecast import Forecaster
from lora_ext.api.goal import GoalRoutes
from lora_ext.api.presets import PresetRoutes
from lora_ext.api.reach import Reach
from lora_ext.cli.flags import Parser, add_flags, values
from lora_ext.cli.train import TrainCommand
from lora_ext.config import TrainConfig, flat, read, settings
from lora_ext.config_import import read_foreign
from lora_ext.errors import BadInput, Problem

BASE = "/lora-ext/v1"
KEY = {"x-lora-ext-key": api.PAGE_KEY}
ELSEWHERE = {"sec-fetch-site": "cross-site"}
NEEDED = {"images": "p", "output": "cat"}
IDLE = {"run": "", "state": "idle", "step": 0, "seconds": 0.0}
FOREIGN = Path(__file__).parents[1] / "config_import" / "files"


@dataclass
class Place:
    """What the routes need of a service."""

    presets_folder: Path
    family: str = "sd1"
    page_key: str = api.PAGE_KEY

    def __post_init__(self):
        known = Forecaster(self.live, lambda: IDLE, lambda: None)
        self.model, self.forecast, self.fits = known.model, known.forecast, known.fits

    def live(self):
        if not self.family:
            raise BadInput(Problem("", "no checkpoint is loaded"))
        return model(self.family)


@pytest.fixture
def place(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(b"")
    return Place(tmp_path / "presets")


def client_of(place, reach):
    app = FastAPI()
    for group in (GoalRoutes(place, reach), PresetRoutes(place), ExchangeRoutes(place, reach)):
        for route in group.routes():
            asked = [Depends(guard) for guard in guards(route, api.PAGE_KEY)]
            app.add_api_route(BASE + route.path, route.endpoint, methods=[route.method], dependencies=asked)
    return TestClient(app)


@pytest.fixture
def client(place):
    return client_of(place, Reach(True, tuple))


def said(answer, status=422):
    assert answer.status_code == status
    return {p["field"]: p["text"] for p in answer.json()["problems"]}


# ---- goal -----------------------------------------------------------------------------------------------------------


def test_a_goal_becomes_settings_for_the_model_and_the_pictures(client, place, tmp_path):
    assert client.get(f"{BASE}/model").json()["title"] == "SD 1.x"
    answer = client.post(f"{BASE}/suggestion", json={"goal": "character", "values": {"images": str(tmp_path)}}).json()
    assert answer["pictures"] == 4
    assert answer["settings"]["epochs"] == 150
    assert answer["reasons"][0]["values"] == [150, 4, "600"]
    read(TrainConfig, {**NEEDED, **answer["settings"]})
    place.family = "sdxl"
    assert client.post(f"{BASE}/suggestion", json={"goal": "style"}).json()["settings"]["resolution"] == 1024
    assert "goal" in said(client.post(f"{BASE}/suggestion", json={"goal": "fame"}))
    assert "values" in said(client.post(f"{BASE}/suggestion", json={"goal": "style", "values": 3}))
    place.family = ""
    assert "no checkpoint" in said(client.post(f"{BASE}/suggestion", json={"goal": "style"}))[""].lower()
    assert client.get(f"{BASE}/model").status_code == 422


def test_the_rest_of_the_form_does_not_keep_a_suggestion_back(client, tmp_path):
    wrong = {"images": str(tmp_path), "rank": "", "nonsense": 1}
    assert client.post(f"{BASE}/suggestion", json={"goal": "object", "values": wrong}).json()["pictures"] == 4
    wrong["images"] = str(tmp_path / "nowhere")
    assert client.post(f"{BASE}/suggestion", json={"goal": "object", "values": wrong}).json()["pictures"] == 0


def test_previews_show_captions_where_nothing_else_is_wished(client, tmp_path):
    for n, caption in enumerate(["a sks cat --w 9", "a sks cat on a sofa", "a sks cat on a sofa", "a sks cat, asleep"]):
        (tmp_path / f"{n}.txt").write_text(caption, encoding="utf8")

    def prompt(**values):
        body = {"goal": "character", "values": {"images": str(tmp_path), **values}}
        return client.post(f"{BASE}/suggestion", json=body).json()["settings"].get("preview_prompt")

    assert prompt() == "a sks cat on a sofa"  # the first would be read as a prompt with a width of its own
    (tmp_path / "0.txt").unlink()
    assert prompt() == "a sks cat on a sofa\na sks cat, asleep"
    assert prompt(trigger_words="ohwx") == "ohwx\nohwx, a sks cat on a sofa"
    assert prompt(preview_prompt="my own") == "my own"
    assert prompt(images=str(tmp_path / "nowhere")) is None


def test_a_forecast_counts_what_a_suggestion_counts(client, tmp_path):
    values = {"images": str(tmp_path), "epochs": "3", "validation_share": "50"}
    told = client.post(f"{BASE}/forecast", json=values).json()
    assert (told["counted"], told["pictures"], told["steps"]) == (4, 2, 6)
    assert set(said(client.post(f"{BASE}/forecast", json={"rank": 0, "nonsense": 1}))) == {"rank", "nonsense"}


@pytest.mark.parametrize("path", ["suggestion", "forecast", "presets", "presets/file", "settings/import"])
def test_only_the_page_and_programs_may_ask(client, path):
    assert client.post(f"{BASE}/{path}", json={}, headers=ELSEWHERE).status_code == 403
    assert client.post(f"{BASE}/page/{path}", json={}).status_code == 403
    assert client.post(f"{BASE}/page/{path}", json={}, headers={**KEY, **ELSEWHERE}).status_code == 403
    assert client.post(f"{BASE}/page/{path}", json={}, headers=KEY).status_code in (200, 422)


def test_a_server_open_to_others_reads_nothing_elsewhere(place, tmp_path):
    client = client_of(place, Reach(False, lambda: [tmp_path / "allowed"]))
    for path, body in (
        ("suggestion", {"goal": "style", "values": {"images": str(tmp_path)}}),
        ("suggestion", {"goal": "style", "values": {"caption_file": str(tmp_path / "secret.json")}}),
        ("suggestion", {"goal": "style", "values": {"datasets": f"caption_file = '{tmp_path}'"}}),
        ("forecast", {"images": str(tmp_path)}),
        ("forecast", {"regularisation_images": str(tmp_path)}),
        ("forecast", {"datasets": f"images = '{tmp_path}'"}),
        ("settings/import", {"path": str(FOREIGN / "lora-scripts.toml")}),
        ("settings/import", {"name": "a.toml", "text": "dataset_config = '/etc/secret.toml'"}),
        ("settings/import", {"name": "a.toml", "text": "[x]\ndataset_config = '../secret.toml'"}),
    ):
        assert "limited" in next(iter(said(client.post(f"{BASE}/{path}", json=body)).values()))


# ---- presets --------------------------------------------------------------------------------------------------------


def test_a_preset_is_saved_shared_and_taken_in(client, place):
    body = {"name": "My style", "values": {**NEEDED, "rank": "48"}, "goal": "style", "family": "sd1"}
    assert client.post(f"{BASE}/presets", json=body).json()["name"] == "My style"
    assert "already" in said(client.post(f"{BASE}/presets", json=body))["preset"]
    assert client.post(f"{BASE}/presets", json={**body, "overwrite": True}).status_code == 200
    one = client.get(f"{BASE}/presets/My style").json()
    assert one["settings"] == {"rank": 48}
    assert "cat" not in one["file"]
    assert client.delete(f"{BASE}/presets/My style").json() == {"presets": []}
    assert client.post(f"{BASE}/presets/file", json={"text": one["file"]}).json()["name"] == "My style"
    listed = client.get(f"{BASE}/presets").json()["presets"]
    assert listed == [{"name": "My style", "note": "", "goal": "style", "family": "sd1", "problem": ""}]
    (place.presets_folder / "bad.json").write_text("{")
    assert {p["name"]: bool(p["problem"]) for p in client.get(f"{BASE}/presets").json()["presets"]} == {
        "bad": True,
        "My style": False,
    }


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fsecret", "a%00b", "C:%5Cx", "nothing"])
def test_no_name_leads_out_of_the_folder(client, place, tmp_path, name):
    (tmp_path / "secret.json").write_text('{"lora_ext_preset": 1, "name": "secret", "settings": {}}')
    assert client.get(f"{BASE}/presets/{name}").status_code in (404, 405, 422)
    assert client.delete(f"{BASE}/presets/{name}").status_code in (404, 405, 422)
    assert (tmp_path / "secret.json").exists()


def test_what_is_shared_is_checked(client):
    def post(body):
        return said(client.post(f"{BASE}/presets/file", json=body))

    assert "JSON" in post({"text": "<html>"})["preset"]
    assert "text" in post({})
    wrong = {"lora_ext_preset": 1, "name": "x", "settings": {"rank": 0, "images": "/etc"}}
    assert "images" in post({"text": json.dumps(wrong)})
    assert "name" in said(client.post(f"{BASE}/presets", json={"values": {}}))
    assert "rank" in said(client.post(f"{BASE}/presets", json={"name": "x", "values": {"rank": 0}}))


# ---- settings files -------------------------------------------------------------------------------------------------


def test_a_foreign_file_says_what_became_of_each_key(client):
    path = sorted(FOREIGN.glob("*.toml"))[0]
    answer = client.post(f"{BASE}/settings/import", json={"name": path.name, "text": path.read_text("utf-8")}).json()
    known = read_foreign(path)
    assert answer["origin"] == known.origin
    assert {row["key"] for row in answer["rows"] if row["became"] == "refused"} == {e.key for e in known.refused}
    assert {row["key"] for row in answer["rows"]} >= known.keys()
    assert {row["became"] for row in answer["rows"]} <= {"used", "assumed", "refused", "meaningless"}
    read(TrainConfig, {**NEEDED, **answer["settings"]})
    assert client.post(f"{BASE}/settings/import", json={"path": str(path)}).json()["origin"] == known.origin


def test_our_own_file_loses_only_what_is_wrong(client):
    text = '[model]\ncheckpoint = "x"\n[network]\nrank = 0\nalpha = 4.0\n[optim]\nnew_setting = 1\nmax_steps = 7\n'
    answer = client.post(f"{BASE}/settings/import", json={"name": "a.toml", "text": text}).json()
    assert answer["settings"] == {"alpha": 4.0, "max_steps": 7}
    assert [(row["name"], row["value"]) for row in answer["rows"] if row["became"] == "used"] == [
        ("alpha", 4.0),
        ("max_steps", 7),
    ]
    became = {row["key"]: row["became"] for row in answer["rows"]}
    assert became == {
        "rank": "refused",
        "alpha": "used",
        "new_setting": "refused",
        "max_steps": "used",
        "model": "meaningless",
    }


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a.exe", "text": "x"},
        {"name": "a.toml", "text": "rank = "},
        {"name": "a.json", "text": "[1]"},
        {"name": "a.toml", "text": "[table]\nx = 1"},
        {"name": "a.json", "text": "[" * 100_000},
        {"name": "a.json", "text": '"' + "\ud800" + '"'},
        {"name": "a.toml", "text": "x" * 5_000_000},
        {"path": "/nowhere/at/all.toml"},
        {"path": "/etc/passwd"},
        {"name": "a.toml"},
    ],
    ids=range(10),
)
def test_bad_files_are_refused_with_a_word(client, body):
    told = said(client.post(f"{BASE}/settings/import", content=json.dumps(body)))
    assert set(told) <= {"config", "text"}
    assert "/tmp" not in str(told)


FORM = {**flat(TrainConfig()), **NEEDED, "images": "my cats/in here", "rank": 48, "flip": True, "log": False,
        "preview_prompt": "it's a \"cat\"", "text_encoder_lr": 5e-5}  # fmt: skip


def test_what_goes_out_comes_back_in(client):
    def post(form):
        return client.post(f"{BASE}/settings/export", json={"values": FORM, "form": form}).json()

    ours = post("toml")["files"][0]
    assert 'checkpoint = "sd1.safetensors"' in ours["text"]
    again = client.post(f"{BASE}/settings/import", json={"name": ours["name"], "text": ours["text"]}).json()
    assert again["settings"] == FORM
    theirs = post("sd-scripts")
    assert [file["name"] for file in theirs["files"]] == ["config.toml", "dataset.toml"]
    back = client.post(f"{BASE}/settings/import", json=theirs["files"][0]).json()
    assert back["origin"] == "sd-scripts"
    assert back["settings"]["rank"] == 48
    assert "Preview prompt" in theirs["left_out"]


def test_the_command_line_means_the_same(client):
    line = client.post(f"{BASE}/settings/export", json={"values": FORM, "form": "command"}).json()["files"][0]["text"]
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "lora_ext", "train"]
    parser = Parser()
    add_flags(parser, TrainCommand)
    given = values(parser.parse_args(words[4:]), TrainCommand)
    assert flat(read(TrainCommand, given).run) == FORM
    assert len(words) < 25, "what is as it is by default is left out"
    bare = client.post(f"{BASE}/settings/export", json={"values": {}, "form": "command"}).json()["files"][0]["text"]
    assert bare.endswith("--checkpoint sd1.safetensors --images IMAGES --output OUTPUT")


def test_an_unfinished_form_can_be_kept(client):
    empty = {**FORM, "images": "", "output": ""}
    text = client.post(f"{BASE}/settings/export", json={"values": empty, "form": "toml"}).json()["files"][0]["text"]
    again = client.post(f"{BASE}/settings/import", json={"name": "a.toml", "text": text}).json()
    assert again["settings"] == empty
    wrong = client.post(f"{BASE}/settings/export", json={"values": {"rank": 0}, "form": "toml"})
    assert set(said(wrong)) == {"rank"}
    assert "form" in said(client.post(f"{BASE}/settings/export", json={"values": {}, "form": "pdf"}))
    assert set(settings(TrainConfig)) == set(FORM)
