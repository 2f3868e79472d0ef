"""Replacing by a pattern of the user's: whatever it does, it ends in time.

Python's `re` cannot be interrupted, and a pattern like `(a+)+$` may take centuries; so it works in a process of its
own, which is ended when the time is over.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from lora_ext.errors import BadInput, Problem

SECONDS = 5.0

LONGEST = 20_000
"""Characters of one caption after replacing; far more than any model reads."""

_WORK = """
import json, re, sys
find, replacement, texts, longest = json.loads(sys.stdin.buffer.read())
pattern = re.compile(find)
made = []
for text in texts:
    one = pattern.sub(replacement, text)
    if len(one) > longest:
        sys.exit(3)
    made.append(one)
sys.stdout.buffer.write(json.dumps(made).encode())
"""


def check(find: str) -> None:
    """Raises `BadInput` (field `find`) for a pattern that cannot be read."""
    if not find:
        raise BadInput(Problem("find", "say what is to be replaced"))
    try:
        re.compile(find)
    except (re.error, OverflowError, RecursionError, MemoryError) as e:
        said = e.msg if isinstance(e, re.error) else str(e)
        at = e.pos if isinstance(e, re.error) else None
        where = f" at character {at + 1}" if at is not None else ""
        raise BadInput(Problem("find", f"the pattern cannot be read: {said}{where}")) from e


def replaced(texts: Sequence[str], find: str, replacement: str, seconds: float = SECONDS) -> list[str]:
    """`re.sub` over every text.

    Raises `BadInput` (`find`, `replace`) when it cannot be read, takes too long or makes captions too long.
    """
    check(find)
    asked = json.dumps([find, replacement, list(texts), LONGEST]).encode("utf-8", "surrogatepass")
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-c", _WORK], input=asked, capture_output=True,
                              timeout=seconds, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        fix = "Make it simpler: nested repeats such as (a+)+ take for ever."
        raise BadInput(Problem("find", f"the pattern takes longer than {seconds:g} seconds", fix=fix)) from None
    if done.returncode == 3:
        what = f"a caption would become longer than {LONGEST} characters"
        raise BadInput(Problem("replace", what, fix="Look for more than nothing."))
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2].rpartition("Error: ")[2]
        said = said.removeprefix("re.error: ") or f"exit code {done.returncode}"
        raise BadInput(Problem("replace", f"the replacement cannot be used: {said}", fix="\\1 is the first group."))
    made: list[str] = json.loads(done.stdout)
    return made
