"""Does every kind of adapter learn a subject of the learning bench and keep its bars: ours alone, one after another.

`python -m benchmarks.kinds [--json] [--only loha oft …] [--subject gorp] [--set learning_rate=3e-3]`. Pictures, steps
and seeds are those of `benchmarks.learning`, whose peer trains a LoRA only and stays out of this. A kind has its own
learning rate, told beside its answers. Each row is told as soon as it is known; ends with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.learn_ours import applied, learn, write_pictures
from benchmarks.learn_paint import Modules
from benchmarks.learn_score import BAR_DAMAGE, BAR_TRIGGER, BAR_WITHOUT, Answers, Exam, ask, scores
from benchmarks.learn_settings import SETTINGS, Settings
from benchmarks.report import Row, show
from demo import judge
from demo.subjects import SUBJECTS
from lora_ext.config import CheckpointConfig
from lora_ext.errors import BadInput
from lora_ext.hosts.standalone import StandaloneModel

KINDS: Mapping[str, Mapping[str, str]] = {
    "lora": {},
    "locon": {"conv_rank": "8", "conv_alpha": "4"},
    "loha": {"kind": "loha", "rank": "8", "alpha": "8", "learning_rate": "5e-4", "text_encoder_lr": "5e-4"},
    "lokr": {"kind": "lokr", "lokr_factor": "4", "learning_rate": "3e-3", "text_encoder_lr": "3e-3"},
    "dora": {"dora": "true"},
    "oft": {"kind": "oft", "rank": "8", "learning_rate": "1e-3", "text_encoder_lr": "3e-4", "max_steps": "700"},
    "ia3": {"kind": "ia3", "learning_rate": "2e-2", "text_encoder_lr": "0", "max_steps": "750"},
    "full": {"kind": "full", "learning_rate": "1e-4", "text_encoder_lr": "1e-4"},
    "bf16": {"precision": "bf16"},
    "text encoder off": {"text_encoder_lr": "0"},
    "8-bit weights": {"base_weights": "8bit"},
    "4-bit weights": {"base_weights": "4bit"},
    "8-bit AdamW": {"optimizer": "custom", "optimizer_class": "bitsandbytes.optim.AdamW8bit"},
}
"""What differs from a LoRA of the learning bench. Learning rates are such that the first steps go one to four times as
far as the LoRA's, by `lora_ext.training.pace`. The last three need a bitsandbytes that works on this device, as 0.50
does on a CPU; its optimizer is named by its class, as `adamw8bit` asks for a card."""


def main() -> int:
    """Learn and judge; 1 when a bar is missed."""
    options = _options()
    torch.set_num_threads(options.threads)
    exam, subject = Exam(options.prompts, options.unrelated), SUBJECTS[options.subject]
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(judge.BASE), device="cpu"))
    modules = Modules.over(model)
    before = scores(modules, exam)
    print(f"the base: {before}", file=sys.stderr, flush=True)
    rows: list[Row] = []
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images = write_pictures(subject, SETTINGS[subject.name], folder / "pictures")
        for name in options.only:
            settings = _settings(subject.name, name, options.set)
            try:
                result = learn(model, images, settings, folder / f"{name}.safetensors")
            except BadInput as e:
                missed.append(f"{name}: NOT RUN: {e}")
                print(missed[-1], file=sys.stderr, flush=True)
                continue
            with applied(model, {result.lora: 1.0}):
                answers = ask(modules, subject, exam)
            rows += _rows(f"{subject.name}, {name}", answers, before, result.seconds, result.lora)
            missed += _missed(name, answers, before)
            told = f"{name}: {answers}, damage {answers.damage(before):.1%}, {result.seconds:.0f} s; {settings}"
            print(told, file=sys.stderr, flush=True)
    verdict = [f"BAR MISSED: {words}" for words in missed] or ["every bar is met"]
    show(rows, torch.device("cpu"), as_json=options.json, notes=verdict)
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="some of the kinds")
    parser.add_argument("--subject", choices=SUBJECTS, default="gorp")
    parser.add_argument("--prompts", type=int, default=50, help="prompts per question (default 50)")
    parser.add_argument("--unrelated", type=int, default=100, help="captions that damage is measured on (default 100)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="over the kind's own settings")
    return parser.parse_args()


def _settings(subject: str, name: str, more: list[str]) -> Settings:
    """The subject's, with the kind's and the given ones over them."""
    own = {**KINDS[name], **dict(words.split("=", 1) for words in more)}
    return replace(SETTINGS[subject], ours=tuple(own.items()))


def _rows(work: str, answers: Answers, before: dict[str, float], seconds: float, lora: Path) -> list[Row]:
    return [
        Row(f"{work}: look when asked for", 100 * answers.trigger, None, "", None, "% (more is better)"),
        Row(f"{work}: look without the trigger word", 100 * answers.leak, None, "", None, "% (less is better)"),
        Row(f"{work}: damage", 100 * answers.damage(before), None, "", None, "points"),
        Row(f"{work}: training", seconds, None, "", None, "s"),
        Row(f"{work}: file", lora.stat().st_size / 1e6, None, "", None, "MB"),
    ]


def _missed(name: str, answers: Answers, before: dict[str, float]) -> list[str]:
    damage = answers.damage(before)
    checks = {
        f"{name}: look {answers.trigger:.0%} < {BAR_TRIGGER:.0%}": answers.trigger < BAR_TRIGGER,
        f"{name}: look without the trigger word {answers.leak:.0%} > {BAR_WITHOUT:.0%}": answers.leak > BAR_WITHOUT,
        f"{name}: damage {damage:.1%} > {BAR_DAMAGE:.0%}": damage > BAR_DAMAGE,
    }
    return [words for words, bad in checks.items() if bad]


if __name__ == "__main__":
    sys.exit(main())
