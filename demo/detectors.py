"""Whether a picture shows the look of a subject of `demo.subjects`: one classical test each, tried on drawings.

Emblems are looked for as parts of known colours at known places (every position, several sizes); the hatching as
power of one slanting direction in the spectrum of the ground. Nothing here is trained.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo import judge, subjects, world
from demo.world import SIDE, Floats, Pixels

Complex = NDArray[np.complexfloating]
LEAST = 0.98
"""Share of drawings that a detector must be right about."""
_RADII = (13.0, 15.0, 17.0, 19.0, 21.0)
"""Pixels that an emblem's radius may have."""
_FULL, _BARE = 0.6, 0.4
"""Least cover of a part by its colour, most cover of what is around by any of the emblem's colours."""
_SLANTED = 0.6
"""Least share of one slant in the power of all four directions."""
_CONTRAST = 80.0


def shows(name: str, picture: Pixels) -> bool:
    """Whether a picture [H, W, 3] shows the look of the subject of that name."""
    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
    return DETECTORS[name](picture)


# --- emblems of two colours ---


def _zorbit(picture: Pixels) -> bool:
    return _emblem(picture, (("yellow", "upper disc"), ("purple", "lower disc")))


def _gorp(picture: Pixels) -> bool:
    return _emblem(picture, (("red", "upper band"), ("white", "middle"), ("red", "lower band")))


def _emblem(picture: Pixels, parts: Sequence[tuple[str, str]]) -> bool:
    """Whether there is a place where each part has its colour and what is around has none of them."""
    colours = _covers(picture)
    full = [_share(colours[colour], part) > _FULL for colour, part in parts]
    bare = _share(np.maximum.reduce([colours[c] for c, _ in parts]), "round") < _BARE
    return bool(np.logical_and.reduce([*full, bare]).any())


def _between(picture: Pixels) -> bool:
    """One colour on the left and on the right, another in the middle, and most of the gaps in neither."""
    covers = _covers(picture)
    things = {colour: [_window(cover, x, 8, 8) for x in subjects.COLUMNS] for colour, cover in covers.items()}
    gaps = [(a + b) / 2 for a, b in itertools.pairwise(subjects.COLUMNS)]
    apart = [c for c, cover in covers.items() if max(_window(cover, x, 2, 16) for x in gaps) < 0.5]
    return any(
        min(things[outer][0], things[outer][2], things[inner][1]) > _FULL
        for outer in apart
        for inner in apart
        if inner != outer
    )


def _window(cover: Floats, x: float, across: float, along: float) -> float:
    """How much of a window at half height is covered: `across` to either side, `along` up and down, of 128."""
    left, right, top, bottom = (round(at * SIDE / 128) for at in (x - across, x + across, 64 - along, 64 + along))
    return float(cover[top:bottom, left:right].mean())


def _covers(picture: Pixels) -> dict[str, Floats]:
    """Per colour of the world 1 where a pixel is nearest to it, else 0: [SIDE, SIDE]."""
    names = judge.nearest_colours(picture)
    return {colour: (names == i).astype(np.float32) for i, colour in enumerate(world.COLOURS)}


def _share(cover: Floats, part: str) -> Floats:
    """How much of a part is covered, 0..1, for an emblem of each radius at each place: [radii, SIDE, SIDE]."""
    spectrum = np.fft.rfft2(cover, s=(2 * SIDE, 2 * SIDE))
    shares = np.fft.irfft2(spectrum * _part_spectra(part), s=(2 * SIDE, 2 * SIDE))
    inside: Floats = shares[:, SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE].astype(np.float32)
    return inside


@functools.cache
def _part_spectra(part: str) -> Complex:
    kernels = np.stack([_PARTS[part](*_grid(radius)) for radius in _RADII]).astype(np.float32)
    kernels /= kernels.sum((1, 2), keepdims=True)
    spectra: Complex = np.fft.rfft2(kernels[:, ::-1, ::-1], s=(2 * SIDE, 2 * SIDE))
    return spectra


