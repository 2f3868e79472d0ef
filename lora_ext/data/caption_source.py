"""Where the caption of each picture comes from: its own file, a list, the concept name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lora_ext.config import DataSetConfig
from lora_ext.data.caption_list import NAMES, CaptionList
from lora_ext.data.captions import CaptionFiles, extensions, read_caption
from lora_ext.data.folder import Folder
from lora_ext.data.notices import Notices
from lora_ext.data.words import WordRules, Words
from lora_ext.errors import BadInput, Problem

_LEADING_NUMBER = re.compile(r"^[-\d]+\s*")


class Origin(NamedTuple):
    """Where the words of a picture were read. `file` None: nowhere; `fallback` is what stands in for them."""

    file: Path | None
    listed: bool
    """`file` is a list of many captions, not the picture's own."""
    lines: tuple[str, ...]
    fallback: str
    encoding: str = ""
    """Of the picture's own file, where it is not Unicode and had to be guessed."""


def rules_of(config: DataSetConfig) -> WordRules:
    """How captions of a data set vary."""
    return WordRules(
        trigger=config.trigger_words.strip().strip(","),
        templates=tuple(filter(None, (line.strip() for line in config.caption_template.splitlines()))),
        shuffle=config.shuffle_tags,
        keep=config.keep_tokens,
        keep_separator=config.keep_separator,
        separator=config.tag_separator or ",",
        joint_separator=config.joint_separator,
        tag_dropout=config.tag_dropout,
        caption_dropout=config.caption_dropout,
        dropout_epochs=config.caption_dropout_epochs,
        wildcards=config.wildcards,
    )


@dataclass
class CaptionSource:
    """Finds captions, and tells `notices` what is odd about them."""

    config: DataSetConfig
    notices: Notices
    uncaptioned: list[str] = field(default_factory=list)
    """Names of pictures that have no words at all."""
    origins: dict[Path, Origin] = field(default_factory=dict)
    """By the picture's path."""

    def __post_init__(self) -> None:
        self.rules = rules_of(self.config)
        self._extensions = extensions(self.config.caption_extension)
        self._given = _given_list(self.config)
        self._lists: list[CaptionList] = []
        self._files = CaptionFiles(())
        self._encoding = ""

    def enter(self, folder: Folder) -> None:
        """Look at the caption files of a folder; its pictures come next. Raises `BadInput` for a damaged list."""
        self._files = CaptionFiles(folder.files, self._extensions)
        there = {path.name.lower(): path for path in folder.files}
        found = next((there[name] for name in NAMES if name in there), None)
        if found and not self._given:
            self._lists.append(CaptionList.read(found))

    def words(self, name: str, path: Path, concept: str) -> Words:
        """The words of a picture; `concept` is that of its `N_concept` folder."""
        fallback = self.config.concept.strip() or concept
        self._encoding = ""
        file, listed, lines = self._found(name, path)
        self.origins[path] = Origin(file, listed, lines or (), fallback, self._encoding)
        if not lines:
            lines = self._instead(name, path, fallback, missing=lines is None)
        return Words(lines, fallback, self.rules)

    def _found(self, name: str, path: Path) -> tuple[Path | None, bool, tuple[str, ...] | None]:
        """From the list that was given, the picture's own file, or a list in its folder or above; None: nowhere."""
        if self._given and (text := self._given.find(path)) is not None:
            return self._given.path, True, _tidy(text)
        files = self._files.find(path)
        if len(files) > 1:
            first, *rest = (file.suffix.lower() for file in files)
            self.notices.add(f"Both a {first} and a {' and a '.join(rest)} file: the {first} is used", name)
        own = self._own(name, files[0]) if files else None
        if own is not None or self._given:
            return (files[0] if own is not None else None), False, own
        for one in reversed(self._lists):
            if (text := one.find(path)) is not None:
                return one.path, True, _tidy(text)
        return None, False, None

    def _instead(self, name: str, path: Path, fallback: str, missing: bool) -> tuple[str, ...]:
        """Lines for a picture whose caption is missing or empty."""
        if missing and any("[filewords]" in template for template in self.rules.templates):
            words = " ".join(_LEADING_NUMBER.sub("", path.stem).replace("_", " ").split())
            self.notices.add("No caption file: the words of the file name are used", name)
            return (words,) if words else ()
        if missing and not fallback and not self.rules.trigger and not self.rules.templates:
            self.uncaptioned.append(name)
        elif missing and fallback:
            self.notices.add(f"No caption file: the caption is {fallback!r}", name)
        elif missing:
            self.notices.add("No caption file: the caption is only the trigger words or the template", name)
        elif fallback:
            self.notices.add(f"Caption file is empty: the caption is {fallback!r}", name)
        elif not self.rules.trigger:
            self.notices.add("Caption file is empty: trained without words", name)
        return (fallback,) if fallback else ()

    def _own(self, name: str, path: Path) -> tuple[str, ...] | None:
        try:
            caption = read_caption(path)
        except OSError as e:
            self.notices.add(f"Caption file cannot be read ({e.strerror or type(e).__name__})", name)
            return None
        self._encoding = caption.encoding
        if caption.encoding:
            self.notices.add(
                f"Caption is not UTF-8 and was read as {caption.encoding}; save it as UTF-8 if accents look wrong", name
            )
        return caption.lines


def _given_list(config: DataSetConfig) -> CaptionList | None:
    text = config.caption_file.strip().strip("\"'")
    if not text:
        return None
    try:
        return CaptionList.read(Path(text).expanduser())
    except (ValueError, RuntimeError) as e:
        if isinstance(e, BadInput):
            raise
        raise BadInput(Problem("caption_file", "this path cannot be used", got=repr(text))) from e


def _tidy(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (" ".join(line.split()) for line in text.splitlines())))
