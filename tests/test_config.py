"""Every setting can be written down and read back; every wrong one is named, all at once."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from lora_ext.config import (
    CheckpointConfig,
    GenerateConfig,
    PictureConfig,
    Setting,
    TrainConfig,
    flat,
    read,
    settings,
)
from lora_ext.errors import BadInput

CONFIGS = [TrainConfig, CheckpointConfig, PictureConfig, GenerateConfig]
ALL = [(c, s) for c in CONFIGS for s in settings(c).values()]
IDS = [f"{c.__name__}.{s.name}" for c, s in ALL]


def needed(config: type) -> dict[str, object]:
    return {s.name: "given" for s in settings(config).values() if s.needed}


def another(s: Setting) -> object:
    """A legal value that is not the default."""
    if s.choices:
        return next(c for c in s.choices if c != s.default)
    if s.type is bool:
        return not s.default
    if s.type is str:
        return "Ω <lora:x:1>, ümlaut"
    step = s.multiple or (1 if s.type is int else 0.25)
    up = s.default + step
    return up if s.maximum is None or up <= s.maximum else s.default - step


def problems_of(config: type, values: dict[str, object]) -> dict[str, str]:
    with pytest.raises(BadInput) as caught:
        read(config, values)
    return {p.field: str(p) for p in caught.value.problems}


@pytest.mark.parametrize(("config", "s"), ALL, ids=IDS)
def test_a_setting_arrives_where_it_belongs(config, s):
    value = another(s)
    made = read(config, {**needed(config), s.name: value})
    got = flat(made)
    assert got[s.name] == value
    assert type(got[s.name]) is s.type
    defaults = flat(read(config, needed(config)))
    assert {k for k in got if got[k] != defaults[k]} == {s.name}, "no other setting moved"


@pytest.mark.parametrize(("config", "s"), ALL, ids=IDS)
def test_text_means_the_same_as_the_value(config, s):
    value = another(s)
    given_ = {**needed(config), s.name: value}
    assert read(config, given_) == read(config, {**given_, s.name: str(value)})


@pytest.mark.parametrize("config", CONFIGS)
def test_flat_then_read_is_the_identity(config):
    values = {**needed(config), **{s.name: another(s) for s in settings(config).values()}}
    made = read(config, values)
    assert read(config, flat(made)) == made
    assert flat(made) == values


CHOSEN = {s.name: st.sampled_from(s.choices) for s in settings(TrainConfig).values() if s.choices}
FLOATS = {
    s.name: st.floats(s.minimum, s.maximum) for s in settings(TrainConfig).values() if s.type is float and not s.choices
}


@effort(deadline=None)
@given(st.fixed_dictionaries({**CHOSEN, **FLOATS}))
def test_any_legal_mixture_round_trips(values):
    made = read(TrainConfig, {**needed(TrainConfig), **values})
    assert {name: flat(made)[name] for name in values} == values
    assert read(TrainConfig, flat(made)) == made


@pytest.mark.parametrize(("config", "s"), ALL, ids=IDS)
def test_every_setting_explains_itself(config, s):
    assert s.label
    assert s.label[0].isupper() or s.label[0].isdigit()
    assert s.section or config in (CheckpointConfig, PictureConfig)
    if s.type in (int, float) and not s.choices:
        assert s.minimum is not None, "a number without a lower bound lets nonsense in"
    if not s.needed and s.type is not str:
        assert read(config, {**needed(config), s.name: s.default})


def test_names_are_unique_over_sections():
    for config in CONFIGS:
        names = [
            f.name
            for section in dataclasses.fields(config)
            for f in (dataclasses.fields(section.default_factory) if callable(section.default_factory) else [section])
        ]
        assert sorted(names) == sorted(settings(config))


WRONG = {
    int: ["ten", "1.5", 1.5, None, [], True, float("nan"), "١٢x"],
    float: ["much", None, {}, False],
    bool: ["maybe", 2, None],
}


@pytest.mark.parametrize(("config", "s"), ALL, ids=IDS)
def test_a_wrong_kind_of_value_names_its_setting(config, s):
    for value in WRONG.get(s.type, [None, 3, []]):
        assert list(problems_of(config, {**needed(config), s.name: value})) == [s.name], value


NUMBERS = [(c, s) for c, s in ALL if s.type in (int, float)]


@pytest.mark.parametrize(("config", "s"), NUMBERS, ids=[f"{c.__name__}.{s.name}" for c, s in NUMBERS])
def test_out_of_range_says_the_range(config, s):
    beyond = [s.minimum - (s.multiple or 1)] + ([s.maximum + (s.multiple or 1)] if s.maximum is not None else [])
    beyond += ["nan", "inf", "-inf"] if s.type is float else ["9" * 400 if s.maximum is not None else -1]
    for value in beyond:
        found = problems_of(config, {**needed(config), s.name: value})
        assert list(found) == [s.name]
    assert f"{s.minimum:g}" in problems_of(config, {**needed(config), s.name: beyond[0]})[s.name]


def test_multiples():
    assert "multiple of 64" in problems_of(TrainConfig, {**needed(TrainConfig), "resolution": 500})["resolution"]
    assert read(TrainConfig, {**needed(TrainConfig), "resolution": "576"}).data.resolution == 576


def test_every_problem_at_once_with_missing_and_unknown_ones():
    found = problems_of(TrainConfig, {"rank": 0, "learning_rat": 1e-4, "schedule": "sideways", "precision": "fp8"})
    assert set(found) == {"images", "output", "rank", "learning_rat", "schedule", "precision"}
    assert "learning_rate?" in found["learning_rat"]
    assert "constant, linear, cosine" in found["schedule"]


@pytest.mark.parametrize("blank", ["", "   "])
def test_needed_text_cannot_be_blank(blank):
    assert set(problems_of(TrainConfig, {"images": blank, "output": "x"})) == {"images"}


def test_each_problem_is_one_line():
    for line in problems_of(TrainConfig, {"rank": "a\nb"}).values():
        assert "\n" not in line


@pytest.mark.parametrize(("word", "value"), [("true", True), ("ON", True), ("0", False), ("No", False)])
def test_words_for_yes_and_no(word, value):
    assert read(TrainConfig, {**needed(TrainConfig), "flip": word}).data.flip is value
