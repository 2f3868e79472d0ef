"""Several data sets, regularisation in balance, pictures held out, and batches that know all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lora_ext.config import DataConfig
from lora_ext.config.dataset_lines import as_line
from lora_ext.data import Batches, DataReport, data_sets, scan
from lora_ext.errors import BadInput


def put(folder: Path, count: int, caption: str = "", size: tuple[int, int] = (64, 64)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", size, (i, 0, 0)).save(folder / f"{i}.png")
        if caption:
            (folder / f"{i}.txt").write_text(caption)
    return folder


def scanned(folder: Path, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"resolution": 64, **settings}))


def test_each_line_is_a_data_set_with_its_own_settings(tmp_path: Path) -> None:
    put(tmp_path / "cats", 2, "cat, red")
    put(tmp_path / "dogs", 1, "dog", size=(128, 128))
    put(tmp_path / "more" / "cats", 1)
    lines = (
        f"images = '{tmp_path / 'dogs'}', repeats = 3, resolution = 128, flip = true, picture_weight = 0.5\n"
        "\n# not this one\n"
        f'images = "{(tmp_path / "more" / "cats").as_posix()}", concept = "x", regularisation = true,\n'
    )
    report = scanned(tmp_path / "cats", datasets=lines, repeats=2, shuffle_tags=True, trigger_words="sks")
    assert [(p.name, p.repeats, p.bucket, p.flips, p.weight, p.regularisation) for p in report.pictures] == [
        ("cats/0.png", 2, (64, 64), False, 1.0, False),
        ("cats/1.png", 2, (64, 64), False, 1.0, False),
        ("dogs/0.png", 3, (128, 128), True, 0.5, False),
        ("cats+/0.png", 2, (64, 64), False, 1.0, True),
    ]
    assert report.captions == ("sks, cat, red", "sks, dog", "x"), "regularisation pictures have no trigger words"
    assert report.folders == {"cats": (2, 2), "dogs": (3, 1), "cats+": (2, 1)}


def test_the_same_folder_at_two_sizes(tmp_path: Path) -> None:
    """Latents of both are kept apart."""
    import torch

    from lora_ext.data import LatentCache

    put(tmp_path / "a", 1, "cat", size=(128, 128))
    report = scanned(tmp_path / "a", datasets=f"images = '{tmp_path / 'a'}', resolution = 128")
    cache = LatentCache()
    list(cache.build(report.views(), lambda x: torch.nn.functional.avg_pool2d(x, 8)))
    assert [tuple(cache.latents(p).shape[1:]) for p in report.pictures] == [(8, 8), (16, 16)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("images = D:/x", "line 2: this cannot be read"),
        ("repeats = 2", "line 2: a data set needs its own folder"),
        ("images = 'x', repeats = 0", "line 2: repeats: Repeats is out of range"),
        ("images = 'x', rank = 4", "line 2: rank: there is no such setting"),
        ("images = 'x', batch_size = 4", "line 2: batch_size: there is no such setting"),
        ("images = 'nowhere at all'", "nowhere at all: there is no such folder"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    put(tmp_path / "cats", 1, "cat")
    with pytest.raises(BadInput) as caught:
        scanned(tmp_path / "cats", datasets=f"# first\n{line}")
    (problem,) = caught.value.problems
    assert problem.field == "datasets"
    assert said in problem.what


def test_every_bad_set_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        scanned(tmp_path / "no", datasets="images = 'neither'", regularisation_images="nor this")
    assert {p.field for p in caught.value.problems} == {"images", "datasets", "regularisation_images"}


@pytest.mark.parametrize("value", ["it's", "C:\\a", 'say "x"', "a\nb", "tab\t", "plain", "", True, 3, 0.5])
def test_a_line_says_what_was_put_in(value) -> None:
    line = as_line({"images": "x", "concept" if isinstance(value, str) else "picture_weight": value})
    if isinstance(value, bool):
        line = as_line({"images": "x", "flip": value})
    _, one = data_sets(DataConfig(images="y", datasets=line))
    assert value in (one.concept, one.picture_weight, one.flip)


@pytest.mark.parametrize(("own", "others"), [(3, 2), (3, 3), (2, 5), (5, 1)])
def test_as_many_regularisation_pictures_as_own(tmp_path: Path, own: int, others: int) -> None:
    put(tmp_path / "5_cat", own)
    put(tmp_path / "reg" / "1_animal", others)
    report = scanned(tmp_path / "5_cat", regularisation_images=str(tmp_path / "reg"), trigger_words="sks")
    keep = [p for p in report.pictures if p.regularisation]
    assert sum(p.repeats for p in keep) == 5 * own
    assert max(p.repeats for p in keep) - min(p.repeats for p in keep) <= 1
    assert {p.caption for p in keep} == {"animal"}


def test_regularisation_pictures_that_are_too_many_are_said(tmp_path: Path) -> None:
    put(tmp_path / "1_cat", 2)
    put(tmp_path / "reg" / "1_animal", 6)
    report = scanned(tmp_path / "1_cat", regularisation_images=str(tmp_path / "reg"))
    assert sum(p.regularisation for p in report.pictures) == 2
    assert any("4 " not in n and "not used" in n and n.count(".png") == 4 for n in report.notices)


def test_held_out_pictures(tmp_path: Path) -> None:
    put(tmp_path / "cats", 10, "a, b, c")
    put(tmp_path / "reg" / "1_animal", 10)
    settings = {"shuffle_tags": True, "colour_jitter": 0.1, "flip": True, "validation_share": 20}
    settings["regularisation_images"] = str(tmp_path / "reg")
    report = scanned(tmp_path / "cats", **settings)
    assert len(report.validation) == 2
    assert not {p.name for p in report.validation} & {p.name for p in report.pictures}
    assert not any(p.regularisation or p.flips or p.words or p.variations > 1 for p in report.validation)
    assert report.validation == scanned(tmp_path / "cats", **settings).validation
    assert set(report.validation) <= set(report.views())
    assert not scanned(tmp_path / "cats").validation
    gone = report.without([type("S", (), {"name": report.validation[0].name, "reason": ""})()])
    assert len(gone.validation) == 1


def test_one_picture_is_never_held_out(tmp_path: Path) -> None:
    put(tmp_path / "cats", 1, "a")
    assert len(scanned(tmp_path / "cats", validation_share=50).pictures) == 1


def test_captions_vary_by_seed_epoch_and_time_and_repeat(tmp_path: Path) -> None:
    put(tmp_path / "8_x", 1, "a, b, c, d, e")
    report = scanned(tmp_path / "8_x", shuffle_tags=True)
    assert report.captions_vary
    assert report.captions == ("a, b, c, d, e",)

    def said(seed: int, epoch: int) -> list[str]:
        return [s.caption for batch in Batches(report, 3, seed).epoch(epoch) for s in batch]

    assert said(0, 0) == said(0, 0)
    assert len(set(said(0, 0))) > 4
    assert said(0, 0) != said(1, 0) != said(0, 1)
    batches = Batches(report, 3, 0)
    assert set(batches.captions(0)) == set(said(0, 0))
    assert set(batches.all_captions(range(2))) == set(said(0, 0)) | set(said(0, 1))


def test_what_is_said_of_a_picture_does_not_hang_on_the_others(tmp_path: Path) -> None:
    put(tmp_path / "x", 2, "a, b, c, d, e")
    report = scanned(tmp_path / "x", shuffle_tags=True)
    alone = report.without([type("S", (), {"name": "1.png", "reason": ""})()])

    def of_first(one: DataReport) -> str:
        return next(
            s.caption for b in Batches(one, 1, 0).epoch(0) for s in b if one.pictures[s.picture_index].name == "0.png"
        )

    assert of_first(report) == of_first(alone)


def test_samples_carry_captions_that_do_not_vary(tmp_path: Path) -> None:
    put(tmp_path / "x", 2, "same")
    report = scanned(tmp_path / "x")
    assert not report.captions_vary
    assert {s.caption for b in Batches(report, 1, 0).epoch(0) for s in b} == {"same"}


def test_each_set_says_whether_it_is_mirrored(tmp_path: Path) -> None:
    put(tmp_path / "a", 1, "x")
    put(tmp_path / "b", 1, "x")
    report = scanned(tmp_path / "a", flip=True, repeats=50, datasets=f"images = '{tmp_path / 'b'}', flip = false")
    flips = {i: {s.flipped for b in Batches(report, 1, 0).epoch(0) for s in b if s.picture_index == i} for i in (0, 1)}
    assert flips == {0: {True, False}, 1: {False}}
