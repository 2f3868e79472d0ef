"""What is cut out, which colours, which part counts: views and masks."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from lora_ext.config import DataConfig
from lora_ext.data import Batches, DataReport, LatentCache, load_mask, load_picture, scan
from lora_ext.data.jitter import Tint
from lora_ext.errors import BadInput


def scanned(folder: Path, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"resolution": 64, "concept": "x", **settings}))


def ramp(path: Path, size: tuple[int, int]) -> Path:
    """Red grows from left to right, green from top to bottom."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8)).save(path)
    return path


def encode(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels, 8)


def test_random_cutting_shows_other_parts(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (200, 64))
    report = scanned(tmp_path, buckets=False, crop="random", variations=5, repeats=40)
    (picture,) = report.pictures
    views = picture.views()
    assert len({view.crop for view in views}) == 5
    assert all(0 <= view.crop[0] <= 200 - 64 and view.crop[1] == 0 for view in views)
    for view in views:
        red = (load_picture(view)[0].mean() + 1) / 2 * 199
        assert float(red) == pytest.approx(view.crop[0] + 31.5, abs=1)
        assert view.time_ids()[3] == view.crop[0]
    assert scanned(tmp_path, buckets=False).pictures[0].views()[0].crop == (68, 0), "the middle unless asked"
    batches = Batches(report, 4, 0)
    seen = {batches.picture(s) for batch in batches.epoch(0) for s in batch}
    assert seen == set(views) == set(report.views())


def test_a_picture_that_fits_has_one_view(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (64, 64))
    assert scanned(tmp_path, crop="random").pictures[0].variations == 1
    assert scanned(tmp_path, variations=9).pictures[0].variations == 1


def test_no_cutting_shows_all(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (200, 100))
    (picture,) = scanned(tmp_path, buckets=False, crop="none").pictures
    pixels = load_picture(picture)
    assert pixels.shape == (3, 64, 64)
    assert (float(pixels[0, 0, 0]), float(pixels[0, 0, -1])) == pytest.approx((-1, 1), abs=0.03)
    assert not any("cut off" in n for n in scanned(tmp_path, crop="none").notices)


@pytest.mark.parametrize(
    ("limit", "bucket"), [(0.0, (256, 256)), (1.0, (128, 128)), (1.5, (192, 192)), (2.0, (256, 256))]
)
def test_upscaling_has_a_limit(tmp_path: Path, limit: float, bucket: tuple[int, int]) -> None:
    ramp(tmp_path / "a.png", (130, 130))
    assert scanned(tmp_path, resolution=256, upscale_limit=limit).pictures[0].bucket == bucket


def test_too_small_for_the_limit_is_skipped(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (64, 64))
    ramp(tmp_path / "b.png", (30, 30))
    report = scanned(tmp_path, upscale_limit=1.0)
    assert [s.name for s in report.skipped] == ["b.png"]
    assert "upscaling limit" in report.skipped[0].reason


def test_colours_vary_but_repeat(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (64, 64))
    (picture,) = scanned(tmp_path, colour_jitter=0.3, variations=3).pictures
    plain = load_picture(scanned(tmp_path).pictures[0])
    seen = [load_picture(view) for view in picture.views()]
    assert all(not torch.equal(one, plain) for one in seen)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], load_picture(picture.view(2)))
    assert all(one.abs().max() <= 1 and one.is_contiguous() for one in seen)


def test_tints() -> None:
    pixels = torch.rand(3, 8, 8) - 0.5
    light = (pixels + 1) / 2
    assert torch.allclose(Tint(1, 1, 1, 0).apply(pixels), pixels, atol=1e-3)
    assert torch.allclose(Tint(0.5, 1, 1, 0).apply(pixels), light * 0.5 * 2 - 1, atol=1e-3)
    grey = Tint(1, 1, 0, 0).apply(pixels)
    assert float((grey.max(0).values - grey.min(0).values).max()) < 1e-2
    turned = Tint(1, 1, 1, 1 / 3).apply(torch.tensor([[[0.4]], [[-0.6]], [[-0.6]]]))
    assert turned.flatten().argmax() != 0, "a third of a circle makes red another colour"
    assert Tint.draw(0.0, Random(0)) == Tint(1, 1, 1, 0)


