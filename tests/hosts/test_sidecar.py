"""The user's notes: read with patience, written so that nobody else's words are lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lora_ext.errors import BadInput
from lora_ext.hosts import sidecar
from lora_ext.hosts.sidecar import Sidecar


def test_other_tools_words_stay_as_they_are(tmp_path: Path) -> None:
    place = tmp_path / "cat.json"
    before = {"civitai": {"id": 12345678901234567890, "x": [1.5, None, "é猫"]}, "activation text": "old", "": {"": []}}
    place.write_text("\ufeff" + json.dumps(before), encoding="utf8")
    sidecar.write(place, {"activation text": "new", "preferred weight": 0.8})
    after = json.loads(place.read_bytes())
    assert after == {**before, "activation text": "new", "preferred weight": 0.8}
    assert list(after) == [*before, "preferred weight"], "the order was lost"
    assert [p.name for p in tmp_path.iterdir()] == ["cat.json"]


def test_nothing_to_change_writes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "cat.json"
    place.write_text('{"notes":   "x"}')
    sidecar.write(place, {"notes": "x"})
    sidecar.write(tmp_path / "new.json", {})
    assert place.read_text() == '{"notes":   "x"}' and not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe\0", b"[" * 100000, b'{"a": 1} x'])
def test_what_cannot_be_read_is_not_overwritten(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "cat.json"
    place.write_bytes(content)
    with pytest.raises(BadInput, match="left as it was"):
        sidecar.write(place, {"notes": "x"})
    assert place.read_bytes() == content


def test_half_characters_survive(tmp_path: Path) -> None:
    place = tmp_path / "cat.json"
    place.write_text('{"notes": "\\ud83d"}')
    sidecar.write(place, {"description": "é"})
    assert json.loads(place.read_text()) == {"notes": "\ud83d", "description": "é"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text("{}")
    try:
        os.symlink(real, tmp_path / "cat.json")
    except OSError as e:
        pytest.skip(f"this system makes no links: {e}")
    sidecar.write(tmp_path / "cat.json", {"notes": "x"})
    assert (tmp_path / "cat.json").is_symlink() and json.loads(real.read_text()) == {"notes": "x"}


def test_read_with_patience() -> None:
    found = Sidecar.of({"preferred weight": "0.7", "activation text": None, "sd version": "SDXL", "notes": 5, "x": 1})
    assert found == Sidecar(weight=0.7, version="SDXL", notes="5")
    assert Sidecar.of({"preferred weight": "much", "sd version": "<b>", "description": ["a"]}) == Sidecar()
    assert (
        Sidecar.of({"preferred weight": float("inf")}).weight
        == Sidecar.of({"preferred weight": float("nan")}).weight
        == 0
    )


def test_only_changes_are_told() -> None:
    before = Sidecar(description="a", weight=0.5)
    assert before.changes(Sidecar(description="a", weight=0.6)) == {"preferred weight": 0.6}
    assert before.changes(before) == {}
