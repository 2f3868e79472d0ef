"""Where in the UNet activations are computed anew in the backward pass."""

from __future__ import annotations


def checkpoints(where: str, level: int, levels: int) -> bool:
    """Whether a level (0: the largest pictures; the middle counts to the last) is of the part that `where` names.

    "large" is the outer half of the levels, "small" the rest, "all" everything, "" nothing.
    """
    return where == "all" or (where in ("large", "small") and (level < levels // 2) is (where == "large"))
