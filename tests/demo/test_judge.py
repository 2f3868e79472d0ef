"""The judge sees what was drawn, and says so when something else was."""

import dataclasses

import numpy as np
import pytest

from demo import judge, world
from demo.world import Scene, Thing

ONE = Scene((Thing("heart", "yellow", "medium"),), "left", "striped", "purple")
TWO = Scene((Thing("ring", "white", "medium"), Thing("cross", "black", "large")), "above", "gradient", "red")


def test_it_is_right_about_held_out_drawings() -> None:
    result = judge.on_drawings(250)
    for question in ("colour", "shape", "background", "position"):
        assert result.share(question) >= 0.98, judge.table(result, "judge")


@pytest.mark.parametrize("scene", [ONE, TWO])
@pytest.mark.parametrize("side", [64, 128])
def test_it_reads_a_scene(scene: Scene, side: int) -> None:
    assert judge.look(world.draw(scene, world.generator(4, 4), side)) == scene


def test_other_things_lower_the_score() -> None:
    other = dataclasses.replace(ONE, things=(Thing("star", "yellow", "medium"),), ground="green")
    result = judge.score([(ONE, judge.look(world.draw(other, world.generator(5, 5))))])
    assert result.right == {"colour": 1, "shape": 0, "background": 0, "position": 1, "size": 1, "count": 1}


def test_a_missing_thing_counts_as_wrong() -> None:
    lonely = dataclasses.replace(TWO, things=TWO.things[:1], place="centre")
    result = judge.score([(TWO, judge.look(world.draw(lonely, world.generator(6, 6))))])
    assert result.right["shape"] <= 1 and result.asked["shape"] == 2 and result.right["count"] == 0


@pytest.mark.parametrize("name", ["noise", "grey", "white"])
def test_it_survives_pictures_of_nothing(name: str) -> None:
    pictures = {
        "noise": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "grey": np.full((64, 64, 3), 128, np.uint8),
        "white": np.full((64, 64, 3), 255, np.uint8),
    }
    assert isinstance(judge.look(pictures[name]), Scene)


def test_captions_to_be_painted_are_held_out_and_fixed() -> None:
    asked = judge.asked_for(20)
    assert asked == judge.asked_for(20)
    assert all(world.is_held_out(scene) for scene, _ in asked)


def test_a_perfect_painter_gets_full_marks() -> None:
    asked = judge.asked_for(30)
    scenes = dict((prompt, scene) for scene, prompt in asked)
    result, _ = judge.on_prompts(lambda prompt, seed: world.draw(scenes[prompt], world.generator(7, seed)), asked)
    assert result.share("colour") > 0.95 and result.share("background") > 0.95


def test_a_painter_who_does_not_listen_fails() -> None:
    fixed = world.draw(ONE, world.generator(8, 8))
    result, _ = judge.on_prompts(lambda prompt, seed: fixed, judge.asked_for(60))
    assert all(result.share(question) < 0.4 for question in judge.BAR)
