"""One shape for every complaint about bad input: what, where, expected, got, what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what the user gave.

    `field` is the setting, file or layer it belongs to; the tab shows the message next to the setting of that name.
    """

    field: str
    what: str
    expected: str = ""
    got: str = ""
    fix: str = ""

    def __str__(self) -> str:
        """The problem as one line for a terminal or a log."""
        parts = [f"{self.field}: {self.what}"]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.got:
            parts.append(f"got {self.got}")
        line = "; ".join(parts)
        line += "" if line.endswith((".", "!", "?")) else "."
        return " ".join(f"{line} {self.fix}".split())


class BadInput(ValueError):
    """Raised for anything the user can put right; carries every `Problem` found, not just the first."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
