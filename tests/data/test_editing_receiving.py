"""Files dropped on the page: only pictures and captions, named safely, never over what is there."""

from __future__ import annotations

import asyncio
import io

import pytest
from PIL import Image

from lora_ext.data.editing import receiving
from lora_ext.errors import BadInput


def png(color="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(buffer, "PNG")
    return buffer.getvalue()


def send(folder, name, data):
    async def body():
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return asyncio.run(receiving.receive(folder, name, body()))


def test_a_picture_arrives_whole(tmp_path):
    assert send(tmp_path / "new", "cat.PNG", png()).name == "cat.png"
    assert (tmp_path / "new" / "cat.png").read_bytes() == png()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["cat.png"]


def test_nothing_is_written_over(tmp_path):
    send(tmp_path, "cat.png", png("red"))
    assert send(tmp_path, "cat.png", png("blue")).name == "cat (2).png"
    again = send(tmp_path, "cat.png", png("red"))
    assert (again.name, again.known) == ("cat.png", True)
    assert (tmp_path / "cat.png").read_bytes() == png("red")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc/cat.png", "cat.png"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("con.png", "con_.png"),
        ("a:b?.png", "a_b_.png"),
        ("  spaced   out .png", "spaced out.png"),
        ("кошка.webp", "кошка.webp"),
        (".hidden.png", "hidden.png"),
        ("x" * 400 + ".png", "x" * 120 + ".png"),
        ("a\0b\n.png", "a_b_.png"),
    ],
)
def test_safe_names(given, name):
    assert receiving.safe_name(given) == name


@pytest.mark.parametrize("name", ["", "..", "png", ".png", "noending", "???.png", "a/.."])
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(BadInput) as caught:
        send(tmp_path, name, png())
    assert caught.value.problems[0].field == "file"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("page.png", b"<html>", "damaged or no picture"),
        ("small.png", b"", "empty"),
        ("run.exe", b"MZ", "not taken"),
        ("script.py", b"", "not taken"),
        ("large.txt", b"x" * (receiving.LARGEST_CAPTION + 1), "too large"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, name, data, said):
    with pytest.raises(BadInput, match=said):
        send(tmp_path, name, data)
    assert not list(tmp_path.iterdir())


def test_captions_are_taken(tmp_path):
    assert send(tmp_path, "cat.txt", b"a cat").name == "cat.txt"


def test_a_folder_that_cannot_be(tmp_path):
    with pytest.raises(BadInput) as caught:
        send(tmp_path / "no" / "such", "cat.png", png())
    assert caught.value.problems[0].field == "images"
