"""The world of the demo: pictures of simple things, drawn and captioned by rule, so that what was asked for is known.

A `Scene` says what is there; `draw` paints it, `caption` words it. Both take a generator, so a seed is a picture.
Lengths are given for a picture 128 wide and scaled to the side that is asked for.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
Points = list[tuple[float, float]]
Random = np.random.Generator

SIDE = 64
"""Pixels of a picture of the base model. The same seed draws the same picture at any side."""

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (246, 138, 20),
    "yellow": (250, 222, 50),
    "green": (38, 158, 66),
    "blue": (36, 84, 222),
    "purple": (138, 52, 186),
    "white": (246, 246, 246),
    "black": (24, 24, 24),
}
SHAPES: Mapping[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "moon": ("moon", "crescent"),
}
SIZES: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("",),
    "large": ("large", "big", "huge"),
}
RADII: Mapping[str, tuple[float, float]] = {"small": (17, 19), "medium": (26, 28), "large": (36, 39)}
PAIR_RADII: Mapping[str, tuple[float, float]] = {"small": (16, 17), "medium": (23, 24), "large": (29, 31)}
PLACES: Mapping[str, tuple[str, ...]] = {
    "centre": ("", "in the middle", "in the centre"),
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
}
CENTRES: Mapping[str, tuple[int, int]] = {
    "centre": (64, 64),
    "left": (39, 64),
    "right": (89, 64),
    "top": (64, 39),
    "bottom": (64, 89),
}
RELATIONS: Mapping[str, tuple[str, str]] = {"beside": ("left", "right"), "above": ("top", "bottom")}
"""How two things stand, and the places of the first and the second."""

GROUNDS: Mapping[str, tuple[str, ...]] = {
    "plain": ("on a {} background", "on a plain {} background", "on plain {}"),
    "striped": ("on a {} striped background", "on {} stripes", "on a background with {} stripes"),
    "checkered": ("on a {} checkered background", "on {} checks", "on a background with {} checks"),
    "dotted": ("on a {} dotted background", "on {} dots", "on a background with {} dots"),
    "gradient": ("on a {} gradient background", "on a {} gradient", "on a background fading from {}"),
}
FRAMES = ("{}", "{}", "{}", "a picture of {}", "a drawing of {}")


@dataclass(frozen=True)
class Thing:
    """One object."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `place` is one of PLACES for one thing, one of RELATIONS for two (first: left or top)."""

    things: tuple[Thing, ...]
    place: str
    pattern: str
    ground: str

    @property
    def places(self) -> tuple[str, ...]:
        """Where each thing is."""
        return RELATIONS[self.place] if len(self.things) == 2 else (self.place,)


def generator(seed: int, index: int) -> Random:
    """The generator of picture number `index` of a set."""
    return np.random.default_rng([seed, index])


def random_scene(random: Random, held_out: bool = False) -> Scene:
    """Any scene; never one that `is_held_out`, or only such ones."""
    while True:
        scene = _any_scene(random)
        if is_held_out(scene) == held_out:
            return scene


def is_held_out(scene: Scene) -> bool:
    """Whether training must not see it: one in 20 of all (shape, colour, pattern, ground) by hash."""
    words = [f"{t.shape} {t.colour} {scene.pattern} {scene.ground}" for t in scene.things]
    return any(zlib.crc32(w.encode()) % 20 == 0 for w in words)


def _any_scene(random: Random) -> Scene:
    ground = pick(random, list(COLOURS))
    colours = [c for c in COLOURS if c != ground]
    random.shuffle(colours)
    two = random.random() < 0.3
    things = tuple(Thing(pick(random, list(SHAPES)), c, pick(random, list(SIZES))) for c in colours[: 2 if two else 1])
    place = pick(random, list(RELATIONS if two else PLACES))
    return Scene(things, place, pick(random, list(GROUNDS)), ground)


Choice = TypeVar("Choice")


def pick(random: Random, choices: Sequence[Choice]) -> Choice:
    """One of them, evenly."""
    return choices[int(random.integers(len(choices)))]


# --- words ---


def caption(scene: Scene, random: Random) -> str:
    """Plain English for a scene, one of many wordings; always complete."""
    things = _things(scene, random)
    ground = ground_words(scene, random)
    if random.random() < 0.15:
        return f"{ground}, {things}"
    return pick(random, FRAMES).format(f"{things} {ground}")


def ground_words(scene: Scene, random: Random) -> str:
    """Words for a scene's ground."""
    return pick(random, GROUNDS[scene.pattern]).format(scene.ground).replace(" a orange", " an orange")


def _things(scene: Scene, random: Random) -> str:
    nouns = [noun(thing, random) for thing in scene.things]
    if len(nouns) == 1:
        return f"{nouns[0]} {pick(random, PLACES[scene.place])}".strip()
    first, second = nouns
    if scene.place == "beside":
        return pick(
            random, (f"{first} to the left of {second}", f"{second} to the right of {first}", f"{first} and {second}")
        )
    return pick(random, (f"{first} above {second}", f"{second} below {first}", f"{first} over {second}"))


def noun(thing: Thing, random: Random) -> str:
    """Words for a thing, with its article."""
    words = [pick(random, SIZES[thing.size]), thing.colour, pick(random, SHAPES[thing.shape])]
    phrase = " ".join(w for w in words if w)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


# --- pictures ---


def shade(colour: str, random: Random) -> Floats:
    """A colour's RGB [3] with a little jitter."""
    return (np.array(COLOURS[colour]) + random.uniform(-8, 8, 3)).clip(0, 255).astype(np.float32)