# Masks


def masked(folder: Path) -> DataReport:
    ramp(folder / "a.png", (64, 64))
    half = np.zeros((128, 128), np.uint8)  # twice as large as its picture: scaled along
    half[:, 64:] = 255
    Image.fromarray(half).save(folder / "a-mask.png")
    ramp(folder / "b.png", (64, 64))
    return scanned(folder, flip=True)


def test_mask_files_beside_pictures(tmp_path: Path) -> None:
    report = masked(tmp_path)
    assert [p.name for p in report.pictures] == ["a.png", "b.png"], "a mask is no picture"
    assert any("mask of another" in n and "a-mask.png" in n for n in report.notices)
    a, b = report.pictures
    mask = load_mask(a)
    assert mask is not None
    assert mask.shape == (1, 64, 64)
    assert (float(mask[0, :, :31].max()), float(mask[0, :, 33:].min())) == (0.0, 1.0)
    assert load_mask(b) is None


def test_masks_come_at_the_size_of_latents(tmp_path: Path) -> None:
    report = masked(tmp_path)
    cache = LatentCache()
    list(cache.build(report.views(), encode))
    a, b = report.pictures
    masks = cache.masks([(a, False), (a, True), (b, False)])
    assert masks is not None
    assert masks.shape == (3, 1, 8, 8)
    assert masks[0, 0, 0].tolist() == [0, 0, 0, pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05), 1, 1, 1]
    assert torch.equal(masks[1], masks[0].flip(-1))
    assert torch.equal(masks[2], torch.ones(1, 8, 8))
    assert cache.masks([(b, False)]) is None


def test_a_mask_is_cut_like_its_picture(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (192, 64))
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 192).astype(np.uint8), (64, 1)))
    grey.save(tmp_path / "a.mask.png")
    (picture,) = scanned(tmp_path, buckets=False, crop="random").pictures
    for view in picture.views():
        mask, red = load_mask(view), (load_picture(view)[0] + 1) / 2
        assert mask is not None
        assert torch.allclose(mask[0], red, atol=0.02)


def test_transparency_is_a_mask_unless_not_wanted(tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    image.save(tmp_path / "a.png")
    mask = load_mask(scanned(tmp_path).pictures[0])
    assert mask is not None
    assert (float(mask[0, 0, 0]), float(mask[0, 0, -1])) == (0.0, 1.0)
    assert load_mask(scanned(tmp_path, alpha_mask=False).pictures[0]) is None


def test_a_folder_of_masks(tmp_path: Path) -> None:
    ramp(tmp_path / "p" / "sub" / "a.png", (64, 64))
    ramp(tmp_path / "p" / "b.png", (64, 64))
    Image.new("L", (64, 64), 51).save(ramp(tmp_path / "m" / "sub" / "a.png", (64, 64)))
    Image.new("L", (64, 64), 255).save(ramp(tmp_path / "m" / "b-mask.png", (64, 64)))
    report = scanned(tmp_path / "p", mask_folder=str(tmp_path / "m"))
    means = {p.name: round(float(load_mask(p).mean()), 2) for p in report.pictures}
    assert means == {"sub/a.png": 0.2, "b.png": 1.0}
    with pytest.raises(BadInput, match="no such folder") as caught:
        scanned(tmp_path / "p", mask_folder=str(tmp_path / "none"))
    assert caught.value.problems[0].field == "mask_folder"


def test_a_mask_of_another_shape_leaves_its_picture_out(tmp_path: Path) -> None:
    ramp(tmp_path / "a.png", (64, 64))
    ramp(tmp_path / "b.png", (64, 64))
    Image.new("L", (128, 64)).save(tmp_path / "a_mask.png")
    report, cache = scanned(tmp_path), LatentCache()
    list(cache.build(report.views(), encode))
    (skipped,) = cache.skipped
    assert (skipped.name, "another shape" in skipped.reason) == ("a.png", True)
    assert [p.name for p in report.without(cache.skipped).pictures] == ["b.png"]
