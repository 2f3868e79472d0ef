"""Does a LoRA learn what it is shown, only that, and at what price: ours and diffusers + peft, on the demo's base.

`python -m benchmarks.learning [--json] [--sheet F] [--only zorbit …]`. Four things the base never saw, of
`demo.subjects`: a character, a style, a concept, an object with class pictures. Each is learnt from 20 pictures by both
sides, from the same data, settings and seeds, and judged by `demo.detectors` and `demo.judge` on the same prompts and
noise. Two of each side's LoRAs are then used together. Ends with 1 when a bar is missed. `--set kind=loha` (or any
settings) trains our side otherwise than the peer, which stays a LoRA: whether each kind and precision keeps the bars.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import learn_peer
from benchmarks.learn_chance import LEAST, chance_of
from benchmarks.learn_ours import Result, applied, learn, write_pictures
from benchmarks.learn_paint import GUIDANCE, STEPS, Modules
from benchmarks.learn_score import (
    BAR_DAMAGE,
    BAR_TRIGGER,
    BAR_WITHOUT,
    PAIR_STRENGTH,
    Answers,
    Both,
    Exam,
    ask,
    ask_for_both,
    ask_without,
    scores,
)
from benchmarks.learn_settings import SETTINGS
from benchmarks.learn_sheet import sheet
from benchmarks.report import Row, show
from demo import judge
from demo.subjects import SUBJECTS, Subject
from demo.world import Pixels
from lora_ext.config import CheckpointConfig
from lora_ext.errors import BadInput
from lora_ext.hosts.standalone import StandaloneModel

PAIR = ("zorbit", "hatched")
"""A character and a style, used together."""
_PAIR_WORDS = f"{' + '.join(PAIR)} at {PAIR_STRENGTH} each"


@dataclass(frozen=True)
class Learnt:
    """One subject: without a LoRA, with ours, with the peer's."""

    subject: Subject
    ours: Result
    peer: learn_peer.PeerResult
    without: float
    """Share of pictures that show the look without any LoRA."""
    pictures: list[Pixels]
    """Those pictures."""
    with_ours: Answers
    with_peer: Answers

    def missed(self, before: dict[str, float]) -> list[str]:
        """Every bar that is not met, in words."""
        mine = self.with_ours
        checks = {
            f"trigger {mine.trigger:.0%} < {BAR_TRIGGER:.0%}": mine.trigger < BAR_TRIGGER,
            f"without the LoRA {self.without:.0%} > {BAR_WITHOUT:.0%}": self.without > BAR_WITHOUT,
            f"damage {mine.damage(before):.1%} > {BAR_DAMAGE:.0%}": mine.damage(before) > BAR_DAMAGE,
        }
        found = [words for words, bad in checks.items() if bad]
        found += [words for words, chance in self._below() if chance < LEAST]
        return [f"{self.subject.name}: {words}" for words in found]

    def _below(self) -> Iterator[tuple[str, float]]:
        """Where ours is below the peer's, in words, and how likely chance alone does that."""
        mine, theirs = self.with_ours, self.with_peer
        looks = sum(theirs.shown) - sum(mine.shown), chance_of(mine.shown, theirs.shown)
        leaks = sum(mine.leaked) - sum(theirs.leaked), chance_of(_not(mine.leaked), _not(theirs.leaked))
        right = sum(theirs.right) - sum(mine.right), chance_of(mine.right, theirs.right)
        sorts = {"less pictures with the look": looks, "more without the word": leaks, "things less right": right}
        for what, (number, chance) in sorts.items():
            if number > 0:
                yield f"{number} {what} than the peer's, which chance alone does in {chance:.0%} of runs", chance

    def by_chance(self) -> list[str]:
        """Where ours is below the peer's by no more than chance, in words."""
        return [f"{self.subject.name}: {words}" for words, chance in self._below() if chance >= LEAST]


