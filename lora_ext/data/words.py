"""What is said of a picture each time it is shown: templates, order and chance, applied as sd-scripts applies them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

_CHOICE = re.compile(r"\{([^{}]*)\}")

_ESCAPED = {"{{": "\ue000", "}}": "\ue001"}  # private characters stand in while choices are made


@dataclass(frozen=True)
class WordRules:
    """How captions of a data set vary; see the settings of the same names."""

    trigger: str = ""
    templates: tuple[str, ...] = ()
    shuffle: bool = False
    keep: int = 0
    keep_separator: str = ""
    separator: str = ","
    joint_separator: str = ""
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0
    dropout_epochs: int = 0
    wildcards: bool = False


@dataclass(frozen=True)
class Words:
    """A caption and what may become of it. `lines` are those of the caption file, tidied, none empty."""

    lines: tuple[str, ...]
    concept: str
    rules: WordRules

    def plain(self) -> str:
        """The caption with nothing left to chance: first choices, tags in their order."""
        return self._made(None)

    def said(self, dice: Random, epoch: int) -> str:
        """The caption this time; `epoch` counts from 0. The same dice give the same words on every machine."""
        rules = self.rules
        if rules.caption_dropout and dice.random() < rules.caption_dropout:
            return ""
        if rules.dropout_epochs and (epoch + 1) % rules.dropout_epochs == 0:
            return ""
        return self._made(dice)

    def varies(self) -> bool:
        """Whether `said` ever gives anything but `plain`."""
        r = self.rules
        by_chance = (r.shuffle or r.tag_dropout) and (self.lines or r.templates)
        wild = r.wildcards and (len(self.lines) > 1 or any("{" in text for text in (*self.lines, *r.templates)))
        return bool(by_chance or wild or r.caption_dropout or r.dropout_epochs or len(r.templates) > 1)

    def _made(self, dice: Random | None) -> str:
        rules = self.rules
        text = _one(self.lines, dice) if rules.wildcards else " ".join(self.lines)
        if rules.templates:
            text = _one(rules.templates, dice).replace("[filewords]", text).replace("[name]", self.concept)
        if rules.wildcards:
            text = _choices(text, dice)
        text = _tags(text, rules, dice)
        if rules.joint_separator:
            text = text.replace(rules.joint_separator, rules.separator)
        return _joined([rules.trigger.strip(), text.strip()], rules.separator)


def _one(texts: tuple[str, ...], dice: Random | None) -> str:
    if not texts:
        return ""
    return dice.choice(texts) if dice else texts[0]


def _choices(text: str, dice: Random | None) -> str:
    """`{a|b|c}` becomes one of the three, innermost first; `{{` and `}}` are braces."""
    for braces, mark in _ESCAPED.items():
        text = text.replace(braces, mark)
    found = 1
    while found:
        text, found = _CHOICE.subn(lambda match: _one(tuple(match[1].split("|")), dice), text)
    for braces, mark in _ESCAPED.items():
        text = text.replace(mark, braces[0])
    return text


def _tags(text: str, rules: WordRules, dice: Random | None) -> str:
    """Shuffle and drop tags, but for those in front and at the end."""
    marked = bool(rules.keep_separator) and rules.keep_separator in text
    if not (marked or rules.shuffle or rules.tag_dropout):
        return text
    last: list[str] = []
    if marked:
        front, _, rest = text.partition(rules.keep_separator)
        middle, _, end = rest.partition(rules.keep_separator)
        first, free, last = (_split(part, rules.separator) for part in (front, middle, end))
    else:
        tags = _split(text, rules.separator)
        first, free = tags[: rules.keep], tags[rules.keep :]
    if dice and rules.shuffle:
        dice.shuffle(free)
    if dice and rules.tag_dropout:
        free = [tag for tag in free if dice.random() >= rules.tag_dropout]
    return _joined([*first, *free, *last], rules.separator)


def _split(text: str, separator: str) -> list[str]:
    return [tag.strip() for tag in text.split(separator or ",") if tag.strip()]


def _joined(tags: list[str], separator: str) -> str:
    return f"{separator.strip() or ','} ".join(filter(None, tags))
