"""What many captions at once are made into: tags added, taken out, replaced, put in front, put in order.

A caption may have several lines (with wildcards, one of them is chosen each time); every line is a list of tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def split(line: str, separator: str = ",") -> list[str]:
    """The tags of one line, none of them empty."""
    return [tag.strip() for tag in line.split(separator or ",") if tag.strip()]


def join(tags: Iterable[str], separator: str = ",") -> str:
    """One line of tags."""
    return f"{separator.strip() or ','} ".join(tags)


def tags_of(text: str, separator: str = ",") -> list[str]:
    """Every tag of a caption, in order."""
    return [tag for line in text.splitlines() for tag in split(line, separator)]


def counts(texts: Iterable[str], separator: str = ",") -> Counter[str]:
    """In how many captions each tag is."""
    return Counter(tag for text in texts for tag in dict.fromkeys(tags_of(text, separator)))


def add(text: str, tags: Sequence[str], separator: str = ",", *, front: bool = False, every: bool = False) -> str:
    """Tags that are not there yet, put at the end of the last line or in front of the first; `every`: of each line."""
    lines = text.splitlines() or [""]
    chosen = range(len(lines)) if every else [0 if front else len(lines) - 1]
    there = set() if every else set(tags_of(text, separator))
    for n in chosen:
        old = split(lines[n], separator)
        new = [tag for tag in dict.fromkeys(tags) if tag not in there and tag not in old]
        lines[n] = join([*new, *old] if front else [*old, *new], separator) if new else lines[n]
    return "\n".join(lines)


def remove(text: str, tags: Iterable[str], separator: str = ",") -> str:
    """Without these tags; lines that have none of them stay as they are."""
    return replace(text, dict.fromkeys(tags, ""), separator)


def replace(text: str, instead: Mapping[str, str], separator: str = ",") -> str:
    """Whole tags replaced; what would then be there twice is there once, what becomes empty is left out."""
    lines: list[str] = []
    for line in text.splitlines():
        old = split(line, separator)
        if instead.keys().isdisjoint(old):
            lines.append(line)
            continue
        new = [part for tag in old for part in split(instead.get(tag, tag), separator)]
        lines.append(join(dict.fromkeys(new), separator))
    return "\n".join(filter(None, lines))


def in_front(text: str, words: Sequence[str], separator: str = ",") -> str:
    """These tags first, in this order, in the first line, whether or not they were there."""
    rest = remove(text, words, separator)
    first, *others = rest.splitlines() or [""]
    return "\n".join([join([*words, *split(first, separator)], separator), *others])


def by_frequency(text: str, frequency: Mapping[str, int], separator: str = ",", keep: int = 0) -> str:
    """Tags that many captions have come first; equally frequent ones stay in their order, the first `keep` in place."""
    lines: list[str] = []
    for line in text.splitlines():
        tags = split(line, separator)
        rest = sorted(tags[keep:], key=lambda tag: -frequency.get(tag, 0))
        lines.append(join([*tags[:keep], *rest], separator))
    return "\n".join(lines)