@dataclass(frozen=True)
class Pair:
    """Two LoRAs used together: ours, and the peer's merged at the same strengths."""

    ours: Both
    peer: Both

    def missed(self) -> list[str]:
        """Every bar that is not met, in words."""
        *_, both = self.ours.shares
        found = [f"both shown in {both:.0%} < {BAR_TRIGGER:.0%}"] if both < BAR_TRIGGER else []
        found += [words for words, chance in self._below() if chance < LEAST]
        return [f"{_PAIR_WORDS}: {words}" for words in found]

    def by_chance(self) -> list[str]:
        """Where ours show both less often than the peer's by no more than chance, in words."""
        return [f"{_PAIR_WORDS}: {words}" for words, chance in self._below() if chance >= LEAST]

    def _below(self) -> Iterator[tuple[str, float]]:
        number = sum(self.peer.shown) - sum(self.ours.shown)
        if number > 0:
            chance = chance_of(self.ours.shown, self.peer.shown)
            yield f"{number} less with both than the peer's, which chance alone does in {chance:.0%} of runs", chance

    def rows(self) -> Iterator[Row]:
        """The shares of pictures, in percent."""
        for what, mine, theirs in zip((*PAIR, "both"), self.ours.shares, self.peer.shares, strict=True):
            work = f"{_PAIR_WORDS}: {what} shown"
            yield Row(work, 100 * mine, 100 * theirs, learn_peer.name(), None, "% (more is better)")


def main() -> int:
    """Run it and print the rows."""
    options = _options()
    torch.set_num_threads(options.threads)
    exam = Exam(options.prompts, options.unrelated)
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(options.checkpoint), device="cpu"))
    modules = Modules.over(model)
    before = scores(modules, exam)
    _tell(f"the base: {before}")
    with tempfile.TemporaryDirectory() as folder:
        learnt = [_learn(model, modules, SUBJECTS[name], exam, options, Path(folder)) for name in options.only]
        pair = _pair(model, modules, learnt, exam, options.checkpoint)
    missed = [words for one in learnt for words in one.missed(before)]
    rows = [row for one in learnt for row in _rows(one, before)]
    notes = [*_notes(learnt, before, exam), *_alone(options)]
    if pair is not None:
        missed += pair.missed()
        rows += pair.rows()
        notes += pair.by_chance()
    show(rows, torch.device("cpu"), as_json=options.json, notes=[*notes, *_verdict(missed)])
    if options.sheet:
        sheet(list(_sheet_rows(learnt, pair.ours.pictures if pair else []))).save(options.sheet)
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--checkpoint", type=Path, default=judge.BASE)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="some of the subjects")
    parser.add_argument("--prompts", type=int, default=50, help="prompts per question (default 50)")
    parser.add_argument("--unrelated", type=int, default=100, help="captions that damage is measured on (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", type=_pair_of_words,
        help="settings of our side alone, such as kind=loha precision=bf16 text_encoder_lr=0",
    )  # fmt: skip
    parser.add_argument("--sheet", type=Path, help="write pictures with and without as one PNG")
    options = parser.parse_args()
    try:
        replace(SETTINGS[options.only[0]], ours=tuple(options.set)).config(Path("x"), Path("x"))
    except BadInput as e:
        parser.error(str(e))
    return options


