"""Which files and folders a caller over HTTP may name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ext.errors import BadInput, Problem


@dataclass(frozen=True)
class Reach:
    """Everything for a server that only this machine can reach; otherwise what lies in certain folders.

    `folders` is asked at every check: a host's settings may change.
    """

    local: bool
    folders: Callable[[], Sequence[Path]]
    how: str = "Put it there, or add its folder in the settings of the server."
    """What to do to have another folder allowed."""

    def check(self, path: Path, field: str = "path") -> Path:
        """The path, absolute, with links and `..` followed.

        Raises `BadInput` for `field` when it lies outside. The path need not exist.
        """
        try:
            real = path.expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as e:  # a loop of links; a home nobody has; a zero byte
            raise BadInput(Problem(field, "the path cannot be followed", got=repr(str(path)))) from e
        if self.local:
            return real
        allowed = [folder.expanduser().resolve() for folder in self.folders()]
        if any(real.is_relative_to(folder) for folder in allowed):
            return real
        named = ", ".join(map(str, allowed)) or "none is configured"
        what = "this server is open to others, so paths are limited"
        raise BadInput(Problem(field, what, named, str(path), self.how))
