"""What an address refused."""

from __future__ import annotations

from httpx import Response


def fields(answer: Response) -> set[str]:
    """The fields that something is wrong with."""
    return {problem["field"] for problem in answer.json()["problems"]}
