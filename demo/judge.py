"""What a picture of the demo's world shows, by looking at it, and how much of what was asked for that is.

    python -m demo.judge [--checkpoint F] [--count 200]

No model judges the model: colours are told by the palette, shapes by laying the drawn ones over what stands out, the
ground by how its two tones are spread. The judge itself is first tried on held-out drawings.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo import world
from demo.world import SIDE, Floats, Pixels, Scene, Thing

BASE = Path(__file__).resolve().parent / "base.safetensors"
QUESTIONS = ("colour", "shape", "background", "position", "size", "count")
BAR = {"colour": 0.90, "shape": 0.80, "background": 0.90}
EVALUATION_SEED = 2026

Labels = NDArray[np.intp]
Flags = NDArray[np.bool_]

_COLOURS = tuple(world.COLOURS)
_BASES = np.array([world.COLOURS[c] for c in _COLOURS], np.float32)
_TONES = np.stack([world.tone(c) for c in _BASES])
LEAST = 10
"""Pixels of one colour that make a thing."""
_UNIT = 14
"""Pixels that a shape's root of area is brought to before it is compared."""
_WINDOW = 40


@dataclass(frozen=True)
class Score:
    """Right and asked, per question."""

    right: dict[str, int]
    asked: dict[str, int]

    def share(self, question: str) -> float:
        """Accuracy, 0..1."""
        return self.right[question] / max(self.asked[question], 1)


def look(picture: Pixels) -> Scene:
    """What a picture [H, W, 3] shows. Things come in order from left to right or top to bottom, two at most."""
    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX))
    pixels = picture.astype(np.float32)
    names = nearest_colours(picture)
    ground = _COLOURS.index(ground_of(names))
    colours = _standing_out(names, ground)
    regions = _regions(pixels, ground, colours)
    found = [i for i in range(len(colours)) if np.count_nonzero(regions == i + 1) >= LEAST]
    fits = [_fit(regions == i + 1) for i in found]
    pattern = _pattern(pixels, ground, regions == 0)
    things, place = _arranged(fits, [_COLOURS[colours[i]] for i in found])
    return Scene(things, place, pattern, _COLOURS[ground])


def score(pairs: Iterable[tuple[Scene, Scene]]) -> Score:
    """Compare (asked, seen). Colour, shape and size count once per thing asked for, the others once per picture."""
    right, asked = dict.fromkeys(QUESTIONS, 0), dict.fromkeys(QUESTIONS, 0)
    for wanted, seen in pairs:
        per_picture = {
            "background": (wanted.pattern, wanted.ground) == (seen.pattern, seen.ground),
            "position": wanted.place == seen.place,
            "count": len(wanted.things) == len(seen.things),
        }
        for question, good in per_picture.items():
            asked[question] += 1
            right[question] += good
        for i, thing in enumerate(wanted.things):
            other = seen.things[i] if i < len(seen.things) else Thing("", "", "")
            for question in ("colour", "shape", "size"):
                asked[question] += 1
                right[question] += getattr(thing, question) == getattr(other, question)
    return Score(right, asked)


# --- colours ---


def nearest_colours(picture: Pixels) -> Labels:
    """Per pixel [H, W] the number of the colour of the world, full or pale, that it is nearest to."""
    return _nearest(picture.astype(np.float32), np.concatenate([_BASES, _TONES])) % len(_COLOURS)


def ground_of(names: Labels) -> str:
    """The colour of the ground: the one most seen along the picture's edge."""
    return _COLOURS[int(np.bincount(_frame(names), minlength=len(_COLOURS)).argmax())]


def _nearest(pixels: Floats, palette: Floats) -> Labels:
    """Index [H, W] of the nearest colour of a palette [N, 3]."""
    nearest: Labels = np.square(pixels[:, :, None] - palette).sum(-1).argmin(-1)
    return nearest


def _frame(names: Labels, width: int = 3) -> Labels:
    inside = np.zeros(names.shape, bool)
    inside[width:-width, width:-width] = True
    return names[~inside]


def _standing_out(names: Labels, ground: int) -> list[int]:
    """Colours of the things: those besides the ground with enough pixels whose neighbours have the same colour.

    Soft edges make other colours, but thin ones.
    """
    centre = names[1:-1, 1:-1]
    same = np.ones(centre.shape, bool)
    for dy in range(3):
        for dx in range(3):
            same &= names[dy : dy + centre.shape[0], dx : dx + centre.shape[1]] == centre
    counts = np.bincount(centre[same], minlength=len(_COLOURS))
    counts[ground] = 0
    found = [int(c) for c in np.argsort(-counts) if counts[c] >= LEAST]
    return found[:2]


def _regions(pixels: Floats, ground: int, colours: Sequence[int]) -> Labels:
    """0 for ground, 1 and 2 for the things, by the nearest of only the colours that are there."""
    base, pale = _BASES[ground], _TONES[ground]
    palette = np.stack([*(_BASES[c] for c in colours), base, pale, (base + pale) / 2])
    nearest = _nearest(pixels, palette)
    return np.where(nearest < len(colours), nearest + 1, 0)


