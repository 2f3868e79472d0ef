"""Lists of captions: every form, found by themselves or given, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, scan
from lora_ext.errors import BadInput


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(path)


def scanned(folder: Path, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"resolution": 64, **settings}))


def captions(folder: Path, **settings: object) -> dict[str, str]:
    return {p.name: p.caption for p in scanned(folder, **settings).pictures}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.json", '{"a": "cat", "b.png": "dog", "sub/c": "sea"}'),
        ("metadata.json", '{"a": {"caption": "cat"}, "b": {"text": "dog"}, "sub/c": {"tags": "sea"}}'),
        ("image_captions.json", '[{"image": "a.png", "caption": "cat"}, {"file_name": "b.png", "text": "dog"},'
         ' {"file_name": "sub/c.png", "text": "sea"}]'),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "cat"}\n\n{"file_name": "b.png", "text": "dog"}\n'
         '{"file_name": "sub/c.png", "text": "sea"}'),
        ("metadata.csv", "\ufefffile_name,text\na.png,cat\nb.png,\"dog\"\nsub/c.png,sea\n"),
    ],
)  # fmt: skip
def test_every_form(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, "a.png", "b.png", "sub/c.png")
    (tmp_path / name).write_text(text, encoding="utf8")
    wanted = {"a.png": "cat", "b.png": "dog", "sub/c.png": "sea"}
    assert captions(tmp_path) == wanted
    (tmp_path / name).rename(tmp_path / "given.x").rename(tmp_path / ("given" + Path(name).suffix))
    assert captions(tmp_path, caption_file=str(tmp_path / ("given" + Path(name).suffix))) == wanted


def test_tags_follow_the_caption_as_in_sd_scripts(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "captions.json").write_text(
        '{"a": {"caption": "a cat", "tags": "red, round", "train_resolution": [1, 2]}}'
    )
    assert captions(tmp_path) == {"a.png": "a cat, red, round"}


def test_own_file_beats_a_found_list_and_a_given_list_beats_both(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("own")
    (tmp_path / "captions.json").write_text('{"a": "found", "b": "found"}')
    assert captions(tmp_path) == {"a.png": "own", "b.png": "found"}
    (tmp_path / "list.json").write_text('{"a": "given"}')
    assert captions(tmp_path, caption_file=f'"{tmp_path / "list.json"}"', concept="x") == {
        "a.png": "given",
        "b.png": "x",
    }


def test_a_nearer_list_beats_one_above(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "sub/a.png", "sub/b.png")
    (tmp_path / "captions.json").write_text('{"a": "above", "b": "above"}')
    (tmp_path / "sub" / "captions.json").write_text('{"a": "near"}')
    assert captions(tmp_path) == {"a.png": "above", "sub/a.png": "near", "sub/b.png": "above"}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{a", "damaged"),
        ("a.json", "[1]", "every entry must be an object"),
        ("a.json", "3", "an object or a list"),
        ("a.json", "{}", "holds no captions"),
        ("a.json", "[" * 100_000, "damaged|nested"),
        ("a.jsonl", '{"file_name": "a.png"}', "holds no captions"),
        ("a.jsonl", "{}\n{", "damaged"),
        ("a.csv", "x,y\n1,2", "holds no captions"),
        ("a.csv", "file_name,text\n\0", "damaged|holds no captions"),
        ("gone.json", None, "cannot be read"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    put(tmp_path, "p/a.png")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        scanned(tmp_path / "p", caption_file=str(tmp_path / name))
    (problem,) = caught.value.problems
    assert (problem.field, problem.got) == ("caption_file", name)


def test_other_extensions(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.tags").write_text("tags")
    (tmp_path / "b.txt").write_text("only")
    assert captions(tmp_path, caption_extension="tags .txt") == {"a.png": "tags", "b.png": "only"}
    assert captions(tmp_path, caption_extension=".tags", concept="x") == {"a.png": "tags", "b.png": "x"}


def test_words_of_the_file_name_fill_a_template(tmp_path: Path) -> None:
    put(tmp_path, "001-a_red cat.png")
    report = scanned(tmp_path, caption_template="photo of [name], [filewords]", concept="sks")
    assert report.captions == ("photo of sks, a red cat",)
    assert any("file name" in notice for notice in report.notices)


def test_trigger_words_are_enough(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    report = scanned(tmp_path, trigger_words="sks")
    assert report.captions == ("sks",)
    assert "a.png" in report.notices[0]


def test_lines_of_a_caption_file(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert captions(tmp_path) == {"a.png": "one two"}
    (picture,) = scanned(tmp_path, wildcards=True).pictures
    assert picture.words.lines == ("one", "two")


def test_two_thousand_pictures_in_one_list_are_quick(tmp_path: Path) -> None:
    from lora_ext.data.caption_list import CaptionList

    path = tmp_path / "captions.json"
    path.write_text(json.dumps({f"{i}": f"picture {i}" for i in range(2000)}))
    found = CaptionList.read(path)
    assert [found.find(tmp_path / f"{i}.png") for i in (0, 1999)] == ["picture 0", "picture 1999"]
    assert found.find(tmp_path / "2000.png") is None
