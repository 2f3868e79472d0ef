"""`NAME.log.csv` and `NAME.config.toml` beside a LoRA: what happened, and how to have it happen again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from lora_ext.config import TrainConfig, Value, flat, settings

COLUMNS = ("step", "epoch", "loss", "validation", "learning_rate", "seconds")


class RunLog:
    """Rows as they come. A disk that refuses costs the log, not the run: `problem` says why, once."""

    def __init__(self, output: Path, config: TrainConfig, checkpoint: str, after: int = 0) -> None:
        """`after`: a resumed run goes on behind this step; rows of later ones are dropped."""
        self.csv, self.toml = (output.with_name(f"{output.stem}.{end}") for end in ("log.csv", "config.toml"))
        self._config, self._checkpoint, self._after = config, checkpoint, after
        self._begun = False
        self.problem = "" if config.save.log else "off"

    def add(self, step: int, epoch: int, loss: float | None, validation: float | None, rate: float, secs: float) -> str:
        """Write one row; gives the reason when the log ends here, else an empty text."""
        if self.problem:
            return ""
        row = (step, epoch, _short(loss), _short(validation), f"{rate:.6g}", f"{secs:.2f}")
        try:
            if not self._begun:
                self._begin()
            with self.csv.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(row)
        except OSError as e:
            self.problem = e.strerror or type(e).__name__
        return self.problem

    def _begin(self) -> None:
        self.csv.parent.mkdir(parents=True, exist_ok=True)
        self.toml.write_text(settings_toml(self._config, self._checkpoint), encoding="utf-8")
        kept = self._kept() if self._after and self.csv.exists() else []
        with self.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *kept])
        self._begun = True

    def _kept(self) -> list[list[str]]:
        with self.csv.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row and row[0].isdigit()]
        return [row for row in rows if int(row[0]) <= self._after]


def settings_toml(config: TrainConfig, checkpoint: str) -> str:
    """All settings by section, as `train --config` reads them."""
    known = settings(TrainConfig)
    sections: dict[str, list[str]] = {"model": [f"checkpoint = {_toml(checkpoint)}"]} if checkpoint else {}
    for name, value in flat(config).items():
        sections.setdefault(known[name].section, []).append(f"{name} = {_toml(value)}")
    return "\n".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
