"""Describing pictures: what a captioner says becomes one change of captions that can be undone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from lora_ext.captioner import Captioner, Describe, Tag, Weights
from lora_ext.data.editing import EditSet, tags
from lora_ext.data.picture_file import decode, to_rgb
from lora_ext.errors import BadInput, Problem

Mode = Literal["overwrite", "append", "empty"]
"""What becomes of captions that are there: they go, they get what is new behind them, or they stay as they are."""

LABEL = "Pictures described"

ENOUGH = (1024, 1024)
"""Pixels; no captioner looks at more than half of it, and JPEGs are decoded near it, quickly."""

_WORD = re.compile(r"[^\W_]{2}")
"""Tags without two letters in a row are faces such as `^_^` and `(o)_(o)`, and keep their underscores."""


@dataclass(frozen=True)
class Wish:
    """What to describe and how. `numbers` None: all pictures."""

    numbers: tuple[int, ...] | None
    mode: Mode
    threshold: float = 0.35
    character_threshold: float = 0.85

    @classmethod
    def read(cls, numbers: Sequence[int] | None, mode: object, threshold: object, character: object) -> Wish:
        """From what a page sent. Raises `BadInput`."""
        if mode not in get_args(Mode):
            raise BadInput(Problem("mode", "there is no such way", " or ".join(get_args(Mode)), str(mode)))
        for name, value in (("threshold", threshold), ("character-threshold", character)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise BadInput(Problem(name, "this cannot be a threshold", "a number above 0, at most 1", str(value)))
        chosen = None if numbers is None else tuple(numbers)
        return cls(chosen, mode, float(threshold), float(character))  # type: ignore[arg-type]  # checked above


def describe(
    target: EditSet, captioner: Captioner, wish: Wish, progress: Callable[[int, int], None], stop: Callable[[], bool]
) -> int:
    """Describe pictures one after the other; how many captions are another now.

    What was described before `stop` said so counts, and so does what was described before the model failed. A picture
    that cannot be read is passed by. Raises `BadInput` (field `captioner`) when the model cannot be used.
    """
    ready(captioner.weights())
    wanted = [n for n, text in target.texts(wish.numbers).items() if wish.mode != "empty" or not text]
    said: dict[int, str | Sequence[Tag]] = {}
    try:
        progress(0, len(wanted))
        if wanted:
            with captioner.opened(stop) as say:
                for count, number in enumerate(wanted, 1):
                    if stop() or not _heard(say, target, number, said):
                        break
                    progress(count, len(wanted))
    finally:
        changed = _edit(target, said, wish)
    return changed


def ready(weights: Weights) -> None:
    """Raises `BadInput` (field `captioner`) unless a model with these weights can describe now."""
    if weights.lacking:
        fix = f"Install it into the Python that runs this: pip install {weights.lacking.split(' ')[0]}"
        raise BadInput(Problem("captioner", f"the package {weights.lacking} is missing", fix=fix))
    if not weights.present:
        raise BadInput(Problem("captioner", "the model is not on disk", fix=f"Put it into {weights.place}."))


def _heard(say: Describe, target: EditSet, number: int, said: dict[int, str | Sequence[Tag]]) -> bool:
    """Keep what is said of a picture; False when the user stopped meanwhile."""
    image = _image(target, number)
    if image is None:
        return True
    words = say(image)
    if words is not None:
        said[number] = words
    return words is not None


def _edit(target: EditSet, said: Mapping[int, str | Sequence[Tag]], wish: Wish) -> int:
    now = target.texts(said)
    separator = target.config.tag_separator or ","
    return target.edit(LABEL, {n: _worded(now[n], said[n], wish, separator) for n in now})


def _image(target: EditSet, number: int) -> Image.Image | None:
    """The pixels; None for a picture that cannot be read, which the page shows as such."""
    try:
        picture = target.picture(number)
        return to_rgb(decode(picture.path, picture.orientation, about=ENOUGH))
    except BadInput:
        return None


def _worded(text: str, said: str | Sequence[Tag], wish: Wish, separator: str) -> str:
    """The caption with what was said of the picture; as it was when nothing was."""
    new = [said.strip()] if isinstance(said, str) else _chosen(said, wish)
    if not any(new) or (wish.mode == "empty" and text):
        return text
    old = "" if wish.mode == "overwrite" else text
    if isinstance(said, str):
        return old if new[0] in old else tags.join(filter(None, [old, new[0]]), separator)
    return tags.add(old, new, separator)


def _chosen(said: Sequence[Tag], wish: Wish) -> list[str]:
    """Tags that are sure enough, surest first, in words."""
    sure = [tag for tag in said if tag.score >= (wish.character_threshold if tag.character else wish.threshold)]
    sure.sort(key=lambda tag: -tag.score)
    return [tag.name.replace("_", " ") if _WORD.search(tag.name) else tag.name for tag in sure]