Ink = Callable[[str, Random], Floats]


def draw(scene: Scene, random: Random, side: int = SIDE, ink: Ink = shade) -> Pixels:
    """Paint a scene: [side, side, 3], anti-aliased; places, sizes, angles, colours and pattern phases vary a little.

    `ink` is what a colour looks like.
    """
    canvas = paint_ground(scene.pattern, ink(scene.ground, random), random, side)
    for thing, place in zip(scene.things, scene.places, strict=True):
        centre, radius = _stand(scene, thing, place, random)
        outline = mask(thing.shape, centre, radius, float(random.uniform(-8, 8)), side)[..., None]
        canvas = canvas * (1 - outline) + ink(thing.colour, random) * outline
    return canvas.round().clip(0, 255).astype(np.uint8)


def tone(colour: Floats) -> Floats:
    """The second tone of a patterned ground: paler, for near-white colours darker."""
    if colour.min() > 200:
        return colour * np.float32(0.72)
    return colour * np.float32(0.55) + np.float32(0.45 * 255 if colour.max() > 60 else 0.35 * 255)


def _stand(scene: Scene, thing: Thing, place: str, random: Random) -> tuple[tuple[float, float], float]:
    two = len(scene.things) == 2
    radius = float(random.uniform(*(PAIR_RADII if two else RADII)[thing.size]))
    spread = 31 / 25 if two else 1.0
    x, y = ((1 - spread) * 64 + spread * at for at in CENTRES[place])
    slack = 1 if two else 3
    return (x + float(random.uniform(-slack, slack)), y + float(random.uniform(-slack, slack))), radius


def paint_ground(pattern: str, colour: Floats, random: Random, side: int = SIDE) -> Floats:
    """A ground [side, side, 3] in a colour and its second tone."""
    share = _PATTERNS[pattern](random, side)[..., None]
    painted: Floats = colour * (1 - share) + tone(colour) * share
    return painted


def _grid(side: int) -> tuple[Floats, Floats]:
    """Coordinates of the pixels' centres, 0..128."""
    at = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(128 / side)
    x, y = np.meshgrid(at, at)
    return x, y


def _wave(at: Floats, period: float, phase: float) -> Floats:
    """A square wave between -1 and 1 whose edges are about a pixel soft."""
    pixel = 128 / len(at)
    turn = np.sin((at / period + phase) * 2 * np.pi)
    soft: Floats = np.clip(turn * period / np.pi / pixel, -1, 1)
    return soft.astype(np.float32)


def _plain(random: Random, side: int) -> Floats:
    return np.zeros((side, side), np.float32)


def _striped(random: Random, side: int) -> Floats:
    along = _grid(side)[int(random.integers(2))]
    return _wave(along, float(random.uniform(30, 34)), float(random.random())) / 2 + 0.5


def _checkered(random: Random, side: int) -> Floats:
    x, y = _grid(side)
    period = float(random.uniform(40, 46))
    return _wave(x, period, float(random.random())) * _wave(y, period, float(random.random())) / 2 + 0.5


def _dotted(random: Random, side: int) -> Floats:
    x, y = _grid(side)
    period = float(random.uniform(29, 32))
    dx = (x + random.random() * period) % period - period / 2
    dy = (y + random.random() * period) % period - period / 2
    pixel = 128 / side
    inside: Floats = np.clip((period * 0.28 - np.hypot(dx, dy)) / pixel, -0.5, 0.5) + 0.5
    return inside.astype(np.float32)


def _gradient(random: Random, side: int) -> Floats:
    return _grid(side)[1] / 128


_PATTERNS: Mapping[str, Callable[[Random, int], Floats]] = {
    "plain": _plain,
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "gradient": _gradient,
}


def mask(shape: str, centre: tuple[float, float], radius: float, degrees: float, side: int = SIDE) -> Floats:
    """Coverage [side, side] of a shape, 0..1."""
    fine = 4
    scale = side * fine / 128
    picture = Image.new("L", (side * fine, side * fine))
    pen = ImageDraw.Draw(picture)
    for points, value in _outline(shape):
        pen.polygon([(x * scale, y * scale) for x, y in _moved(points, centre, radius, degrees)], fill=value)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def _moved(points: Points, centre: tuple[float, float], radius: float, degrees: float) -> Points:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return [(centre[0] + radius * (x * cos - y * sin), centre[1] + radius * (x * sin + y * cos)) for x, y in points]


@functools.cache
def _outline(shape: str) -> list[tuple[Points, int]]:
    """Polygons in units of the radius, y downwards, with 255 to fill and 0 to cut out."""
    if shape == "circle":
        return [(_round(1), 255)]
    if shape == "ring":
        return [(_round(1), 255), (_round(0.52), 0)]
    if shape == "moon":
        return [(_round(1), 255), ([(x + 0.52, y) for x, y in _round(0.82)], 0)]
    if shape == "heart":
        return [(_heart(), 255)]
    return [(_corners(shape), 255)]


def _corners(shape: str) -> Points:
    if shape == "square":
        return [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    if shape == "triangle":
        return [(0, -1), (1, 0.8), (-1, 0.8)]
    if shape == "star":
        turns = np.arange(10) * np.pi / 5
        return [(r * np.sin(a), -r * np.cos(a)) for a, r in zip(turns, [1.08, 0.44] * 5, strict=True)]
    a, b = 0.32, 0.98
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


def _round(radius: float) -> Points:
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return [(radius * float(np.cos(t)), radius * float(np.sin(t))) for t in turns]


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(a) / 16, float(-b - 2) / 15) for a, b in zip(x, y, strict=True)]
