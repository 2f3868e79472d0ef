"""Pictures of every mode and turn, through the same door as training: scan, then load_picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, Picture, load_picture, scan


def scanned(folder: Path, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"concept": "thing", "resolution": 64, **settings}))


def only(folder: Path) -> tuple[Picture, torch.Tensor]:
    (picture,) = scanned(folder).pictures
    return picture, load_picture(picture)


def colour(pixels: torch.Tensor) -> list[int]:
    """The mean colour as 0..255."""
    return [round(c) for c in ((pixels.mean((1, 2)) + 1) * 127.5).tolist()]


def test_range_and_shape(tmp_path: Path) -> None:
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(tmp_path / "a.png")
    _, pixels = only(tmp_path)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert (float(pixels.min()), float(pixels.max())) == (-1.0, 1.0)
    assert torch.equal(pixels[:, :, :32], -torch.ones(3, 64, 32))  # channels first, x last


@pytest.mark.parametrize(
    ("mode", "value", "extension", "expected"),
    [
        ("RGB", (200, 100, 50), "png", [200, 100, 50]),
        ("RGB", (200, 100, 50), "bmp", [200, 100, 50]),
        ("RGB", (200, 100, 50), "webp", [200, 100, 50]),
        ("RGB", (200, 100, 50), "jpg", [200, 100, 50]),
        ("L", 77, "png", [77, 77, 77]),
        ("L", 77, "jpg", [77, 77, 77]),
        ("1", 1, "png", [255, 255, 255]),
        ("LA", (100, 0), "png", [255, 255, 255]),
        ("LA", (100, 255), "png", [100, 100, 100]),
        ("RGBA", (200, 100, 50, 0), "png", [255, 255, 255]),
        ("RGBA", (200, 100, 50, 255), "png", [200, 100, 50]),
        ("RGBA", (0, 100, 200, 51), "png", [204, 224, 244]),
        ("RGBA", (200, 100, 50, 0), "webp", [255, 255, 255]),
        ("CMYK", (0, 0, 0, 0), "jpg", [255, 255, 255]),
        ("CMYK", (0, 255, 255, 0), "jpg", [255, 0, 0]),
        ("I;16", 0, "png", [0, 0, 0]),
        ("I;16", 200, "png", [1, 1, 1]),
        ("I;16", 32768, "png", [128, 128, 128]),
        ("I;16", 65535, "png", [255, 255, 255]),
    ],
)
def test_modes(tmp_path: Path, mode: str, value: object, extension: str, expected: list[int]) -> None:
    Image.new(mode, (64, 64), value).save(tmp_path / f"a.{extension}", quality=100)
    _, pixels = only(tmp_path)
    assert max(abs(a - b) for a, b in zip(colour(pixels), expected, strict=True)) <= (4 if extension != "png" else 0)


def test_sixteen_bit_gradient_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    _, pixels = only(tmp_path)
    expected = torch.from_numpy(np.rint(ramp[0] / 257.0).astype(np.float32)) / 127.5 - 1
    assert torch.equal(pixels[0, 0], expected)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 64, 32))
    image.save(tmp_path / "a.png", transparency=transparency)
    _, pixels = only(tmp_path)
    assert colour(pixels[:, :32]) == [255, 255, 255]
    assert colour(pixels[:, 32:]) == [40, 50, 60]


def test_palette_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png")
    assert colour(only(tmp_path)[1]) == [40, 50, 60]
    assert not any("ransparent" in n for n in scanned(tmp_path).notices)


def test_transparent_colour_of_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert colour(only(tmp_path)[1]) == [255, 255, 255]


def test_transparency_is_said(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64)).save(tmp_path / "see through.png")
    assert any("white" in n and "see through.png" in n for n in scanned(tmp_path).notices)


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int, extension: str) -> None:
    """Store the picture turned so that a viewer shows red on the upper left, blue on the lower right."""
    upright = Image.new("RGB", (128, 64), "white")
    upright.paste("red", (0, 0, 32, 32))
    upright.paste("blue", (96, 32, 128, 64))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{extension}", exif=exif.tobytes(), quality=95)
    (picture,) = scanned(tmp_path, resolution=128).pictures
    assert picture.size == (128, 64)
    assert picture.bucket == (192, 64)
    pixels = load_picture(picture)
    scaled = upright.resize(picture.resized, Image.Resampling.LANCZOS)
    left, top = picture.crop
    wanted = np.asarray(scaled.crop((left, top, left + 192, top + 64)), np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert float((pixels - torch.from_numpy(wanted)).abs().mean()) < 0.06


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff\xff", b"no TIFF header", b"II"])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_damaged_exif_leaves_the_picture(tmp_path: Path, exif: bytes, extension: str) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / f"a.{extension}", exif=b"Exif\0\0" + exif)
    picture, pixels = only(tmp_path)
    assert picture.size == (64, 64)
    assert pixels.shape == (3, 64, 64)


@pytest.mark.parametrize("extension", ["webp", "png"])
def test_animated_gives_its_first_frame(tmp_path: Path, extension: str) -> None:
    red, blue = (Image.new("RGB", (64, 64), c) for c in ("red", "blue"))
    red.save(tmp_path / f"moving.{extension}", save_all=True, append_images=[blue], lossless=True)
    assert colour(only(tmp_path)[1]) == [255, 0, 0]
    assert any("first frame" in n and "moving" in n for n in scanned(tmp_path).notices)


def test_a_phones_second_jpeg_is_no_animation(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (64, 64), "blue")]
    )
    assert colour(only(tmp_path)[1])[0] > 250
    assert scanned(tmp_path).notices == ("No caption file: the caption is 'thing': a.jpg.",)


def test_avif_where_pillow_can(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    if ".avif" not in Image.registered_extensions():
        pytest.importorskip(
            "pillow_avif", reason="neither this Pillow nor pillow-avif-plugin can write AVIF to test with"
        )
    Image.new("RGB", (64, 64), (200, 100, 50)).save(path, quality=100)
    assert max(abs(a - b) for a, b in zip(colour(only(tmp_path)[1]), [200, 100, 50], strict=True)) <= 4


def test_cutting_equals_scaling_then_cropping(tmp_path: Path) -> None:
    """The one-step resampling against Pillow's two steps, on a real photograph."""
    from demo.pictures import write_pictures

    write_pictures(tmp_path)
    report = scanned(tmp_path, resolution=256)
    assert {p.bucket for p in report.pictures} == {(256, 256), (320, 192)}
    for picture in report.pictures:
        with Image.open(picture.path) as image:
            colours = image.convert("RGB")
        if profile := image.info.get("icc_profile"):  # the rocket's is a camera's
            colours = ImageCms.profileToProfile(colours, io.BytesIO(profile), ImageCms.createProfile("sRGB"))
        whole = colours.resize(picture.resized, Image.Resampling.LANCZOS)
        left, top = picture.crop
        part = whole.crop((left, top, left + picture.bucket[0], top + picture.bucket[1]))
        expected = torch.from_numpy(np.asarray(part, np.float32).transpose(2, 0, 1).copy()) / 127.5 - 1
        assert float((load_picture(picture) - expected).abs().max()) <= 4 / 127.5


def test_down_scaling_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    _, pixels = only(tmp_path)
    assert float(pixels.abs().max()) < 0.05  # grey; nearest neighbour would give -1 or 1


def test_time_ids_follow_sdxl(tmp_path: Path) -> None:
    Image.new("RGB", (301, 100)).save(tmp_path / "a.png")
    (picture,) = scanned(tmp_path, buckets=False).pictures
    assert picture.resized == (193, 64)
    assert picture.crop == (64, 0)
    assert picture.time_ids() == (100, 301, 0, 64, 64, 64)
    assert picture.time_ids(flipped=True) == (100, 301, 0, 65, 64, 64)