# --- shapes ---


@dataclass(frozen=True)
class _Fit:
    """A thing found: centre and radius in the world's units (of 128)."""

    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class _Template:
    shape: str
    picture: Floats  # [_WINDOW, _WINDOW], centred on its middle of mass, root of area = _UNIT
    dx: float  # from the middle of mass to the centre, in radii
    dy: float
    root: float  # root of area, in radii


@functools.cache
def _templates() -> tuple[_Template, ...]:
    return tuple(_template(shape, angle) for shape in world.SHAPES for angle in (-8.0, -4.0, 0.0, 4.0, 8.0))


def _template(shape: str, angle: float) -> _Template:
    radius = 40.0  # in units of 128, so that side 128 has one pixel per unit
    drawn = world.mask(shape, (64.0, 64.0), radius, angle, side=128)
    x, y, root = _moments(drawn)
    return _Template(shape, _normal(drawn), (64 - x) / radius, (64 - y) / radius, root / radius)


def _moments(mask: Floats) -> tuple[float, float, float]:
    """Middle of mass (in pixels, the first pixel's middle is 0.5) and root of area."""
    ys, xs = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]] + 0.5
    area = float(mask.sum())
    return float((mask * xs).sum()) / area, float((mask * ys).sum()) / area, area**0.5


def _normal(mask: Floats) -> Floats:
    """A mask moved and scaled into the window of the templates."""
    x, y, root = _moments(mask)
    zoom = root / _UNIT
    left, top = x - _WINDOW / 2 * zoom, y - _WINDOW / 2 * zoom
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    moved = picture.transform(
        (_WINDOW, _WINDOW), Image.Transform.AFFINE, (zoom, 0, left, 0, zoom, top), Image.Resampling.BILINEAR
    )
    return np.asarray(moved, np.float32) / 255


def _fit(region: Flags) -> _Fit:
    """The shape whose template overlaps best (intersection over union)."""
    mask = region.astype(np.float32)
    x, y, root = _moments(mask)
    seen = _normal(mask)
    pictures = np.stack([t.picture for t in _templates()])
    overlap = np.minimum(pictures, seen).sum((1, 2)) / np.maximum(pictures, seen).sum((1, 2))
    best = _templates()[int(overlap.argmax())]
    unit = 128 / SIDE
    radius = root / best.root
    return _Fit(best.shape, (x + best.dx * radius) * unit, (y + best.dy * radius) * unit, radius * unit)


def _arranged(fits: Sequence[_Fit], colours: Sequence[str]) -> tuple[tuple[Thing, ...], str]:
    """The things in order, and the word for how they stand."""
    if not fits:
        return (), "centre"
    if len(fits) == 1:
        return (Thing(fits[0].shape, colours[0], _size(fits[0], 22.5, 32)),), _place(fits[0])
    across, down = fits[1].x - fits[0].x, fits[1].y - fits[0].y
    beside = abs(across) > abs(down)
    order = (0, 1) if (across if beside else down) > 0 else (1, 0)
    things = tuple(Thing(fits[i].shape, colours[i], _size(fits[i], 20, 26.5)) for i in order)
    return things, "beside" if beside else "above"


def _size(fit: _Fit, small: float, medium: float) -> str:
    return "small" if fit.radius < small else "medium" if fit.radius < medium else "large"


def _place(fit: _Fit) -> str:
    x, y = fit.x - 64, fit.y - 64
    if max(abs(x), abs(y)) < 12:
        return "centre"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


# --- grounds ---


def _pattern(pixels: Floats, ground: int, free: Flags) -> str:
    """How the ground's second tone is spread over the pixels that belong to it."""
    base, pale = _BASES[ground], _TONES[ground]
    way = pale - base
    share = ((pixels - base) @ way / float(way @ way)).clip(-0.3, 1.3)
    free = _inner(free)
    if free.sum() < 50 or share[free].std() < 0.17:
        return "plain"
    rows, columns = _explained(share, free, 1), _explained(share, free, 0)
    if rows > 0.6 and _slope(share, free) > 0.8:
        return "gradient"
    if max(rows, columns) > 0.6:
        return "striped"
    return "dotted" if float((share[free] > 0.5).mean()) < 0.37 else "checkered"


def _inner(free: Flags) -> Flags:
    """Without the pixels next to a thing, whose colours are mixed."""
    edge = np.pad(free, 1, constant_values=True)
    return edge[1:-1, 1:-1] & edge[:-2, 1:-1] & edge[2:, 1:-1] & edge[1:-1, :-2] & edge[1:-1, 2:]


def _explained(share: Floats, free: Flags, axis: int) -> float:
    """Part of the variance that lies between lines, 0..1 (axis 1: between rows)."""
    counts = free.sum(axis)
    means = (share * free).sum(axis) / np.maximum(counts, 1)
    total = float(share[free].var())
    between = float((counts * (means - share[free].mean()) ** 2).sum() / counts.sum())
    return between / max(total, 1e-6)


