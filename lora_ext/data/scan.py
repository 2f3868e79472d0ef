"""From folders to the data of a run: every data set scanned, regularisation in balance, some pictures held out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import PurePath

from lora_ext.config import DataConfig, DataSetConfig
from lora_ext.data.notices import Notices
from lora_ext.data.picture import Picture
from lora_ext.data.picture_file import printable
from lora_ext.data.report import DataReport, Skipped
from lora_ext.data.set_scan import SetScan
from lora_ext.data.sets import data_sets
from lora_ext.errors import BadInput, Problem


def scan(config: DataConfig) -> DataReport:
    """Find the pictures of every data set and decide how each is used; reads headers and captions, no pixels.

    Captions: a list that was given, the picture's own file, a list in its folder, `concept`, else the concept of an
    `N_concept` folder. Raises `BadInput`: field `images` when there is no readable folder or no usable picture in it,
    `concept` when a picture has no caption at all, `datasets` or `regularisation_images` for further data sets.
    Pictures that cannot be used are skipped; `skipped` and `notices` say why.
    """
    sets, notices = data_sets(config), Notices()
    problems: list[Problem] = []
    skipped: list[Skipped] = []
    found: list[list[Picture]] = []
    for number, (one, prefix) in enumerate(zip(sets, _prefixes(sets), strict=True)):
        try:
            scanned = SetScan(one, notices, prefix)
            scanned.run()
        except BadInput as e:
            problems += e.problems if not number else [_of_set(config, number, one, p) for p in e.problems]
            continue
        skipped += scanned.skipped
        found.append(scanned.pictures)
    if problems:
        raise BadInput(*problems)
    if config.regularisation_images.strip():
        found[1] = _balanced(found[1], sum(p.repeats for one in found for p in one if not p.regularisation), notices)
    pictures = [p for one in found for p in one]
    held = _held_out(pictures, config.validation_share)
    trained = tuple(p for p in pictures if p.name not in held)
    validation = tuple(
        dataclasses.replace(p, variations=1, words=None, flips=False) for p in pictures if p.name in held
    )
    return DataReport(trained, notices.lines(), tuple(skipped), validation)


def _prefixes(sets: Sequence[DataSetConfig]) -> list[str]:
    """What tells names of several data sets apart: the name of each folder, numbered when it comes again."""
    if len(sets) == 1:
        return [""]
    found: list[str] = []
    for one in sets:
        name = printable(PurePath(one.images.strip().strip("\"'").replace("\\", "/")).name) or "pictures"
        while f"{name}/" in found:
            name += "+"
        found.append(f"{name}/")
    return found


def _balanced(pictures: list[Picture], wanted: int, notices: Notices) -> list[Picture]:
    """Regularisation pictures seen as often in all as the user's own (DreamBooth, arXiv 2208.12242, 4.2)."""
    n = len(pictures)
    # Evenly spread: picture i takes what falls between i and i+1 n-ths of the whole.
    shares = [(i + 1) * wanted // n - i * wanted // n for i in range(n)]
    for p, share in zip(pictures, shares, strict=True):
        if not share:
            notices.add("More regularisation pictures than your own are seen: not used", p.name)
    return [dataclasses.replace(p, repeats=share) for p, share in zip(pictures, shares, strict=True) if share]


def _held_out(pictures: Sequence[Picture], percent: float) -> frozenset[str]:
    """Names of the pictures to measure with: the same whatever is added later, as far as their number allows."""
    own = [p.name for p in pictures if not p.regularisation]
    if not percent or len(own) < 2:
        return frozenset()
    count = min(len(own) - 1, max(1, round(len(own) * percent / 100)))
    return frozenset(sorted(own, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def _of_set(config: DataConfig, number: int, one: DataSetConfig, problem: Problem) -> Problem:
    """A problem of a further data set, at the setting that it comes from."""
    first = bool(config.regularisation_images.strip())
    field = "regularisation_images" if first and number == 1 else "datasets"
    fix = problem.fix
    if problem.field == "concept":
        fix = f"Give concept = '…' with it, or name the folder `1_concept`. {fix}"
    return dataclasses.replace(problem, field=field, what=f"{printable(one.images)}: {problem.what}", fix=fix)
