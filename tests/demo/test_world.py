"""The drawn world: seeds are pictures, captions say what is there."""

import numpy as np
import pytest

from demo import world
from demo.world import Scene, Thing


def drawn(index: int, seed: int = 5) -> tuple[Scene, str, np.ndarray]:
    random = world.generator(seed, index)
    scene = world.random_scene(random)
    return scene, world.caption(scene, random), world.draw(scene, random)


def test_a_seed_is_a_picture() -> None:
    first, again, other = drawn(3), drawn(3), drawn(4)
    assert first[:2] == again[:2]
    assert np.array_equal(first[2], again[2])
    assert not np.array_equal(first[2], other[2])


def test_pictures_have_the_side_asked_for() -> None:
    scene = Scene((Thing("star", "red", "large"),), "centre", "dotted", "blue")
    small, large = (world.draw(scene, world.generator(1, 1), side) for side in (64, 128))
    assert small.shape == (64, 64, 3) and large.shape == (128, 128, 3) and small.dtype == np.uint8
    halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 3  # the same picture, only finer


@pytest.mark.parametrize("index", range(60))
def test_a_caption_names_what_is_there(index: int) -> None:
    scene, caption, _ = drawn(index)
    for thing in scene.things:
        assert any(f"{thing.colour} {word}" in caption for word in world.SHAPES[thing.shape])
        assert any(word in caption for word in world.SIZES[thing.size])
    assert f"{scene.ground}" in caption
    assert any(text.format(scene.ground).split(" ", 2)[-1] in caption for text in world.GROUNDS[scene.pattern])
    assert " a orange" not in caption


def test_held_out_scenes_are_never_trained_on() -> None:
    random = world.generator(9, 0)
    assert not any(world.is_held_out(world.random_scene(random)) for _ in range(500))
    assert all(world.is_held_out(world.random_scene(random, held_out=True)) for _ in range(50))


def test_every_choice_occurs() -> None:
    random = world.generator(11, 0)
    scenes = [world.random_scene(random) for _ in range(600)]
    assert {t.shape for s in scenes for t in s.things} == set(world.SHAPES)
    assert {t.colour for s in scenes for t in s.things} == set(world.COLOURS)
    assert {s.pattern for s in scenes} == set(world.GROUNDS)
    assert {s.place for s in scenes} == {*world.PLACES, *world.RELATIONS}


def test_a_drawing_has_the_colours_of_its_scene() -> None:
    scene = Scene((Thing("square", "red", "large"),), "centre", "plain", "blue")
    picture = world.draw(scene, world.generator(2, 2)).astype(int)
    assert np.abs(picture[32, 32] - world.COLOURS["red"]).max() <= 9
    assert np.abs(picture[1, 1] - world.COLOURS["blue"]).max() <= 9


def test_edges_are_soft() -> None:
    scene = Scene((Thing("circle", "white", "large"),), "centre", "plain", "black")
    levels = np.unique(world.draw(scene, world.generator(3, 3))[..., 0])
    assert len(levels) > 6