def _slope(share: Floats, free: Flags) -> float:
    """Correlation of the share with the height: near 1 for a ramp, small for stripes."""
    heights = np.broadcast_to(np.arange(SIDE, dtype=np.float32)[:, None], share.shape)[free]
    return float(np.corrcoef(heights, share[free])[0, 1])


# --- the report ---


def on_drawings(count: int, seed: int = EVALUATION_SEED) -> Score:
    """The judge judged: held-out drawings, which are right by construction."""
    pairs = []
    for i in range(count):
        random = world.generator(seed, i)
        scene = world.random_scene(random, held_out=True)
        pairs.append((scene, look(world.draw(scene, random))))
    return score(pairs)


def asked_for(count: int, seed: int = EVALUATION_SEED) -> list[tuple[Scene, str]]:
    """Held-out scenes and their captions."""
    found = []
    for i in range(count):
        random = world.generator(seed + 1, i)
        scene = world.random_scene(random, held_out=True)
        found.append((scene, world.caption(scene, random)))
    return found


def on_prompts(
    render: Callable[[str, int], Pixels], asked: Sequence[tuple[Scene, str]]
) -> tuple[Score, list[tuple[Scene, Scene, Pixels]]]:
    """Have every caption painted by `render(prompt, seed)` and compare."""
    seen = []
    for seed, (scene, prompt) in enumerate(asked):
        picture = render(prompt, seed)
        seen.append((scene, look(picture), picture))
    return score((wanted, found) for wanted, found, _ in seen), seen


def table(result: Score, title: str) -> str:
    """A score as lines for a terminal."""
    lines = [f"{title}:"]
    for question in QUESTIONS:
        bar = f"  (bar {BAR[question]:.0%})" if question in BAR else ""
        lines.append(
            f"  {question:<11}{result.share(question):7.1%}  {result.right[question]}/{result.asked[question]}{bar}"
        )
    return "\n".join(lines)


def sheet(pictures: Sequence[Pixels], columns: int = 10) -> Image.Image:
    """Pictures side by side."""
    step = SIDE + 4
    page = Image.new("RGB", (columns * step, -(-len(pictures) // columns) * step), "white")
    for i, picture in enumerate(pictures):
        page.paste(Image.fromarray(picture), (i % columns * step, i // columns * step))
    return page


def main(arguments: list[str] | None = None) -> int:
    """The command line. Ends with 1 when the judge or the base is below its bar."""
    parser = argparse.ArgumentParser(prog="python -m demo.judge", description="Score the demo's base model.")
    parser.add_argument("--checkpoint", type=Path, default=BASE)
    parser.add_argument("--count", type=int, default=200, help="held-out captions (default 200)")
    parser.add_argument("--drawings", type=int, default=1000, help="held-out drawings to try the judge on")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=7.0)
    parser.add_argument("--sheet", type=Path, help="write the first pictures as one PNG")
    given = parser.parse_args(arguments)
    drawings = on_drawings(given.drawings)
    print(table(drawings, f"judge on {given.drawings} held-out drawings"), flush=True)
    good = all(drawings.share(q) >= 0.98 for q in ("colour", "shape", "background", "position"))
    good &= _try_detectors(given.drawings // 5)
    started = time.monotonic()
    result, seen = on_prompts(_renderer(given.checkpoint, given.steps, given.cfg), asked_for(given.count))
    seconds = time.monotonic() - started
    title = f"{given.checkpoint.name} on {given.count} held-out captions, {given.steps} steps, CFG {given.cfg:g}"
    print(table(result, f"{title} ({seconds:.0f} s)"))
    if given.sheet:
        sheet([picture for *_, picture in seen[:60]]).save(given.sheet)
    return 0 if good and all(result.share(q) >= bar for q, bar in BAR.items()) else 1


def _try_detectors(count: int) -> bool:
    """Whether those of the learning bench's subjects are right about drawings too."""
    from demo import detectors  # noqa: PLC0415 - they see colours as this module does

    trials = detectors.trials(count)
    print(f"detectors of the subjects say yes to, on {count} drawings each:", *trials, sep="\n", flush=True)
    return all(trial.good for trial in trials)


def _renderer(checkpoint: Path, steps: int, cfg: float) -> Callable[[str, int], Pixels]:
    """The project's own host and sampler. Imported late: looking at pictures needs no model."""
    from lora_ext.config import CheckpointConfig  # noqa: PLC0415
    from lora_ext.hosts.standalone import StandaloneModel  # noqa: PLC0415
    from lora_ext.live import RenderRequest  # noqa: PLC0415

    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(checkpoint)))

    def render(prompt: str, seed: int) -> Pixels:
        request = RenderRequest(prompt, seed=seed, steps=steps, cfg=cfg, width=SIDE, height=SIDE)
        return np.asarray(model.render(request))

    return render


if __name__ == "__main__":
    sys.exit(main())
