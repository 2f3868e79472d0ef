"""Save: whole files in UTF-8, what was before is kept, nobody's work is written over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.config import DataConfig
from lora_ext.data import scan
from lora_ext.data.editing import FOLDER, EditSet
from lora_ext.errors import BadInput


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "5_dog").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "5_dog/d.png"):
        Image.new("RGB", (64, 64), "red").save(root / name)
    (root / "a.txt").write_text("cat")
    (root / "b.caption").write_bytes("café".encode("cp1252"))
    (root / "5_dog" / "d.txt").write_bytes(b"\xef\xbb\xbfdog")
    return root


def numbers(target: EditSet) -> dict[str, int]:
    return {entry["name"]: entry["id"] for entry in target.listing().entries}


def change(target: EditSet, **texts: str) -> None:
    ids = {Path(name).stem: number for name, number in numbers(target).items()}
    target.edit("x", {ids[stem]: text for stem, text in texts.items()})


def test_only_what_changed_is_written_and_as_utf8(opened, folder):
    target = opened()
    untouched = (folder / "b.caption").read_bytes()
    change(target, a="чёрная кошка, 猫", c="new one", d="two\nlines")
    saved = target.save()
    assert (saved.written, saved.conflicts, saved.failed) == (3, (), ())
    assert (folder / "a.txt").read_bytes() == "чёрная кошка, 猫".encode()
    assert (folder / "c.txt").read_bytes() == b"new one"
    assert (folder / "5_dog" / "d.txt").read_bytes() == b"two\nlines"
    assert (folder / "b.caption").read_bytes() == untouched
    assert not target.unsaved
    assert target.save().written == 0
    captions = {p.name: p.caption for p in scan(DataConfig(images=str(folder), resolution=64)).pictures}
    assert captions["a.png"] == "чёрная кошка, 猫"
    assert captions["c.png"] == "new one"


def test_the_kind_of_caption_file_stays(opened, folder):
    target = opened()
    change(target, b="café au lait")
    target.save()
    assert (folder / "b.caption").read_text(encoding="utf-8") == "café au lait"
    assert not (folder / "b.txt").exists()


def test_new_files_are_of_the_first_kind(opened, folder):
    target = opened(caption_extension="caption, txt")
    change(target, c="words")
    target.save()
    assert (folder / "c.caption").read_text() == "words"


def test_former_captions_are_kept_and_come_back(opened, folder):
    target = opened()
    change(target, a="changed", b="changed too", c="was not there")
    name = target.save().backup
    place = folder / FOLDER / name
    assert (place / "a.txt").read_text() == "cat"
    assert (place / "b.caption").read_bytes() == "café".encode("cp1252")
    assert [(b.name, b.count) for b in target.backups()] == [(name, 3)]
    assert target.restore(name, "Captions restored") == 3
    assert (folder / "a.txt").read_text() == "changed"  # only Save writes
    again = target.save()
    assert (folder / "a.txt").read_text() == "cat"
    assert (folder / "b.caption").read_text(encoding="utf-8") == "café"
    assert not (folder / "c.txt").exists()
    assert [b.name for b in target.backups()] == [again.backup, name]
    target.restore(again.backup, "Captions restored")
    target.save()
    assert (folder / "c.txt").read_text() == "was not there"
    assert len(scan(DataConfig(images=str(folder), resolution=64)).pictures) == 4  # backups are no pictures


@pytest.mark.parametrize("name", ["..", "../..", "none", "", "."])
def test_a_backup_that_is_none(opened, name):
    target = opened()
    change(target, a="x")
    target.save()
    with pytest.raises(BadInput):
        target.restore(name, "x")


def test_files_that_others_changed_are_asked_about(opened, folder):
    target = opened()
    change(target, a="mine", c="mine too")
    (folder / "a.txt").write_text("theirs, longer")
    (folder / "c.txt").write_text("theirs too")
    saved = target.save()
    assert saved.written == 0
    assert set(saved.conflicts) == {"a.txt", "c.txt"}
    assert (folder / "a.txt").read_text() == "theirs, longer"
    assert target.unsaved
    ids = numbers(target)
    assert target.save("theirs").written == 0
    assert target.texts([ids["a.png"]]) == {ids["a.png"]: "theirs, longer"}
    assert not target.unsaved
    target.undo()
    assert target.texts([ids["a.png"]]) == {ids["a.png"]: "mine"}
    saved = target.save()  # nobody changed it since it was taken
    assert saved.written == 2
    (folder / "a.txt").write_text("again theirs")
    change(target, a="mine at last")
    assert target.save("mine").written == 1
    assert (folder / "a.txt").read_text() == "mine at last"
    assert (folder / FOLDER / target.backups()[0].name / "a.txt").read_text() == "again theirs"


def test_a_file_only_touched_is_no_conflict(opened, folder):
    target = opened()
    change(target, a="mine")
    os.utime(folder / "a.txt", (1, 1))
    assert target.save().written == 1


@pytest.mark.parametrize("given", [False, True])
def test_captions_from_a_list(opened, folder, given, tmp_path):
    listed = (tmp_path if given else folder) / "metadata.jsonl"
    listed.write_text(json.dumps({"file_name": "c.png", "text": "from the list"}))
    target = opened(caption_file=str(listed) if given else "")
    entry = next(e for e in target.listing().entries if e["name"] == "c.png")
    assert (entry["text"], entry["source"], entry["file"]) == ("from the list", "list", "metadata.jsonl")
    change(target, c="my own")
    notice = target.facts().save_notice
    assert "metadata.jsonl" in notice
    assert ("Caption list" in notice) is given
    assert target.save().written == 1
    assert (folder / "c.txt").read_text() == "my own"
    assert "from the list" in listed.read_text()
    target.wait(20)
    if not given:
        captions = {p.name: p.caption for p in scan(DataConfig(images=str(folder), resolution=64)).pictures}
        assert captions["c.png"] == "my own"


def test_a_caption_made_empty(opened, folder):
    target = opened()
    change(target, a="", c="")
    assert target.facts().unsaved == 1  # c had none and has none
    target.save()
    assert (folder / "a.txt").read_bytes() == b""
    assert not (folder / "c.txt").exists()


def test_what_cannot_be_written_stays_changed(opened, folder, monkeypatch):
    from lora_ext.data.editing import caption_files

    real = caption_files.put

    def put(path: Path, text: str | None) -> None:
        if path.name == "a.txt":
            raise OSError(28, "No space left on device")
        real(path, text)

    monkeypatch.setattr(caption_files, "put", put)
    target = opened()
    change(target, a="mine", c="mine")
    saved = target.save()
    assert (saved.written, saved.failed) == (1, (("a.txt", "No space left on device"),))
    assert target.facts().unsaved == 1
    assert (folder / "a.txt").read_text() == "cat"


def test_nothing_is_written_when_the_former_cannot_be_kept(opened, folder):
    (folder / FOLDER).write_text("a file where the folder should be")
    target = opened()
    change(target, a="mine")
    with pytest.raises(BadInput, match="nothing was saved"):
        target.save()
    assert (folder / "a.txt").read_text() == "cat"


def test_a_write_is_whole_or_not_at_all(opened, folder, monkeypatch):
    target = opened()
    change(target, a="mine")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    assert target.save().failed == (("a.txt", "I/O error"),)
    assert (folder / "a.txt").read_text() == "cat"
    assert not [p for p in folder.iterdir() if p.suffix == ".part"]


def test_permissions_stay(opened, folder):
    if os.name != "posix":
        pytest.skip("NOT CHECKED: permissions are POSIX's")
    (folder / "a.txt").chmod(0o640)
    target = opened()
    change(target, a="mine")
    target.save()
    assert (folder / "a.txt").stat().st_mode & 0o777 == 0o640
