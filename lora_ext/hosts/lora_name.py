"""What a LoRA may be called: a file name that every system can hold and every prompt can ask for."""

from __future__ import annotations

import re

from lora_ext.errors import BadInput, Problem

FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]')  # in a file's name on Windows, and in a prompt's tag
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
LONGEST = 150  # characters; leaves room for what a save on the way adds, in any encoding of common systems


def check_name(stem: str) -> None:
    """Raise `BadInput` for the field "output" unless a LoRA can have this name (no folder, no ending)."""
    if FORBIDDEN.search(stem):
        what, fix = "the name holds a character that a file cannot have", 'Leave out < > : " / \\ | ? *'
    elif not stem or stem.startswith(".") or stem.endswith((".", " ")):
        what, fix = "the name cannot be empty, nor start or end with a dot or space", ""
    elif RESERVED.fullmatch(stem):
        what, fix = "Windows keeps this name for itself", "Choose another name."
    elif len(stem) > LONGEST or len(stem.encode()) > LONGEST:
        what, fix = "the name is too long", f"At most {LONGEST} letters; fewer outside of English."
    else:
        return
    raise BadInput(Problem("output", what, "a plain name such as my cat", repr(stem[: LONGEST + 1]), fix))
