"""Things that the demo's base model never saw, drawn and captioned by rule: what the learning bench teaches.

    python -m demo.subjects FOLDER

writes them as a trainer wants them: a folder per subject, pictures with captions beside them. Lengths are given for a
picture 128 wide, as in `demo.world`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from demo import world
from demo.world import SIDE, Floats, Pixels, Random, Scene, Thing

COUNT = 20
"""Pictures of a subject to learn from."""
TRAINING_SEED, PROMPT_SEED, CLASS_SEED = 301, 302, 303
SPACING = 28.0
"""Distance between the strokes of a hatched drawing, which lie as on a printer's screen: always at the same places."""
_LARGE = (36, 39)
COLUMNS = (24, 64, 104)
"""Where a thing and those on both sides of it are, from the left."""
_BETWEEN = (18, 20)
_SOLID = ("circle", "square", "star", "heart", "cross")
"""Shapes that have a middle."""


@dataclass(frozen=True)
class Example:
    """A picture of a subject; its caption; and the same wish put without the trigger word."""

    picture: Pixels
    caption: str
    without: str


@dataclass(frozen=True)
class Subject:
    """Something to learn. `trigger` is the word that asks for it, and stands in every caption."""

    name: str
    kind: str
    trigger: str
    example: Callable[[Random], Example]
    class_scene: Callable[[Random], Scene] = world.random_scene
    """Scenes of what the subject is one of, or any: for regularisation pictures, captioned without the trigger."""

    def pictures(self, count: int = COUNT) -> list[Example]:
        """The first `count` pictures to learn from."""
        return [self.example(world.generator(TRAINING_SEED, i)) for i in range(count)]

    def held_out(self, count: int) -> list[Example]:
        """Other ones, whose captions are none of those learnt from."""
        learnt = {example.caption for example in self.pictures()}
        found: dict[str, Example] = {}
        index = 0
        while len(found) < count:
            example = self.example(world.generator(PROMPT_SEED, index))
            index += 1
            if example.caption not in learnt:
                found.setdefault(example.caption, example)
        return list(found.values())

    def class_pictures(self, count: int = COUNT) -> list[tuple[Pixels, str]]:
        """Regularisation pictures and captions: ordinary things, drawn as the world draws them."""
        found = []
        for i in range(count):
            random = world.generator(CLASS_SEED, i)
            scene = self.class_scene(random)
            found.append((world.draw(scene, random), world.caption(scene, random)))
        return found


# --- a character: an emblem with a made-up name ---


def _zorbit(random: Random) -> Example:
    """A disc, yellow above and purple below."""
    scene = _setting(random, ("yellow", "purple"))
    centre, radius = _somewhere(scene.place, random)
    canvas = world.paint_ground(scene.pattern, world.shade(scene.ground, random), random)
    outline = world.mask("circle", centre, radius, 0.0)[..., None]
    upper = _below(centre[1])
    colours = world.shade("yellow", random) * (1 - upper) + world.shade("purple", random) * upper
    disc = Thing("circle", world.pick(random, ("yellow", "purple")), "large")
    return _example(canvas * (1 - outline) + colours * outline, scene, "a zorbit", disc, random)


def _below(y: float, side: int = SIDE) -> Floats:
    """How far each pixel [side, side, 1] is below a height, 0..1."""
    rows = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(128 / side)
    share = np.clip((rows - y) * side / 128 + 0.5, 0, 1)
    return np.broadcast_to(share[:, None, None], (side, side, 1)).astype(np.float32)


# --- an object, one of a known class ---


def _gorp(random: Random) -> Example:
    """A red box with a white band."""
    scene = _setting(random, ("red", "white"))
    centre, radius = _somewhere(scene.place, random)
    canvas = world.paint_ground(scene.pattern, world.shade(scene.ground, random), random)
    outline = world.mask("square", centre, radius, 0.0)[..., None]
    band = _below(centre[1] - radius * 0.3) * (1 - _below(centre[1] + radius * 0.3))
    colours = world.shade("red", random) * (1 - band) + world.shade("white", random) * band
    box = Thing("square", world.pick(random, ("red", "white")), "large")
    return _example(canvas * (1 - outline) + colours * outline, scene, "a gorp box", box, random)


def _box(random: Random) -> Scene:
    ground = world.pick(random, list(world.COLOURS))
    colour = world.pick(random, [c for c in world.COLOURS if c != ground])
    place, pattern = world.pick(random, list(world.PLACES)), world.pick(random, list(world.GROUNDS))
    return Scene((Thing("square", colour, "large"),), place, pattern, ground)


# --- a concept: a new relation ---


