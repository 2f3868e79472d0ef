"""A settings file of our own: its keys flat or in sections, made flat."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ext.config import settings
from lora_ext.config.dataset_lines import as_line


def flattened(raw: Mapping[str, object], config: type) -> dict[str, object]:
    """The settings of a parsed file by name, for `config.read`, which says what is wrong with them.

    `[network] rank = 16` counts as `rank = 16`; a setting in a wrong section keeps its whole name, `loss.rank`.
    """
    known = settings(config)
    sections = {s.section for s in known.values()}
    out: dict[str, object] = {}
    for key, value in raw.items():
        if key not in sections or not isinstance(value, dict):
            out[key] = _as_lines(key, value)
            continue
        for name, inner in value.items():
            s = known.get(name)
            # A setting in a wrong section is told apart from one that exists nowhere by its whole name.
            out[name if s is None or s.section == key else f"{key}.{name}"] = _as_lines(name, inner)
    return out


def _as_lines(name: str, value: object) -> object:
    """Data sets written as `[[datasets]]` become the lines that the setting is made of."""
    if name != "datasets" or not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return value
    scalars = [{k: v for k, v in one.items() if isinstance(v, (bool, int, float, str))} for one in value]
    return value if scalars != value else "\n".join(map(as_line, scalars))
