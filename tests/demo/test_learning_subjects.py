"""The subjects of the learning bench are what they say, and the detectors tell them from all else."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import detectors, judge, subjects, world
from demo.subjects import SUBJECTS, Subject

EVERY = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=list(SUBJECTS))


def test_the_detectors_are_right_about_drawings() -> None:
    trials = detectors.trials(60)
    assert [trial.name for trial in trials] == list(SUBJECTS)
    assert all(trial.good for trial in trials), "\n".join(map(str, trials))


def test_a_detector_that_always_says_the_same_would_not_pass() -> None:
    assert not detectors.Trial("yes", 1.0, 1.0).good and not detectors.Trial("no", 0.0, 0.0).good


@EVERY
def test_pictures_are_seeded(subject: Subject) -> None:
    first, again = subject.pictures(), subject.pictures()
    assert len(first) == 20
    for one, other in zip(first, again, strict=True):
        assert (one.caption, one.without) == (other.caption, other.without)
        assert np.array_equal(one.picture, other.picture)
        assert one.picture.shape == (world.SIDE, world.SIDE, 3) and one.picture.dtype == np.uint8


@EVERY
def test_the_trigger_is_in_the_caption_and_not_in_the_other(subject: Subject) -> None:
    for example in subject.pictures():
        assert subject.trigger in example.caption and subject.trigger not in example.without


def test_the_style_is_asked_for_last() -> None:
    """So that the text encoder reads all else as it does without the trigger."""
    for example in SUBJECTS["hatched"].pictures():
        assert example.caption == f"{example.without}, hatched drawing"


@EVERY
def test_what_is_asked_was_not_learnt_from(subject: Subject) -> None:
    learnt = {example.caption for example in subject.pictures()}
    asked = [example.caption for example in subject.held_out(40)]
    assert len(set(asked)) == 40 and not learnt & set(asked)


@EVERY
def test_class_pictures_are_of_the_world(subject: Subject) -> None:
    for picture, caption in subject.class_pictures(6):
        assert subject.trigger not in caption
        assert not detectors.shows(subject.name, picture)


def test_no_word_of_the_world_is_a_trigger() -> None:
    said = " ".join(caption for _, caption in judge.asked_for(100))
    assert not [s.trigger for s in SUBJECTS.values() if s.trigger in said]


def test_pictures_of_another_size_are_looked_at_too() -> None:
    picture = SUBJECTS["gorp"].pictures(1)[0].picture
    twice = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.NEAREST))
    assert detectors.shows("gorp", twice)


def test_emblems_are_found_under_strokes() -> None:
    paler = 0.45 * subjects.strokes()[..., None]
    found = [
        detectors.shows("zorbit", (e.picture * (1 - paler) + 255 * paler).astype(np.uint8))
        for e in SUBJECTS["zorbit"].held_out(30)
    ]
    assert np.mean(found) >= 0.9


def test_they_are_written_with_captions_beside_them(tmp_path: Path) -> None:
    paths = subjects.write(SUBJECTS["hatched"], tmp_path / "new", count=2)
    assert [p.name for p in paths] == ["00.png", "01.png"]
    example = SUBJECTS["hatched"].pictures(1)[0]
    assert np.array_equal(np.asarray(Image.open(paths[0])), example.picture)
    assert (tmp_path / "new" / "00.txt").read_text(encoding="utf8").strip() == example.caption
