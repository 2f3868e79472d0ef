"""A setting says what it depends on: conditions name real settings and possible values, and never go in a circle."""

from __future__ import annotations

import pytest

from lora_ext.config import FACTS, TrainConfig, flat, relevant, settings
from lora_ext.config.relevance import only, unless

SETTINGS = settings(TrainConfig)
CONDITIONS = {name: s.when for name, s in SETTINGS.items()}
NAMED = [(s, one) for s in SETTINGS.values() for either in s.when for one in either]
DEFAULTS = flat(TrainConfig())


@pytest.mark.parametrize(("setting", "one"), NAMED, ids=lambda x: x.name)
def test_a_condition_names_a_setting_and_values_it_can_have(setting, one):
    assert one.values
    if one.name in FACTS:
        assert set(one.values) <= set(FACTS[one.name])
        return
    other = SETTINGS[one.name]
    for value in one.values:
        assert type(value) is other.type
        assert not other.choices or value in other.choices


def test_conditions_go_in_no_circle():
    def depth(name: str, above: tuple[str, ...]) -> int:
        assert name not in above, f"{' -> '.join(above)} -> {name}"
        below = [one.name for either in CONDITIONS.get(name, ()) for one in either]
        return 1 + max((depth(other, (*above, name)) for other in below), default=0)

    assert max(depth(name, ()) for name in SETTINGS) >= 2


@pytest.mark.parametrize("name", [name for name, s in SETTINGS.items() if s.when])
def test_every_condition_can_hold_and_can_fail(name):
    """Otherwise the field would never, or always, be shown."""
    seen = set()
    for either in SETTINGS[name].when:
        for one in either:
            for good in (True, False):
                seen.add(relevant(name, CONDITIONS, DEFAULTS | _known(SETTINGS[name].when, one, good)))
    assert seen == {True, False}


def _known(when, one, good):
    """Values under which all conditions hold, or only `one` and its neighbours do not."""
    out = {}
    for either in when:
        for c in either:
            holds = good or one not in either
            out[c.name] = c.values[0] if holds is not c.other else _outside(c)
            for deeper in CONDITIONS.get(c.name, ()):
                out.setdefault(deeper[0].name, deeper[0].values[0] if not deeper[0].other else _outside(deeper[0]))
    return out


def _outside(one):
    if one.name in FACTS:
        return next(v for v in FACTS[one.name] if v not in one.values)
    s = SETTINGS[one.name]
    if s.choices:
        return next(c for c in s.choices if c not in one.values)
    return (not one.values[0]) if s.type is bool else {int: 7, float: 0.123, str: "x"}[s.type]


def test_what_hangs_on_something_useless_is_useless():
    conditions = {"b": ((only("a", 1),),), "c": ((unless("b", 0),),)}
    assert relevant("c", conditions, {"a": 1, "b": 5})
    assert not relevant("c", conditions, {"a": 2, "b": 5})
    assert not relevant("c", conditions, {"a": 1, "b": 0})
    assert relevant("c", conditions, {"b": 5}), "nothing is called useless on a guess"


def test_a_preset_could_never_hold_what_is_of_one_run():
    of_run = {name for name, s in SETTINGS.items() if s.of_run}
    assert {name for name, s in SETTINGS.items() if s.needed} <= of_run
    assert {"resume", "overwrite", "start_from", "datasets", "trigger_words", "preview_prompt"} <= of_run
    paths = {name for name in SETTINGS if name.endswith(("folder", "images", "_file"))}
    assert paths <= of_run, "a path of one machine is of no use on another"
