"""Every preset is a run that can start on its family, and says truly what it chose."""

from __future__ import annotations

import itertools
import string

import pytest

from lora_ext.config import TrainConfig, flat, read, relevant, settings
from lora_ext.presets import GOALS, Case, choose
from lora_ext.presets.case import GIB
from lora_ext.presets.fitting import USABLE, rough_peak

SETTINGS = settings(TrainConfig)
CONDITIONS = {name: s.when for name, s in SETTINGS.items()}
FAMILIES = (("sd1", "epsilon"), ("sd2", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon"))
CARDS = (None, 4, 8, 24)
PICTURES = (0, 15, 60, 5000)
CASES = [
    Case(goal, family, pictures, size and int(0.97 * size * GIB), kind)
    for goal, (family, kind), size, pictures in itertools.product(GOALS, FAMILIES, CARDS, PICTURES)
]
NEEDED = {"images": "pictures", "output": "name"}


def whole(case: Case) -> dict[str, object]:
    return flat(read(TrainConfig, {**NEEDED, **choose(case).settings}))


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
@pytest.mark.parametrize("goal", GOALS)
def test_every_preset_is_a_run(goal, family):
    for case in (c for c in CASES if (c.goal, c.family, c.prediction_type) == (goal, *family)):
        chosen = choose(case).settings
        assert chosen.keys() <= SETTINGS.keys()
        assert not any(SETTINGS[name].of_run for name in chosen)
        values = whole(case)
        facts = {"family": case.family, "prediction_type": case.prediction_type, "preview_prompt": "a cat"}
        changed = [name for name, value in chosen.items() if value != SETTINGS[name].default]
        useless = [name for name in changed if not relevant(name, CONDITIONS, values | facts)]
        assert useless in ([], ["validation_every"]) or not case.pictures
        assert values["alpha"] <= values["rank"]
        assert values["resolution"] % 64 == 0
        assert all(type(value) is SETTINGS[name].type for name, value in chosen.items())


@pytest.mark.parametrize("case", CASES[::5], ids=lambda c: f"{c.goal}-{c.family}-{c.gigabytes}-{c.pictures}")
def test_the_sentences_say_what_was_chosen(case):
    made = choose(case)
    for said in made.reasons:
        fields = {field for _, field, _, _ in string.Formatter().parse(said.template) if field is not None}
        assert fields == {str(n) for n in range(len(said.values))}
        assert str(said)[-1] == "."
    text = " ".join(map(str, made.reasons))
    if case.pictures:
        assert f"{made.settings['epochs']} epochs of your {case.pictures} pictures" in text
    else:
        assert made.settings["max_steps"]
    if "Rank" in text:
        assert f"Rank {made.settings['rank']}" in text
    assert ("The text encoder learns" in text) is bool(made.settings["text_encoder_lr"])
    assert ("No graphics card" in text) is (case.memory is None)
    assert ("too much" in text) is (case.memory is not None and rough_peak(case, made.settings) > USABLE * case.memory)


def test_the_recipes_of_the_field():
    """Goldens: lora-scripts and kohya_ss for SD 1.x, kohya's notes for SDXL."""
    room = {"pictures": 15, "memory": 12 * GIB}
    chosen = choose(Case("character", "sd1", **room)).settings
    assert (chosen["rank"], chosen["alpha"], chosen["learning_rate"], chosen["text_encoder_lr"]) == (32, 16, 1e-4, 5e-5)
    chosen = choose(Case("style", "sd1", **room)).settings
    assert (chosen["rank"], chosen["alpha"], chosen["noise_offset"]) == (64, 64, 0.05)
    for goal in GOALS:
        chosen = choose(Case(goal, "sdxl", **room)).settings
        assert 16 <= chosen["rank"] <= 32
        assert chosen["alpha"] == chosen["rank"] / 2
        assert (chosen["text_encoder_lr"], chosen["checkpointing"]) == (0, True)
        assert (chosen["noise_offset"], chosen["min_snr_gamma"]) == (0.0357, 5)
    assert [whole(Case("object", f, 15, None, k))["resolution"] for f, k in FAMILIES] == [512, 512, 768, 1024]


def test_a_smaller_card_never_needs_more():
    for goal, (family, kind) in itertools.product(GOALS, FAMILIES):
        cases = [Case(goal, family, 15, size * GIB, kind) for size in (2, 4, 6, 8, 12, 16, 24, 48)]
        peaks = [rough_peak(case, choose(case).settings) for case in cases]
        assert peaks == sorted(peaks)
        for case, peak in zip(cases, peaks, strict=True):
            assert peak <= USABLE * case.memory or "too much" in str(choose(case).reasons[-1])


def test_few_pictures_are_not_learnt_by_heart_and_many_are_all_seen():
    epochs = [choose(Case("character", "sd1", n)).settings["epochs"] for n in (1, 10, 15, 100, 1000)]
    assert epochs == [150, 150, 100, 15, 5]
    assert "more pictures would do better" in str(choose(Case("character", "sd1", 3)).reasons[0])


def test_who_knows_better_decides_what_fits():
    asked = []

    def fits(settings):
        asked.append(dict(settings))
        return bool(settings["checkpointing"])

    made = choose(Case("character", "sd1", 15, 80 * GIB), fits)
    assert made.settings["checkpointing"] is True
    assert len(asked) >= 2
    assert "checkpointing, because the card has 80 GB" in str(made.reasons[-1])
