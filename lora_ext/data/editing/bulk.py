"""One change of many captions, as a page asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lora_ext.data.editing import pattern, tags
from lora_ext.data.editing.edit_set import EditSet
from lora_ext.errors import BadInput, Problem

Action = Literal["add", "add_front", "remove", "replace_tag", "replace_text", "replace_pattern", "trigger", "sort"]

LABELS: dict[Action, str] = {
    "add": "Tags added",
    "add_front": "Tags added in front",
    "remove": "Tags removed",
    "replace_tag": "Tag replaced",
    "replace_text": "Text replaced",
    "replace_pattern": "Pattern replaced",
    "trigger": "Trigger words moved to the front",
    "sort": "Tags sorted by frequency",
}
"""What each is called when it can be undone."""


@dataclass(frozen=True)
class Bulk:
    """`words`: tags (add, remove, trigger), or what is looked for; `replacement` for the three that replace."""

    action: Action
    words: str = ""
    replacement: str = ""

    @classmethod
    def read(cls, action: object, words: object, replacement: object) -> Bulk:
        """From what a page sent. Raises `BadInput`."""
        if action not in get_args(Action):
            raise BadInput(Problem("action", "there is no such change", " or ".join(get_args(Action)), str(action)))
        if not isinstance(words, str) or not isinstance(replacement, str):
            raise BadInput(Problem("words", "a text is expected"))
        return cls(action, words, replacement)  # type: ignore[arg-type]  # it is one of the actions


def apply(target: EditSet, bulk: Bulk, numbers: Iterable[int] | None) -> int:
    """Change the captions of these pictures (None: all) as one step; how many are another now.

    Raises `BadInput`: field `words` when there are no tags, `find` and `replace` for what cannot be replaced.
    """
    separator = target.config.tag_separator or ","
    words = tags.split(bulk.words, separator)
    if bulk.action in ("add", "add_front", "remove", "trigger") and not words:
        raise BadInput(Problem("words", "give at least one tag"))
    if bulk.action in ("replace_tag", "replace_text") and not bulk.words.strip():
        raise BadInput(Problem("find", "say what is to be replaced"))

    def make(texts: Sequence[str]) -> list[str]:
        if bulk.action == "replace_pattern":
            return pattern.replaced(texts, bulk.words, bulk.replacement)
        return list(map(_maker(target, bulk, words, separator), texts))

    return target.remake(LABELS[bulk.action], numbers, make)


def _maker(target: EditSet, bulk: Bulk, words: Sequence[str], separator: str) -> Callable[[str], str]:
    """What makes one caption of another."""
    if bulk.action in ("add", "add_front"):
        front, every = bulk.action == "add_front", target.config.wildcards
        return lambda text: tags.add(text, words, separator, front=front, every=every)
    if bulk.action == "remove":
        return lambda text: tags.remove(text, words, separator)
    if bulk.action == "trigger":
        return lambda text: tags.in_front(text, words, separator)
    if bulk.action == "sort":
        frequency = tags.counts(target.texts().values(), separator)
        return lambda text: tags.by_frequency(text, frequency, separator, target.config.keep_tokens)
    if bulk.action == "replace_text":
        return lambda text: text.replace(bulk.words, bulk.replacement)
    return lambda text: tags.replace(text, {bulk.words.strip(): bulk.replacement}, separator)