def _pair_of_words(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return name, value


def _learn(
    model: StandaloneModel, modules: Modules, subject: Subject, exam: Exam, options: argparse.Namespace, folder: Path
) -> Learnt:
    settings = replace(SETTINGS[subject.name], ours=tuple(options.set))
    _tell(f"{subject.name}: {settings}")
    images = write_pictures(subject, settings, folder / subject.name)
    without, pictures = ask_without(modules, subject, exam)
    ours = learn(model, images, settings, folder / f"{subject.name}.safetensors")
    with applied(model, {ours.lora: 1.0}):
        with_ours = ask(modules, subject, exam)
    _tell(f"{subject.name}, ours: {with_ours}")
    peer = learn_peer.learn(options.checkpoint, images, settings)
    with_peer = ask(peer.modules, subject, exam)
    _tell(f"{subject.name}, peer: {with_peer}")
    return Learnt(subject, ours, peer, without, pictures, with_ours, with_peer)


def _pair(
    model: StandaloneModel, modules: Modules, learnt: Sequence[Learnt], exam: Exam, checkpoint: Path
) -> Pair | None:
    """Both LoRAs at once, and both of the peer's; nothing when the run was not asked for both."""
    found = {one.subject.name: one for one in learnt}
    if not set(PAIR) <= set(found):
        return None
    character, style = (found[name] for name in PAIR)
    with applied(model, {one.ours.lora: PAIR_STRENGTH for one in (character, style)}):
        ours = ask_for_both(modules, character.subject, style.subject, exam)
    _tell(f"{_PAIR_WORDS}, ours: {ours}")
    merged = learn_peer.together(checkpoint, [character.peer, style.peer], PAIR_STRENGTH)
    peer = ask_for_both(merged, character.subject, style.subject, exam)
    _tell(f"{_PAIR_WORDS}, peer: {peer}")
    return Pair(ours, peer)


def _rows(one: Learnt, before: dict[str, float]) -> list[Row]:
    """Percentages and seconds; a ratio above 1 is good where less is better."""
    name, mine, theirs = f"{one.subject.name} ({one.subject.kind})", one.with_ours, one.with_peer
    peer = learn_peer.name()
    more, less = "% (more is better)", "% (less is better)"
    return [
        Row(f"{name}: look when asked for", 100 * mine.trigger, 100 * theirs.trigger, peer, None, more),
        Row(f"{name}: look when asked for, without LoRA", 100 * one.without, None, "", None, less),
        Row(f"{name}: look without the trigger word", 100 * mine.leak, 100 * theirs.leak, peer, None, less),
        Row(f"{name}: damage", 100 * mine.damage(before), 100 * theirs.damage(before), peer, None, "points"),
        Row(f"{name}: training", one.ours.seconds, one.peer.seconds, peer, None, "s"),
    ]


def _notes(learnt: Sequence[Learnt], before: dict[str, float], exam: Exam) -> Iterator[str]:
    base = ", ".join(f"{question} {share:.1%}" for question, share in before.items())
    yield (
        f"{exam.prompts} prompts per question, {STEPS} sampling steps, CFG {GUIDANCE:g}; damage is the drop of the "
        f"mean of the base's scores on {exam.unrelated} unrelated captions, which are {base}"
    )
    yield from (words for one in learnt for words in one.by_chance())
    for one in learnt:
        drops = ", ".join(f"{q} {100 * (before[q] - one.with_ours.scores[q]):+.1f}" for q in before)
        apart = max(abs(a - b) for a, b in zip(one.ours.losses, one.peer.losses, strict=True))
        yield (
            f"{one.subject.name}: {SETTINGS[one.subject.name]}; our drops in points: {drops}; the two sides' losses "
            f"differ by at most {apart:.1e} in any step"
        )


def _alone(options: argparse.Namespace) -> Iterator[str]:
    if options.set:
        yield f"our side alone was trained with {' '.join('='.join(one) for one in options.set)}"


def _verdict(missed: Sequence[str]) -> list[str]:
    return [f"BAR MISSED: {words}" for words in missed] or ["every bar is met"]


def _sheet_rows(learnt: Sequence[Learnt], both: Sequence[Pixels]) -> Iterator[tuple[str, str, Sequence[Pixels]]]:
    for one in learnt:
        example = one.subject.pictures(1)[0]
        yield f'{one.subject.kind}: "{example.caption}" and the like', "learnt from", _learnt_from(one.subject)
        yield "", "without LoRA", one.pictures
        yield "", "with LoRA", one.with_ours.pictures
    if both:
        yield f"{PAIR[0]} and {PAIR[1]} at strength {PAIR_STRENGTH} each", "with both LoRAs", both


def _learnt_from(subject: Subject) -> list[Pixels]:
    return [example.picture for example in subject.pictures()]


def _not(shown: Sequence[bool]) -> list[bool]:
    return [not one for one in shown]


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
