"""The data sets of a run: the main one, its regularisation folder, and as many as there are lines for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from lora_ext.config import DataConfig, DataSetConfig, flat, read, settings
from lora_ext.config.dataset_lines import parse_line
from lora_ext.errors import BadInput, Problem

NOT_SHARED = {"caption_file": "", "mask_folder": "", "concept": ""}
"""What is said of the main set's pictures says nothing about others."""

NOT_OF_OTHERS = {"trigger_words": "", "caption_template": "", "picture_weight": 1.0}
"""Regularisation pictures are of other things than those the words call."""


def data_sets(config: DataConfig) -> tuple[DataSetConfig, ...]:
    """Every data set with all its settings, the main one first.

    Raises `BadInput` (field `datasets`, naming the line) for lines that cannot be read or settings that are none.
    """
    main = _as_set(flat(config))
    further: list[DataSetConfig] = []
    if config.regularisation_images.strip():
        own = {"images": config.regularisation_images, "regularisation": True}
        further.append(read(DataSetConfig, {**flat(main), **NOT_SHARED, **NOT_OF_OTHERS, **own}))
    problems: list[Problem] = []
    for number, line in enumerate(config.datasets.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            further.append(_line(main, line))
        except BadInput as e:
            problems += (_of_line(number, p) for p in e.problems)
    if problems:
        raise BadInput(*problems)
    return (main, *further)


def _as_set(values: Mapping[str, object]) -> DataSetConfig:
    known = settings(DataSetConfig)
    found = {name: value for name, value in values.items() if name in known}
    if not str(found["images"]).strip():  # told better by the scan
        return dataclasses.replace(read(DataSetConfig, {**found, "images": "-"}), images="")
    return read(DataSetConfig, found)


def _line(main: DataSetConfig, line: str) -> DataSetConfig:
    given = parse_line(line)
    if "images" not in given:
        raise BadInput(Problem("datasets", "a data set needs its own folder", "images = '…'", line.strip()))
    others = NOT_OF_OTHERS if given.get("regularisation") is True else {}
    return read(DataSetConfig, {**flat(main), **NOT_SHARED, **others, **given})


def _of_line(number: int, problem: Problem) -> Problem:
    what = problem.what if problem.field == "datasets" else f"{problem.field}: {problem.what}"
    return dataclasses.replace(problem, field="datasets", what=f"line {number}: {what}")