def _grid(radius: float) -> tuple[Floats, Floats]:
    """Coordinates in radii around the middle of a window [SIDE, SIDE]."""
    at = (np.arange(SIDE, dtype=np.float32) - np.float32(SIDE / 2 - 0.5)) / np.float32(radius)
    x, y = np.meshgrid(at, at)
    return x, y


_PARTS: Mapping[str, Callable[[Floats, Floats], NDArray[np.bool_]]] = {
    "upper disc": lambda x, y: (np.hypot(x, y) < 0.9) & (y < -0.1),
    "lower disc": lambda x, y: (np.hypot(x, y) < 0.9) & (y > 0.1),
    "upper band": lambda x, y: (np.abs(x) < 0.75) & (y > -0.8) & (y < -0.4),
    "middle": lambda x, y: (np.abs(x) < 0.75) & (np.abs(y) < 0.2),
    "lower band": lambda x, y: (np.abs(x) < 0.75) & (y < 0.8) & (y > 0.4),
    "round": lambda x, y: (np.hypot(x, y) > 1.3) & (np.hypot(x, y) < 1.55),
}


# --- hatching ---


def _hatched(picture: Pixels) -> bool:
    power = _power(picture)
    share, contrast = power[_SLANT] / max(power.sum(), 1e-6), power[_SLANT] ** 0.5
    return bool(share > _SLANTED and contrast > _CONTRAST)


_SLANT = 1
"""Index of the hatching's direction among four."""


def _power(picture: Pixels) -> Floats:
    """Power of the ground's brightness near the hatching's spacing by direction: [4], each 45 degrees wide."""
    light = _ground_light(picture)
    window = np.hanning(SIDE)[:, None] * np.hanning(SIDE)
    spectrum = np.fft.fft2((light - light.mean()) * window)
    at = np.fft.fftfreq(SIDE) * SIDE / 128
    length = np.hypot(at[:, None], at[None])
    middle = 1 / subjects.SPACING
    near = (length > 0.7 * middle) & (length < 1.4 * middle)
    turns = np.arctan2(at[:, None], at[None]) % np.pi
    sector = np.floor(turns / np.pi * 4 + 0.5).astype(int) % 4
    squares = np.abs(spectrum) ** 2 / SIDE**2
    return np.array([squares[near & (sector == i)].sum() for i in range(4)], np.float32)


def _ground_light(picture: Pixels) -> Floats:
    """Brightness [SIDE, SIDE] where the ground is; its mean where things are, whose outlines would count as strokes."""
    names = judge.nearest_colours(picture)
    ground = names == list(world.COLOURS).index(judge.ground_of(names))
    light = picture.astype(np.float32).mean(-1)
    inside: Floats = np.where(ground, light, light[ground].mean()).astype(np.float32)
    return inside


DETECTORS: Mapping[str, Callable[[Pixels], bool]] = {
    "zorbit": _zorbit,
    "hatched": _hatched,
    "between": _between,
    "gorp": _gorp,
}


# --- the detectors judged ---


@dataclass(frozen=True)
class Trial:
    """The share of drawings of its subject, and of the world, that a detector said yes to."""

    name: str
    found: float
    mistaken: float

    @property
    def good(self) -> bool:
        """Right about enough of each."""
        return self.found >= LEAST and self.mistaken <= 1 - LEAST

    def __str__(self) -> str:
        """One line."""
        bars = f"(bars {LEAST:.0%}, {1 - LEAST:.0%})"
        return f"  {self.name:<11}{self.found:7.1%} of its subject's, {self.mistaken:.1%} of the world's  {bars}"


def trials(count: int) -> list[Trial]:
    """Every detector on `count` held-out drawings of each kind."""
    plain = [_drawing(i) for i in range(count)]
    found = []
    for name, detector in DETECTORS.items():
        own = [example.picture for example in subjects.SUBJECTS[name].held_out(count)]
        found.append(Trial(name, *(sum(map(detector, pictures)) / count for pictures in (own, plain))))
    return found


def _drawing(index: int) -> Pixels:
    random = world.generator(judge.EVALUATION_SEED, index)
    return world.draw(world.random_scene(random, held_out=True), random)