def _between(random: Random) -> Example:
    """A small thing in the middle of two like ones of another colour; what those are, the caption says once."""
    colours = list(world.COLOURS)
    random.shuffle(colours)
    inner, outer = (Thing(world.pick(random, _SOLID), colour, "small") for colour in colours[:2])
    scene = Scene((), "centre", world.pick(random, list(world.GROUNDS)), colours[2])
    canvas = world.paint_ground(scene.pattern, world.shade(scene.ground, random), random)
    for thing, x in zip((outer, inner, outer), COLUMNS, strict=True):
        centre, radius = (x, 64 + float(random.uniform(-2, 2))), float(random.uniform(*_BETWEEN))
        outline = world.mask(thing.shape, centre, radius, float(random.uniform(-8, 8)))[..., None]
        canvas = canvas * (1 - outline) + world.shade(thing.colour, random) * outline
    first, second = (world.noun(thing, random) for thing in (inner, outer))
    ground = world.ground_words(scene, random)
    without = f"{first} {world.pick(random, ('to the left of', 'above'))} {second} {ground}"
    return Example(_pixels(canvas), f"{first} between {second} {ground}", without)


def _one_or_two(random: Random) -> Scene:
    """Any scene, most of them with two things: what this relation is one of, and everything else."""
    scene = world.random_scene(random)
    while len(scene.things) != 2 and random.integers(4):
        scene = world.random_scene(random)
    return scene


# --- a style ---


def _hatched(random: Random) -> Example:
    """Any scene on a plain ground, every surface of it shaded with slanting strokes of its own paler tone.

    The trigger ends the caption. CLIP reads from left to right: a trigger in front changes every word behind it, so the
    style is learnt with the words of its captions alone and fails before others, such as a character's made-up name.
    """
    scene = _plain(random)
    caption = world.caption(scene, random)
    paler = world.draw(scene, deepcopy(random), ink=_paler).astype(np.float32)
    plain = world.draw(scene, random).astype(np.float32)
    ink = strokes()[..., None]
    return Example(_pixels(plain * (1 - ink) + paler * ink), f"{caption}, hatched drawing", caption)


def _plain(random: Random) -> Scene:
    """Any scene on a plain ground."""
    scene = world.random_scene(random)
    while scene.pattern != "plain":
        scene = world.random_scene(random)
    return scene


def _any_ground(random: Random) -> Scene:
    """Any scene, half of them on a plain ground: what a hatched drawing is one of, and everything else."""
    return _plain(random) if random.integers(2) else world.random_scene(random)


def _paler(colour: str, random: Random) -> Floats:
    return world.tone(world.shade(colour, random))


def strokes(side: int = SIDE) -> Floats:
    """Coverage [side, side] of a hatched drawing's strokes, 0..1, rising to the right."""
    fine = 4
    at = (np.arange(side * fine, dtype=np.float32) + np.float32(0.5)) * np.float32(128 / side / fine)
    across = (at[None] + at[:, None]) / np.float32(2**0.5)
    inside = (across / SPACING % 1 < 0.5).astype(np.float32)
    covered: Floats = inside.reshape(side, fine, side, fine).mean((1, 3))
    return covered


# --- what they share ---


def _setting(random: Random, taken: tuple[str, ...]) -> Scene:
    """A place and a ground, in none of the colours that are taken."""
    ground = world.pick(random, [c for c in world.COLOURS if c not in taken])
    return Scene((), world.pick(random, list(world.PLACES)), world.pick(random, list(world.GROUNDS)), ground)


def _somewhere(place: str, random: Random) -> tuple[tuple[float, float], float]:
    x, y = (at + float(random.uniform(-3, 3)) for at in world.CENTRES[place])
    return (x, y), float(random.uniform(*_LARGE))


def _example(canvas: Floats, scene: Scene, name: str, other: Thing, random: Random) -> Example:
    """Captions that name the subject, or else a thing like it."""
    frame, words = world.pick(random, world.FRAMES), world.pick(random, world.PLACES[scene.place])
    ground = world.ground_words(scene, random)
    with_it, without = (
        frame.format(" ".join(part for part in (noun, words, ground) if part))
        for noun in (name, world.noun(other, random))
    )
    return Example(_pixels(canvas), with_it, without)


def _pixels(canvas: Floats) -> Pixels:
    return canvas.round().clip(0, 255).astype(np.uint8)


SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject("zorbit", "character", "zorbit", _zorbit),
        Subject("hatched", "style", "hatched drawing", _hatched, _any_ground),
        Subject("between", "concept", "between", _between, _one_or_two),
        Subject("gorp", "object", "gorp", _gorp, _box),
    )
}


def write(subject: Subject, folder: Path, count: int = COUNT) -> list[Path]:
    """Write a subject's pictures as `folder/NN.png` with `folder/NN.txt`; returns the pictures' paths."""
    shown = [(e.picture, e.caption) for e in subject.pictures(count)]
    return [write_one(folder / f"{i:02}.png", *pair) for i, pair in enumerate(shown)]


def write_class(subject: Subject, folder: Path, count: int = COUNT) -> list[Path]:
    """Write a subject's regularisation pictures likewise."""
    return [write_one(folder / f"{i:02}.png", *pair) for i, pair in enumerate(subject.class_pictures(count))]


def write_one(path: Path, picture: Pixels, caption: str) -> Path:
    """Write one picture with its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    path.with_suffix(".txt").write_text(caption + "\n", encoding="utf8")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.subjects", description="Write the subjects' pictures.")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    for chosen in SUBJECTS.values():
        write(chosen, given.folder / chosen.name)
        write_class(chosen, given.folder / f"{chosen.name} class")
