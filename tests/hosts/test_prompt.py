"""Tags, good and bad."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.hosts.prompt import LIMIT, WantedLora, from_items, parse
from lora_ext.patching import Strengths


@pytest.mark.parametrize(
    ("tag", "unet", "text"),
    [
        ("a", 1, 1),
        ("a:0.7", 0.7, 0.7),
        ("a:-1", -1, -1),
        ("a:0.5:0.2", 0.2, 0.5),  # as in A1111: text encoder first
        ("a:te=0.5", 0.5, 0.5),
        ("a:1:unet=0", 0, 1),
        ("a:unet=0.3:te=0.4", 0.3, 0.4),
        ("a: 0.7 ", 0.7, 0.7),
        ("a:1e-1", 0.1, 0.1),
    ],
)
def test_strengths(tag: str, unet: float, text: float) -> None:
    assert from_items(tag.split(":")) == WantedLora("a", Strengths(unet, text))


@pytest.mark.parametrize(
    "tag", ["a:abc", "a:nan", "a:inf", "a:1e9", "a:", "a:0,7", "a:1:", "a:te=", "a:te=b=c", ":1", "", "a:1:2x"]
)
def test_a_bad_tag_is_named_and_hinders_no_other(tag: str) -> None:
    found = parse(f"x <lora:{tag}> y <lora:good:0.5>")
    assert found.wanted == (WantedLora("good", Strengths(0.5, 0.5)),)
    assert [p.field for p in found.problems] == [f"<lora:{tag}>"]
    assert found.text == "x  y "


def test_parameters_of_others_are_kept_to_be_told() -> None:
    found = from_items(["a", "1", "1", "8", "lbw=ALL", "a=b=c"])
    assert found == WantedLora("a", Strengths(1, 1), ("8", "lbw=ALL", "a=b=c"))


def test_other_tags_stay() -> None:
    found = parse("<hypernet:x:1> a < b, (c:1.2) [d|e] <lyco:l:2>")
    assert found.text == "<hypernet:x:1> a < b, (c:1.2) [d|e] "
    assert found.wanted == (WantedLora("l", Strengths(2, 2)),)


def test_a_colon_belongs_to_a_name_that_exists() -> None:
    known = {"a:b", "a:b:0.5"}
    assert from_items(["a", "b", "0.7"], known.__contains__).name == "a:b"
    assert from_items(["a", "b", "0.5"], known.__contains__) == WantedLora("a:b:0.5", Strengths())
    with pytest.raises(BadInput, match="'b'"):
        from_items(["a", "b", "0.7"])


@given(st.text(st.characters(blacklist_characters="<>:\n", blacklist_categories=("Cs",)), min_size=1))
def test_any_name_survives(name: str) -> None:
    found = parse(f"<lora:{name}:0.5>")
    if name.strip():
        assert [w.name for w in found.wanted] == [name.strip()]
    else:
        assert found.problems


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    found = parse(f"a <lora:{text}> b")
    assert all(abs(w.strengths.unet) <= LIMIT and abs(w.strengths.text) <= LIMIT for w in found.wanted)
