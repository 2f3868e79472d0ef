"""What becomes of a caption: each rule by itself, chance that repeats, and the order sd-scripts applies them in."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.data.words import WordRules, Words

TAGS = "a, b, c, d, e, f"


def words(*lines: str, concept: str = "", **rules) -> Words:
    return Words(lines, concept, WordRules(**rules))


def many(one: Words, n: int = 200, epoch: int = 0) -> list[str]:
    return [one.said(Random(i), epoch) for i in range(n)]


def test_without_rules_nothing_changes() -> None:
    one = words("a dog,  on the {beach}")
    assert set(many(one)) == {one.plain()} == {"a dog,  on the {beach}"}
    assert not one.varies()


def test_shuffle_keeps_the_first_and_loses_none() -> None:
    one = words(TAGS, shuffle=True, keep=2)
    assert one.varies()
    assert one.plain() == TAGS
    said = many(one)
    assert all(text.startswith("a, b, ") and sorted(text.split(", ")) == TAGS.split(", ") for text in said)
    assert len(set(said)) > 15


def test_keep_separator_holds_front_and_end() -> None:
    one = words("a, b ||| c, d, e ||| f", shuffle=True, keep=0, keep_separator="|||")
    assert one.plain() == "a, b, c, d, e, f"
    assert {text[:4] + text[-1] for text in many(one)} == {"a, bf"}
    assert len(set(many(one))) == 6
    assert words("a ||| b", keep_separator="|||").plain() == "a, b", "the mark goes, shuffled or not"


def test_joint_tags_stay_together() -> None:
    said = many(words("x;;;y, b, c", shuffle=True, joint_separator=";;;"))
    assert all("x,y" in text for text in said)
    assert len(set(said)) == 6


def test_tag_dropout_spares_kept_tags() -> None:
    said = many(words(TAGS, tag_dropout=0.5, keep=1), 400)
    counts = Counter(tag for text in said for tag in text.split(", "))
    assert counts["a"] == 400
    assert all(150 < counts[tag] < 250 for tag in "bcdef")
    assert words(TAGS, tag_dropout=1.0, keep=1).said(Random(0), 0) == "a"


def test_caption_dropout_takes_all_even_the_trigger() -> None:
    said = Counter(many(words(TAGS, caption_dropout=0.25, trigger="sks"), 400))
    assert 60 < said[""] < 140
    assert said[f"sks, {TAGS}"] == 400 - said[""]


def test_caption_dropout_every_so_many_epochs() -> None:
    one = words("a", dropout_epochs=3)
    assert [one.said(Random(0), epoch) for epoch in range(6)] == ["a", "a", "", "a", "a", ""]
    assert one.varies()


def test_trigger_words_stand_in_front_unshuffled() -> None:
    assert all(text.startswith("sks cat, ") for text in many(words(TAGS, trigger="sks cat", shuffle=True)))
    assert words(trigger="sks").plain() == "sks"


def test_templates() -> None:
    one = words("red, round", concept="ball", templates=("a photo of [name], [filewords]", "[filewords]"))
    assert set(many(one)) == {"a photo of ball, red, round", "red, round"}
    assert one.plain() == "a photo of ball, red, round"
    assert not words("x", templates=("by [filewords]",)).varies()


def test_wildcards() -> None:
    one = words("a {red|{dark|pale} blue} cat", wildcards=True)
    assert set(many(one)) == {"a red cat", "a dark blue cat", "a pale blue cat"}
    assert one.plain() == "a red cat"
    assert words("{{a|b}} {c}", wildcards=True).plain() == "{a|b} c"
    assert words("{a|b", wildcards=True).plain() == "{a|b"


def test_wildcards_choose_a_line() -> None:
    assert set(many(words("one", "two", wildcards=True))) == {"one", "two"}
    assert set(many(words("one", "two"))) == {"one two"}


def test_other_separators() -> None:
    said = many(words("a cat. a hat. a mat", shuffle=True, separator="."))
    assert {len(text.split(". ")) for text in said} == {3}
    assert len(set(said)) == 6


@pytest.mark.parametrize(
    "rules", [{"shuffle": True}, {"tag_dropout": 0.5}, {"wildcards": True}, {"caption_dropout": 0.5}]
)
def test_the_same_dice_say_the_same(rules) -> None:
    one = words("a, {b|c|d}, e, f, g", **rules)
    assert many(one, 20) == many(one, 20)


def test_todays_words_are_tomorrows() -> None:
    """A resumed run on another machine must say the same."""
    one = words("a, b, {c|d}, e, f", shuffle=True, tag_dropout=0.2, wildcards=True, keep=1)
    assert [one.said(Random(f"x {i}"), 0) for i in range(3)] == ["a, b, d, f", "a, b, f, e, c", "a, e, b, f, d"]


@given(st.text(max_size=40), st.booleans(), st.integers(0, 5), st.floats(0, 1), st.booleans(), st.integers(0, 9))
def test_any_text_is_survived(text, shuffle, keep, dropout, wildcards, seed) -> None:
    one = words(text, shuffle=shuffle, keep=keep, tag_dropout=dropout, wildcards=wildcards, keep_separator="|||")
    assert isinstance(one.said(Random(seed), 0), str)
    assert isinstance(one.plain(), str)
