"""A picture's text comes back: its tags, and which files they meant.

`Lora hashes: "name: hash, …"` stands in the text. A LoRA may have another name here than where the picture was made;
then its hash finds it. Where the name still means a file of that hash, the tag stays as it was.
"""

from __future__ import annotations

import re

from lora_ext.errors import BadInput
from lora_ext.hosts.library import Library

TAG = re.compile(r"<(lora|lyco):([^>]+)>")
PROMPTS = ("Prompt", "Hires prompt")
UNWRITTEN = str.maketrans("", "", ":,")
"""Signs that names lose among the hashes."""


def restore_tags(library: Library, parameters: dict[str, object], *, aliases: bool) -> None:
    """Change the names in `parameters`, the host's reading of the text, in place."""
    hashes = read_hashes(str(parameters.get("Lora hashes") or ""))
    for key in PROMPTS if hashes else ():
        text = parameters.get(key)
        if isinstance(text, str):
            parameters[key] = TAG.sub(lambda tag: _renamed(library, hashes, tag, aliases), text)


def read_hashes(text: str) -> dict[str, str]:
    """`a: 0123456789ab, b: …` as name -> hash."""
    pairs = (part.partition(":") for part in text.strip().strip('"').split(","))
    found = {name.strip(): digits.strip() for name, _, digits in pairs}
    return {name: digits for name, digits in found.items() if re.fullmatch("[0-9a-fA-F]{8,64}", digits)}


def _renamed(library: Library, hashes: dict[str, str], tag: re.Match[str], aliases: bool) -> str:
    parts = tag[2].split(":")
    for size in range(len(parts), 0, -1):
        name = ":".join(parts[:size])
        digits = hashes.get(name.translate(UNWRITTEN).strip())
        if digits is not None:
            here = _name_here(library, name, digits, aliases)
            return f"<{tag[1]}:{':'.join([here, *parts[size:]])}>"
    return tag[0]


def _name_here(library: Library, name: str, digits: str, aliases: bool) -> str:
    try:
        if library.hash(name).startswith(digits.lower()):
            return name
    except BadInput:
        pass  # no such name here
    found = library.by_hash(digits)
    if not found:
        return name
    alias = library.facts(found[0]).alias if aliases else ""
    return library.view.index.tag_name(found[0], alias)
