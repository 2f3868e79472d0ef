"""Which paths a caller over HTTP may name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from lora_ext.api.reach import Reach
from lora_ext.errors import BadInput


@pytest.fixture
def inside(tmp_path):
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "secrets").mkdir()
    return tmp_path / "pictures"


def open_to_others(*folders):
    return Reach(False, lambda: folders)


def test_a_server_of_this_machine_alone_reaches_everything(inside):
    assert Reach(True, lambda: ()).check(inside / ".." / "secrets") == inside.parent / "secrets"


@pytest.mark.parametrize("wanted", ["", "cats", "cats/../cats", "not there yet/x"])
def test_what_lies_inside(inside, wanted):
    assert open_to_others(inside).check(inside / wanted) == (inside / wanted).resolve()


@pytest.mark.parametrize("wanted", ["..", "../secrets", "cats/../../secrets", "../pictures2", "/", "~", "\0"])
def test_what_lies_outside(inside, wanted):
    with pytest.raises(BadInput) as caught:
        open_to_others(inside).check(inside / wanted if wanted != "~" else Path("~"), "images")
    assert [p.field for p in caught.value.problems] == ["images"]


def test_a_link_leads_nowhere_else(inside):
    (inside / "link").symlink_to(inside.parent / "secrets")
    with pytest.raises(BadInput, match="limited"):
        open_to_others(inside).check(inside / "link" / "x")
    (inside / "loop").symlink_to(inside / "loop")
    with contextlib.suppress(BadInput):  # older Pythons refuse to follow a loop
        assert open_to_others(inside).check(inside / "loop").is_relative_to(inside)


def test_the_folders_are_those_of_now(inside):
    folders = [inside]
    reach = Reach(False, lambda: folders)
    reach.check(inside)
    folders.clear()
    with pytest.raises(BadInput, match="none is configured"):
        reach.check(inside)
