"""Own presets: what is saved comes back; what was shared is checked like any bad input."""

from __future__ import annotations

import json

import pytest

from lora_ext.config import TrainConfig, flat, settings
from lora_ext.errors import BadInput
from lora_ext.presets import Preset, Shelf, keep, own, parsed, written

FORM = {**flat(TrainConfig()), "images": "/home/me/cats", "output": "cat", "rank": "24", "trigger_words": "sks"}
GOOD = {"lora_ext_preset": 1, "name": "my style", "settings": {"rank": 8}}


@pytest.fixture
def shelf(tmp_path):
    return Shelf(lambda: tmp_path / "presets")


def problems(call, *args, **more):
    with pytest.raises(BadInput) as caught:
        call(*args, **more)
    return {p.field: str(p) for p in caught.value.problems}


def test_a_preset_holds_how_to_learn_and_nothing_of_the_run():
    made = keep("Größe (2)", FORM, note="for “faces”", goal="character", family="sd1")
    assert set(made.settings) == {name for name, s in settings(TrainConfig).items() if not s.of_run}
    assert made.settings["rank"] == 24
    assert parsed(written(made)) == made
    assert "/home/me" not in written(made)


def test_wrong_values_are_named_when_it_is_saved():
    assert problems(keep, "x", {**FORM, "rank": 0}).keys() == {"rank"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        "C:x",
        "nul",
        "COM1.x",
        "a.",
        "a ",
        " a",
        "x" * 81,
        "a\x00b",
        "-rf",
        "a\nb",
    ],
)
def test_names_stay_in_the_folder(name, shelf):
    assert "preset" in problems(keep, name, FORM)
    assert "preset" in problems(shelf.preset, name)
    assert "preset" in problems(shelf.delete, name)
    assert "preset" in problems(parsed, json.dumps({**GOOD, "name": name}))


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("", "preset", "not JSON"),
        ("[" * 100_000, "preset", ""),
        ("<html>", "preset", "not JSON"),
        ("[]", "preset", "no preset"),
        ('{"rank": 8}', "preset", "no preset"),
        (" " * 300_000, "preset", "too large"),
        (json.dumps({**GOOD, "lora_ext_preset": 99}), "preset", "newer version"),
        (json.dumps({**GOOD, "lora_ext_preset": 0}), "preset", "version"),
        (json.dumps({**GOOD, "lora_ext_preset": "1"}), "preset", "version"),
        (json.dumps({**GOOD, "lora_ext_preset": True}), "preset", "version"),
        (json.dumps({**GOOD, "settings": [1]}), "preset", "settings are missing"),
        (json.dumps({**GOOD, "name": 5}), "preset", "name"),
        (json.dumps({**GOOD, "goal": "fame"}), "preset", "no such goal"),
        (json.dumps({**GOOD, "family": "flux"}), "preset", "no such kind"),
        (json.dumps({**GOOD, "script": "rm"}), "preset", "'script' means nothing"),
        (json.dumps({**GOOD, "settings": {"rnak": 8}}), "rnak", "Did you mean rank"),
        (json.dumps({**GOOD, "settings": {"rank": float("nan")}}), "rank", "Rank"),
        (json.dumps({**GOOD, "settings": {"images": "/etc"}}), "images", "belongs to one run"),
    ],
)
def test_what_was_shared_may_be_anything(text, field, words):
    assert words in problems(parsed, text)[field]


def test_every_wrong_setting_is_named():
    text = json.dumps({**GOOD, "settings": {"rank": 0, "batch_size": "x", "nothing": 1}})
    assert problems(parsed, text).keys() == {"rank", "batch_size", "nothing"}


def test_an_older_format_is_carried_over(monkeypatch):
    monkeypatch.setattr(own, "VERSION", 2)
    monkeypatch.setitem(own.MIGRATIONS, 1, lambda raw: {**raw, "settings": {"rank": raw["settings"]["rank"] * 2}})
    assert parsed(json.dumps(GOOD)).settings == {"rank": 16}
    assert '"lora_ext_preset": 2' in written(Preset("new"))


def test_saved_listed_read_replaced_removed(shelf):
    assert shelf.listed() == []
    preset = keep("Faces", FORM)
    path = shelf.save(preset)
    assert [x.name for x in shelf.listed()] == ["Faces"]
    assert shelf.preset("Faces") == preset
    assert "already" in problems(shelf.save, keep("faces", FORM))["preset"], "some systems hold only one of the two"
    shelf.save(keep("faces", {**FORM, "rank": 4}), overwrite=True)
    assert shelf.preset("Faces").settings["rank"] == 4
    assert [p.name for p in path.parent.iterdir()] == ["Faces.json"], "nothing half-written is left"
    shelf.delete("Faces")
    assert shelf.listed() == []
    assert "no preset of this name" in problems(shelf.delete, "Faces")["preset"]


def test_a_broken_file_is_listed_with_its_problem(shelf, tmp_path):
    shelf.save(keep("good", FORM))
    (tmp_path / "presets" / "bad.json").write_bytes(b"\xff\xfe\x00")
    listed = {x.name: x.problem for x in shelf.listed()}
    assert listed["good"] == ""
    assert "bad.json" in listed["bad"]
    (tmp_path / "presets" / "bad.json").write_text(json.dumps(GOOD))
    assert shelf.preset("bad").name == "bad", "a file that was renamed goes by its new name"


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot be written" in problems(Shelf(lambda: tmp_path / "file" / "in").save, keep("a", FORM))["preset"]
