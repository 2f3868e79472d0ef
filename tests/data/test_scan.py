"""Folders, names, captions and repeats."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, scan
from lora_ext.errors import BadInput, Problem


def put(folder: Path, name: str, caption: str | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def scanned(folder: Path | str, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"concept": "thing", "resolution": 64, **settings}))


def problem(folder: Path | str, **settings: object) -> Problem:
    with pytest.raises(BadInput) as e:
        scanned(folder, **settings)
    (found,) = e.value.problems
    return found


# Order and folders


def test_natural_order_on_every_system(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "B.png", "a.png", "1_x/3.png", "sub/1.png", "ä.png"):
        put(tmp_path, name, "c")
    names = [p.name for p in scanned(tmp_path).pictures]
    assert names == ["2.png", "10.png", "a.png", "B.png", "ä.png", "1_x/3.png", "sub/1.png"]


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch) -> None:
    for i in range(12):
        put(tmp_path, f"{i}.png", "c")
    names = [p.name for p in scanned(tmp_path).pictures]
    real = os.scandir

    class Reversed:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    assert [p.name for p in scanned(tmp_path).pictures] == names


def test_hidden_things_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "c")
    for name in (".hidden.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "@eaDir/a.png"):
        put(tmp_path, name, "c")
    assert [p.name for p in scanned(tmp_path).pictures] == ["a.png"]


def test_extensions_in_any_case(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.JpEg", "c.jfif", "d.bmp", "e.webp"):
        Image.new("RGB", (64, 64)).save(tmp_path / name, format="PNG")
    assert len(scanned(tmp_path).pictures) == 5


@pytest.mark.parametrize("name", ["猫 и кот.png", "a [b] 'c' & d.png", "e\u0301.png", "\U0001f408.png"])
def test_unicode_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Bilder мои 画像"
    put(folder, name, "caption")
    (picture,) = scanned(folder).pictures
    assert picture.caption == "caption"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes file names that are no Unicode")
def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (64, 64)).save(os.fsdecode(path), format="PNG")
    (picture,) = scanned(tmp_path).pictures
    assert picture.name == "caf?.png"
    picture.name.encode("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_that_lead_back_end(tmp_path: Path) -> None:
    put(tmp_path, "sub/a.png", "c")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "sub", target_is_directory=True)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    report = scanned(tmp_path)
    assert len(report.pictures) == 1
    assert [s.name for s in report.skipped] == ["self.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_linked_pictures_are_read(tmp_path: Path) -> None:
    source = put(tmp_path / "elsewhere", "a.png")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "b.png").symlink_to(source)
    assert [p.name for p in scanned(folder).pictures] == ["b.png"]


def test_quotes_and_home_as_typed(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, "pics/a.png", "c")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert scanned(f'  "{tmp_path / "pics"}" ').pictures
    assert scanned("~/pics").pictures


# Bad folders


def test_no_such_folder(tmp_path: Path) -> None:
    found = problem(tmp_path / "nope")
    assert (found.field, found.what) == ("images", "there is no such folder")
    assert "nope" in found.got


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    assert "not a folder" in problem(put(tmp_path, "a.png")).what


@pytest.mark.parametrize("text", ["", "  ", '""'])
def test_no_folder_given(text: str) -> None:
    assert problem(text).field == "images"
    assert "no picture folder" in problem(text).what


@pytest.mark.parametrize("text", ["a\0b", "x" * 100_000])
def test_impossible_folder_names(text: str) -> None:
    assert problem(text).field == "images"


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    found = problem(tmp_path)
    assert (found.field, found.what) == ("images", "none of the pictures can be used")
    assert "a.heic (files of this kind are not read" in found.fix


def refuse(monkeypatch, name: str) -> None:
    """Make a folder unreadable, for root too."""
    real = os.scandir

    def scandir(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_unreadable_folder(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, "locked/a.png")
    refuse(monkeypatch, "locked")
    found = problem(tmp_path / "locked")
    assert found.field == "images"
    assert "Permission denied" in found.what


def test_unreadable_sub_folder_is_said(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, "a.png", "c")
    put(tmp_path, "locked/b.png")
    refuse(monkeypatch, "locked")
    report = scanned(tmp_path)
    assert [p.name for p in report.pictures] == ["a.png"]
    assert report.notices == ("Folder cannot be read (Permission denied) and is left out: locked.",)


# Repeats and concepts


def test_numbered_folders_are_repeats(tmp_path: Path) -> None:
    for name in ("a.png", "10_my cat/b.png", "10_my cat/close/c.png", "10_my cat/2_dog/d.png", "plain/e.png"):
        put(tmp_path, name)
    report = scanned(tmp_path, repeats=3)
    assert {p.name: p.repeats for p in report.pictures} == {
        "a.png": 3,
        "10_my cat/b.png": 10,
        "10_my cat/close/c.png": 10,
        "10_my cat/2_dog/d.png": 2,
        "plain/e.png": 3,
    }
    assert report.samples == 28
    assert report.folders["10_my cat"] == (10, 1)


def test_zero_repeats_leave_a_folder_out(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "c")
    put(tmp_path, "0_later/b.png", "c")
    report = scanned(tmp_path)
    assert len(report.pictures) == 1
    assert report.notices == ("Folder with 0 repeats is left out: 0_later.",)


def test_a_date_is_no_repeats(tmp_path: Path) -> None:
    put(tmp_path, "20230101_party/a.png", "c")
    report = scanned(tmp_path)
    assert report.pictures[0].repeats == 1
    assert any("20230101_party" in n for n in report.notices)


def test_the_folder_itself_may_be_numbered(tmp_path: Path) -> None:
    put(tmp_path, "7_cat/a.png")
    report = scanned(tmp_path / "7_cat", concept="")
    assert (report.pictures[0].repeats, report.pictures[0].caption) == (7, "cat")
    assert any("7 repeats" in n for n in report.notices)


def test_concept_of_the_folder_when_none_is_given(tmp_path: Path) -> None:
    put(tmp_path, "10_sks cat/a.png")
    put(tmp_path, "5_dog/b.png")
    captions = {p.name: p.caption for p in scanned(tmp_path, concept="").pictures}
    assert captions == {"10_sks cat/a.png": "sks cat", "5_dog/b.png": "dog"}


def test_the_given_concept_beats_the_folders(tmp_path: Path) -> None:
    put(tmp_path, "10_cat/a.png")
    assert scanned(tmp_path, concept="photo of sks cat").captions == ("photo of sks cat",)


# Captions


def test_caption_files_of_both_kinds(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "from txt")
    put(tmp_path, "b.png")
    (tmp_path / "b.caption").write_text("from caption", encoding="utf-8")
    put(tmp_path, "c.png", "txt wins")
    (tmp_path / "c.caption").write_text("loses", encoding="utf-8")
    report = scanned(tmp_path)
    assert [p.caption for p in report.pictures] == ["from txt", "from caption", "txt wins"]
    assert report.notices == ("Both a .txt and a .caption file: the .txt is used: c.png.",)


def test_missing_captions_are_said_once_with_names_and_count(tmp_path: Path) -> None:
    for i in range(8):
        put(tmp_path, f"{i}.png")
    report = scanned(tmp_path, concept="photo of sks cat")
    assert report.captions == ("photo of sks cat",)
    (notice,) = report.notices
    assert notice == (
        "No caption file: the caption is 'photo of sks cat': 0.png, 1.png, 2.png, 3.png, 4.png and 3 more (8 in all)."
    )


def test_no_caption_and_no_concept_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "has one")
    put(tmp_path, "b.png")
    found = problem(tmp_path, concept=" ")
    assert found.field == "concept"
    assert "b.png" in found.fix
    assert "a.png" not in found.fix


def test_empty_caption_takes_the_concept(tmp_path: Path) -> None:
    put(tmp_path, "a.png", " \n")
    report = scanned(tmp_path)
    assert report.captions == ("thing",)
    assert report.notices == ("Caption file is empty: the caption is 'thing': a.png.",)


def test_empty_caption_without_a_concept_is_meant(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "")
    report = scanned(tmp_path, concept="")
    assert report.captions == ("",)
    assert report.notices == ("Caption file is empty: trained without words: a.png.",)


def test_a_caption_that_is_no_utf8_is_read_and_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes("café".encode("cp1252"))
    report = scanned(tmp_path)
    assert report.captions == ("café",)
    assert any("not UTF-8" in n and "a.png" in n for n in report.notices)


def test_a_caption_that_cannot_be_read_is_missing(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, "a.png", "c")
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.suffix == ".txt":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    report = scanned(tmp_path)
    assert report.captions == ("thing",)
    assert any("Permission denied" in n for n in report.notices)


def test_twins_share_a_caption_and_it_is_said(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "one text")
    put(tmp_path, "a.jpg")
    put(tmp_path, "sub/a.png", "other")
    report = scanned(tmp_path)
    assert [p.caption for p in report.pictures] == ["one text", "one text", "other"]
    assert report.notices == ("Same name but for the extension: all are used, with one caption: a.jpg, a.png.",)


def test_captions_are_unique_in_order(tmp_path: Path) -> None:
    for name, caption in (("1.png", "b"), ("2.png", "a"), ("3.png", "b")):
        put(tmp_path, name, caption)
    assert scanned(tmp_path).captions == ("b", "a")


def test_tags_are_counted_by_folder(tmp_path: Path) -> None:
    put(tmp_path, "3_x/1.png", "cat, sitting")
    put(tmp_path, "3_x/2.png", "cat,  , red")
    assert scanned(tmp_path).tag_counts == {"3_x": {"cat": 2, "sitting": 1, "red": 1}}


# Buckets


def test_buckets_or_squares(tmp_path: Path) -> None:
    Image.new("RGB", (1280, 720)).save(tmp_path / "a.png")
    kept, square = scanned(tmp_path, resolution=512), scanned(tmp_path, resolution=512, buckets=False)
    assert kept.bucket_counts == {(640, 384): 1}
    assert square.bucket_counts == {(512, 512): 1}
    assert not any("cut off" in n for n in square.notices)


def test_scan_decodes_no_pixels(tmp_path: Path, monkeypatch) -> None:
    from PIL import ImageFile

    for name in ("a.png", "b.jpg", "c.bmp"):
        put(tmp_path, name, "c")

    def load(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert len(scanned(tmp_path).pictures) == 3
