"""What every benchmark prints: one JSON object, or a table for people."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import torch


@dataclass(frozen=True)
class Row:
    """One comparison. `limit` is what the machine allows (the least possible), in `unit` like the two others."""

    work: str
    ours: float
    peer: float | None
    peer_name: str
    limit: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        """peer / ours: above 1 we are better where less is better."""
        return None if self.peer is None or self.ours == 0 else self.peer / self.ours


def machine(device: torch.device) -> str:
    """What it ran on, in words."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{_processor()}, {torch.get_num_threads()} threads"
    )
    return f"{name}; {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


def show(rows: Sequence[Row], device: torch.device, *, as_json: bool, notes: Sequence[str] = ()) -> None:
    """Print the rows; with `as_json` one object of `machine`, `date`, `rows` (and `notes` when there are any)."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if as_json:
        body: dict[str, object] = {
            "machine": machine(device),
            "date": date,
            "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows],
        }
        print(json.dumps(body | ({"notes": list(notes)} if notes else {}), indent=1))
        return
    print(f"{machine(device)}, {date}\n")
    lines = [("work", "ours", "peer", "limit", "unit", "peer/ours", "peer is"), *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for note in notes:
        print(f"- {note}")


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    return (row.work, _number(row.ours), _number(row.peer), _number(row.limit), row.unit, ratio, row.peer_name)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} CPUs)"
