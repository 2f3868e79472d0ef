from __future__ import annotations

import locale
from pathlib import Path

import pytest

from lora_ext.data.captions import CaptionFiles, read_caption

TEXT = "Straße, 猫, café"


def caption(folder: Path, data: bytes):
    path = folder / "a.txt"
    path.write_bytes(data)
    return read_caption(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_in_any_dress(tmp_path: Path, encoding: str) -> None:
    assert caption(tmp_path, TEXT.encode(encoding)).text == TEXT


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marked_unicode_is_no_guess(tmp_path: Path, encoding: str) -> None:
    assert caption(tmp_path, TEXT.encode(encoding)).encoding == ""


def test_windows_western_is_guessed_and_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _=True: "UTF-8")
    got = caption(tmp_path, "café – Straße".encode("cp1252"))
    assert (got.text, got.encoding) == ("café – Straße", "cp1252")


def test_the_computers_own_encoding_comes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _=True: "cp932")
    got = caption(tmp_path, "猫の写真".encode("cp932"))
    assert (got.text, got.encoding) == ("猫の写真", "cp932")


def test_an_unknown_own_encoding_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _=True: "no-such-encoding")
    assert caption(tmp_path, b"caf\xe9").text == "café"


@pytest.mark.parametrize("data", [bytes(range(128, 256)), b"\xff", b"\x81\x8d", b"\xff\xfe\x00", b"\x00"])
def test_no_bytes_raise(tmp_path: Path, data: bytes, monkeypatch) -> None:
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _=True: "UTF-8")
    assert isinstance(caption(tmp_path, data).text, str)


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t ", "\ufeff".encode()])
def test_empty(tmp_path: Path, data: bytes) -> None:
    assert caption(tmp_path, data).text == ""


def test_lines_become_one(tmp_path: Path) -> None:
    assert caption(tmp_path, b"  a cat,\r\n sitting \n").text == "a cat, sitting"


def test_emphasis_is_left_as_it_is(tmp_path: Path) -> None:
    assert caption(tmp_path, b"(a cat:1.2), [b], <lora:x:1>").text == "(a cat:1.2), [b], <lora:x:1>"


def test_txt_comes_before_caption_in_any_case() -> None:
    files = CaptionFiles([Path("a.CAPTION"), Path("a.TXT"), Path("b.caption"), Path("a.png")])
    assert [f.name for f in files.find(Path("a.png"))] == ["a.TXT", "a.CAPTION"]
    assert [f.name for f in files.find(Path("b.png"))] == ["b.caption"]
    assert files.find(Path("c.png")) == ()


def test_accents_composed_or_not() -> None:
    files = CaptionFiles([Path("cafe\u0301.txt")])  # as macOS stores it
    assert files.find(Path("caf\u00e9.png"))


def test_dots_in_a_stem() -> None:
    files = CaptionFiles([Path("cat.01.txt"), Path("cat.txt")])
    assert [f.name for f in files.find(Path("cat.01.png"))] == ["cat.01.txt"]
