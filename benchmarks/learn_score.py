"""The questions of the learning bench: was it learnt, does it stay where it was asked for, what did it spoil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.learn_paint import Modules, paint
from demo import detectors, judge
from demo.subjects import Subject
from demo.world import Pixels, Scene

BAR_TRIGGER, BAR_WITHOUT, BAR_DAMAGE = 0.80, 0.05, 0.05
PAIR_STRENGTH = 0.7
PATTERNED = {"striped", "stripes", "checkered", "checks", "dotted", "dots", "gradient", "fading"}
"""Words of the world for grounds with a pattern."""
SCORED = tuple(judge.BAR)  # colour, shape, background


@dataclass(frozen=True)
class Exam:
    """How many prompts of each sort are painted."""

    prompts: int = 50
    unrelated: int = 100


@dataclass(frozen=True)
class Answers:
    """What a model with a LoRA painted: per prompt whether the look shows where it is asked for (`shown`) and for the
    same prompt without the word (`leaked`); per unrelated caption how much of it is `right`; the base's own scores
    there, 0..1; the pictures of what was asked for."""

    shown: tuple[bool, ...]
    leaked: tuple[bool, ...]
    right: tuple[int, ...]
    scores: dict[str, float]
    pictures: list[Pixels] = field(repr=False)

    @property
    def trigger(self) -> float:
        """The share of pictures that show the look when asked for."""
        return sum(self.shown) / len(self.shown)

    @property
    def leak(self) -> float:
        """The share that shows it when not asked for."""
        return sum(self.leaked) / len(self.leaked)

    def damage(self, before: dict[str, float]) -> float:
        """The drop of the mean of the base's scores; 0.01 is a point."""
        return sum(before[q] - self.scores[q] for q in SCORED) / len(SCORED)

    def __str__(self) -> str:
        """The shares, for the log."""
        scores = ", ".join(f"{question} {share:.1%}" for question, share in self.scores.items())
        return f"look {self.trigger:.0%}, without the word {self.leak:.0%}, {scores}"


def ask(modules: Modules, subject: Subject, exam: Exam) -> Answers:
    """Paint and judge. The same prompts and seeds for everyone."""
    asked = subject.held_out(exam.prompts)
    seeds = range(exam.prompts)
    pictures = paint(modules, [e.caption for e in asked], seeds)
    without = paint(modules, [e.without for e in asked], seeds)
    seen = _unrelated(modules, exam)
    right = tuple(sum(judge.score([pair]).right[q] for q in SCORED) for pair in seen)
    return Answers(_shown(subject.name, pictures), _shown(subject.name, without), right, _scores(seen), pictures)


def ask_without(modules: Modules, subject: Subject, exam: Exam) -> tuple[float, list[Pixels]]:
    """The share of pictures with the look, and the pictures, for prompts that ask for what nobody was taught."""
    pictures = paint(modules, [e.caption for e in subject.held_out(exam.prompts)], range(exam.prompts))
    return sum(_shown(subject.name, pictures)) / exam.prompts, pictures


def scores(modules: Modules, exam: Exam) -> dict[str, float]:
    """The judge's scores on captions of held-out scenes that have nothing to do with any subject."""
    return _scores(_unrelated(modules, exam))


def _unrelated(modules: Modules, exam: Exam) -> list[tuple[Scene, Scene]]:
    """Scenes asked for, and as painted."""
    asked = judge.asked_for(exam.unrelated)
    pictures = paint(modules, [caption for _, caption in asked], range(exam.unrelated))
    return [(scene, judge.look(p)) for (scene, _), p in zip(asked, pictures, strict=True)]


def _scores(seen: Sequence[tuple[Scene, Scene]]) -> dict[str, float]:
    result = judge.score(seen)
    return {question: result.share(question) for question in SCORED}


@dataclass(frozen=True)
class Both:
    """Two LoRAs at once: per prompt whether the character shows and whether the style does; the pictures."""

    characters: tuple[bool, ...]
    styles: tuple[bool, ...]
    pictures: list[Pixels] = field(repr=False)

    @property
    def shown(self) -> tuple[bool, ...]:
        """Per prompt whether both show."""
        return tuple(a and b for a, b in zip(self.characters, self.styles, strict=True))

    @property
    def shares(self) -> tuple[float, float, float]:
        """The shares of pictures that show the character, the style, and both."""
        first, second, both = (sum(s) / len(s) for s in (self.characters, self.styles, self.shown))
        return first, second, both

    def __str__(self) -> str:
        """The shares, for the log."""
        return "the character {:.0%}, the style {:.0%}, both {:.0%}".format(*self.shares)


def ask_for_both(modules: Modules, character: Subject, style: Subject, exam: Exam) -> Both:
    """Prompts that ask for both, on grounds without a pattern of their own: strokes are what patterns them."""
    asked = [e.caption for e in character.held_out(8 * exam.prompts) if not PATTERNED & set(e.caption.split())]
    prompts = [f"{caption}, {style.trigger}" for caption in asked[: exam.prompts]]
    pictures = paint(modules, prompts, range(len(prompts)))
    return Both(_shown(character.name, pictures), _shown(style.name, pictures), pictures)


def _shown(name: str, pictures: Sequence[Pixels]) -> tuple[bool, ...]:
    return tuple(detectors.shows(name, p) for p in pictures)
