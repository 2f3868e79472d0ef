"""A picture folder on the table: what is seen is what the trainer sees, and captions change in memory alone."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_ext.config import DataConfig, DataSetConfig
from lora_ext.data import load_picture, scan
from lora_ext.data.editing import Desk, EditSet, Thumbnails
from lora_ext.data.editing.bulk import Bulk, apply
from lora_ext.errors import BadInput


def paint(path: Path, size=(96, 64), seed=0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    low = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(low).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for n, caption in enumerate(("cat, sofa", "cat, tree, sky", None)):
        paint(root / f"p{n}.png", seed=n)
        if caption is not None:
            (root / f"p{n}.txt").write_text(caption)
    paint(root / "10_dog" / "d.jpg", size=(128, 200), seed=9)
    return root


def entries(target: EditSet) -> dict[str, dict]:
    return {entry["name"]: entry for entry in target.listing().entries}


def kinds(entry) -> list[str]:
    return [problem["kind"] for problem in entry["problems"]]


def number(target: EditSet, name: str) -> int:
    return entries(target)[name]["id"]


def looked(target: EditSet) -> dict[str, dict]:
    for _ in range(1000):
        if target._look and target._look.seen.over:
            return entries(target)
        target.facts()
        time.sleep(0.01)
    raise AssertionError("the look at the pixels does not end")


def test_it_is_what_the_trainer_sees(opened, folder):
    found = entries(opened(concept="a thing", trigger_words="sks"))
    report = scan(DataConfig(images=str(folder), resolution=64, concept="a thing", trigger_words="sks"))
    assert {p.name for p in report.pictures} == set(found)
    for p in report.pictures:
        entry = found[p.name]
        assert (entry["size"], entry["bucket"], entry["resized"], entry["crop"]) == (
            p.size,
            p.bucket,
            p.resized,
            p.crop,
        )
        assert (entry["repeats"], entry["trained"]) == (p.repeats, p.caption)
    assert found["10_dog/d.jpg"]["repeats"] == 10
    assert found["p2.png"]["text"] is None
    assert found["p2.png"]["trained"] == "sks, a thing"


def test_a_folder_without_words_opens_all_the_same(opened):
    target = opened()
    assert "no_caption" in kinds(entries(target)["p2.png"])
    assert [p.field for p in target.facts().problems] == ["concept"]
    assert target.facts().complete


def test_the_crop_is_the_trainers_own(opened, folder):
    target = opened(concept="x")
    picture = next(
        p for p in scan(DataConfig(images=str(folder), resolution=64, concept="x")).pictures if p.name == "p0.png"
    )
    shown = np.asarray(
        Image.open(io.BytesIO(target.trained(number(target, "p0.png")))).convert("RGB"), dtype=np.float32
    )
    exact = (load_picture(picture).permute(1, 2, 0).numpy() + 1) * 127.5
    assert shown.shape == exact.shape
    assert np.abs(shown - exact).mean() < 4  # JPEG


def test_problems_are_found(opened, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(folder / "turned.jpg", size=(200, 100), seed=5, exif=exif)
    paint(folder / "tiny.png", size=(20, 20), seed=6)
    paint(folder / "less.png", size=(8, 8), seed=6)
    paint(folder / "strip.png", size=(900, 40), seed=7)
    Image.open(folder / "p0.png").save(folder / "again.jpg", quality=80)
    whole = (folder / "p1.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "none.png").write_bytes(b"no picture")
    found = looked(opened(concept="x"))
    assert "rotated" in kinds(found["turned.jpg"])
    assert found["turned.jpg"]["size"] == (100, 200)
    assert "small" in kinds(found["tiny.png"])
    assert "cut" in kinds(found["strip.png"])
    assert kinds(found["less.png"]) == kinds(found["none.png"]) == kinds(found["torn.png"]) == ["unreadable"]
    alike = next(p for p in found["again.jpg"]["problems"] if p["kind"] == "alike")
    assert alike["values"] == ["p0.png"]
    assert "alike" not in kinds(found["p1.png"])


def test_thumbnails_are_small_upright_and_kept(opened, folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(folder / "turned.jpg", size=(1200, 600), seed=5, exif=exif)
    target = opened(concept="x")
    one = number(target, "turned.jpg")
    assert Image.open(io.BytesIO(target.thumbnail(one))).size == (128, 256)
    assert Image.open(io.BytesIO(target.whole(one))).size == (512, 1024)
    kept = list((tmp_path / "cache").glob("*.jpg"))
    assert kept
    assert not list(folder.rglob("*.part"))
    paint(folder / "turned.jpg", size=(600, 600), seed=5)  # another file under the name, read without being asked
    with pytest.raises(BadInput):
        target.trained(one)


def test_the_cache_folder_stays_small(tmp_path):
    place = tmp_path / "cache"
    place.mkdir()
    for n in range(10):
        (place / f"{n}.jpg").write_bytes(b"x" * 1000)
    Thumbnails(place, most_bytes=5000)
    assert sum(f.stat().st_size for f in place.iterdir()) <= 5000


def test_edits_undo_redo_and_leave_the_disk_alone(opened, folder):
    target = opened()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    one, two = number(target, "p0.png"), number(target, "p2.png")
    start = target.listing().revision
    assert target.edit("Caption edited", {one: " a  new\n\n caption "}) == 1
    assert target.edit("Caption edited", {two: "first words"}) == 1
    assert target.edit("Caption edited", {two: "first words"}) == 0
    changed = target.listing(start).entries
    assert {entry["name"] for entry in changed} == {"p0.png", "p2.png"}
    assert all(entry["changed"] for entry in changed)
    assert target.texts([one, two]) == {one: "a new\ncaption", two: "first words"}
    assert target.facts().unsaved == 2
    assert (target.undo(), target.texts([two])) == (1, {two: ""})
    assert entries(target)["p2.png"]["text"] is None
    assert target.redo() == 1
    target.revert("Reverted")
    assert not target.unsaved
    assert target.undo() == 2
    assert target.texts([one]) == {one: "a new\ncaption"}
    for _ in range(5):
        target.undo()
    assert not target.unsaved
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("bulk", "first", "second"),
    [
        (Bulk("add", "sky, new"), "cat, sofa, sky, new", "cat, tree, sky, new"),
        (Bulk("add_front", "new"), "new, cat, sofa", "new, cat, tree, sky"),
        (Bulk("remove", "cat,sky"), "sofa", "tree"),
        (Bulk("replace_tag", "cat", "dog"), "dog, sofa", "dog, tree, sky"),
        (Bulk("replace_tag", "tree", "cat"), "cat, sofa", "cat, sky"),
        (Bulk("replace_text", "s", "z"), "cat, zofa", "cat, tree, zky"),
        (Bulk("replace_pattern", r"(\w)at\b", r"\1ow"), "cow, sofa", "cow, tree, sky"),
        (Bulk("trigger", "sks"), "sks, cat, sofa", "sks, cat, tree, sky"),
        (Bulk("trigger", "sky"), "sky, cat, sofa", "sky, cat, tree"),
    ],
)
def test_bulk(opened, bulk, first, second):
    target = opened()
    one, two = number(target, "p0.png"), number(target, "p1.png")
    apply(target, bulk, [one, two])
    assert target.texts([one, two]) == {one: first, two: second}
    target.undo()
    assert target.texts([one, two]) == {one: "cat, sofa", two: "cat, tree, sky"}


def test_sorting_by_frequency(opened):
    target = opened()
    one, two = number(target, "p0.png"), number(target, "p1.png")
    target.edit("x", {one: "sofa, cat", two: "tree, sky, cat, sofa"})
    target.edit("x", {number(target, "p2.png"): "cat"})
    apply(target, Bulk("sort"), None)
    assert target.texts([one, two]) == {one: "cat, sofa", two: "cat, sofa, tree, sky"}


@pytest.mark.parametrize(
    ("bulk", "field"),
    [
        (Bulk("replace_pattern", "(", ""), "find"),
        (Bulk("replace_pattern", "", ""), "find"),
        (Bulk("replace_pattern", "cat", r"\7"), "replace"),
        (Bulk("replace_pattern", "", "x"), "find"),
        (Bulk("replace_pattern", "(?=)", "x" * 9999), "replace"),
        (Bulk("replace_text", " ", "x"), "find"),
        (Bulk("add", " , "), "words"),
    ],
)
def test_bad_words_are_told_at_their_field(opened, bulk, field):
    target = opened()
    with pytest.raises(BadInput) as caught:
        apply(target, bulk, None)
    assert [p.field for p in caught.value.problems] == [field]
    assert not target.unsaved


def test_a_pattern_that_takes_for_ever_is_ended(opened, monkeypatch):
    monkeypatch.setattr("lora_ext.data.editing.pattern.replaced.__defaults__", (0.5,))
    target = opened()
    one = number(target, "p0.png")
    target.edit("x", {one: "a" * 60 + "!"})
    began = time.perf_counter()
    with pytest.raises(BadInput, match="longer than"):
        apply(target, Bulk("replace_pattern", "(a+)+$", ""), None)
    assert time.perf_counter() - began < 10


def test_captions_that_are_odd_are_told_at_the_picture(opened, folder):
    paint(folder / "p0.jpg", seed=20)
    (folder / "p1.txt").write_bytes("café".encode("cp1252"))
    target = opened()
    found = {entry["name"]: entry["problems"] for entry in entries(target).values()}
    assert {"kind": "shared", "values": ["p0.png"]} in found["p0.jpg"]
    assert {"kind": "shared", "values": ["p0.jpg"]} in found["p0.png"]
    assert [problem["kind"] for problem in found["p1.png"]] == ["encoding"]
    target.edit("x", {number(target, "p1.png"): "café, tree"})
    target.save()
    assert "encoding" not in kinds(entries(target)["p1.png"])
    (folder / "p0.jpg").unlink()
    again = opened()
    assert "shared" not in kinds(entries(again)["p0.png"])


def test_pictures_that_share_a_caption_file_share_its_edits(opened, folder):
    paint(folder / "p0.jpg", seed=11)
    target = opened()
    target.edit("x", {number(target, "p0.jpg"): "both"})
    assert target.texts([number(target, "p0.png")]) == {number(target, "p0.png"): "both"}
    assert target.facts().unsaved == 1


def test_reading_anew_keeps_numbers_and_edits(opened, folder):
    target = opened()
    numbers = {name: entry["id"] for name, entry in entries(target).items()}
    target.edit("x", {numbers["p0.png"]: "mine"})
    (folder / "p1.txt").write_text("theirs")
    (folder / "p2.png").unlink()
    paint(folder / "a.png", seed=20)
    seen = target.listing().revision
    target.reopen(DataSetConfig(images=str(folder), resolution=128))
    target.wait(20)
    fresh = target.listing(seen)
    assert fresh.gone == (numbers["p2.png"],)
    now = entries(target)
    assert {name: entry["id"] for name, entry in now.items() if name in numbers}.items() <= numbers.items()
    assert (now["p0.png"]["text"], now["p1.png"]["text"], now["a.png"]["text"]) == ("mine", "theirs", None)
    assert now["p0.png"]["changed"]
    assert now["p0.png"]["bucket"] != (64, 64)


def test_every_page_gets_the_same_set(folder, tmp_path):
    desk = Desk(lambda: tmp_path / "cache")
    config = DataSetConfig(images=str(folder), resolution=64)
    one = desk.open(config)
    one.wait(20)
    one.edit("x", {number(one, "p0.png"): "mine"})
    assert desk.open(DataSetConfig(images=f'"{folder}/"', resolution=64)) is one
    assert desk.get(one.key) is one
    for n in range(6):
        paint(tmp_path / f"other{n}" / "a.png")
        desk.open(DataSetConfig(images=str(tmp_path / f"other{n}")))
    assert desk.get(one.key) is one  # it has unsaved captions
    assert one.texts([number(one, "p0.png")]) == {number(one, "p0.png"): "mine"}
    assert len(desk._sets) <= 4
    with pytest.raises(BadInput):
        desk.get("nonsense")
    with pytest.raises(BadInput):
        desk.open(DataSetConfig(images=str(tmp_path / "nowhere")))
