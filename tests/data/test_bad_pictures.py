"""Each bad picture a user can have: named with its reason, never the end of a run."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, LatentCache, load_picture, scan
from lora_ext.errors import BadInput

SAVE = {"png": {}, "jpg": {"quality": 95}, "webp": {"lossless": True}, "bmp": {}}


def scanned(folder: Path) -> DataReport:
    return scan(DataConfig(images=str(folder), concept="thing", resolution=64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good picture."""
    Image.new("RGB", (64, 64), "green").save(tmp_path / "good.png")
    return tmp_path


def noise(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **SAVE[path.suffix[1:]])
    return path.read_bytes()


def cached(report: DataReport) -> tuple[LatentCache, DataReport]:
    cache = LatentCache()
    list(cache.build(report.pictures, lambda x: torch.nn.functional.avg_pool2d(x, 8), flip=False))
    return cache, report.without(cache.skipped)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("zero.png", b"", "empty"),
        ("text.jpg", b"<html>not found</html>", "no picture"),
        ("random.webp", bytes(range(256)) * 4, "no picture"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0", "cannot be read"),
        ("huge.png", png_header(20_000, 20_000), "megapixels"),
        ("dot.png", png_header(1, 1), "1x1 px is too small"),
        ("thread.png", png_header(4000, 3), "4000x3 px is too small"),
    ],
)
def test_unusable_files_are_skipped_and_named_at_once(folder: Path, name: str, data: bytes, reason: str) -> None:
    (folder / name).write_bytes(data)
    report = scanned(folder)
    assert [p.name for p in report.pictures] == ["good.png"]
    (skipped,) = report.skipped
    assert skipped.name == name
    assert reason in skipped.reason
    assert sum(name in n and reason in n for n in report.notices) == 1


@pytest.mark.parametrize("limit", [None, 89_478_485])
def test_too_many_pixels_even_when_the_host_lifted_pillows_limit(folder: Path, monkeypatch, limit: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    (folder / "huge.png").write_bytes(png_header(20_000, 20_000))
    (skipped,) = scanned(folder).skipped
    assert "at most 178 megapixels" in skipped.reason


def test_twenty_thousand_pixels_on_one_side_are_fine(folder: Path) -> None:
    Image.new("RGB", (20_000, 40), "red").save(folder / "long.png")
    report = scanned(folder)
    picture = report.pictures[1]
    assert picture.bucket == (128, 64) or picture.bucket[0] * picture.bucket[1] <= 64 * 64
    assert load_picture(picture).shape == (3, picture.bucket[1], picture.bucket[0])
    assert any("cut off" in n and "long.png (20000x40)" in n for n in report.notices)


@pytest.mark.parametrize("extension", SAVE)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("lenient_host", [False, True])
def test_truncated_pixels_show_at_cache_time(folder: Path, extension, share, lenient_host, monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient_host)
    path = folder / f"cut.{extension}"
    data = noise(path)
    path.write_bytes(data[: int(len(data) * share)])
    _, report = cached(scanned(folder))
    assert [p.name for p in report.pictures] == ["good.png"]
    assert [s.name for s in report.skipped] == [path.name]
    assert "cannot be read" in report.skipped[0].reason
    assert lenient_host == ImageFile.LOAD_TRUNCATED_IMAGES, "the host's setting was not given back"


@pytest.mark.parametrize("extension", SAVE)
def test_any_damage_is_survived(folder: Path, extension: str) -> None:
    """Flip bytes all over the file: whatever Pillow thinks of it, nothing but a skip may come of it."""
    path = folder / f"bad.{extension}"
    good = noise(path)
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), int(rng.choice([64, 1024, len(data)]))), 6):
            data[at] = int(rng.integers(0, 256))
        path.write_bytes(data)
        _, report = cached(scanned(folder))
        assert "good.png" in {p.name for p in report.pictures}
        assert {p.name for p in report.pictures} | {s.name for s in report.skipped} == {"good.png", path.name}


def test_a_file_that_went_away_is_skipped(folder: Path) -> None:
    noise(folder / "gone.png")
    report = scanned(folder)
    (folder / "gone.png").unlink()
    _, report = cached(report)
    assert [s.name for s in report.skipped] == ["gone.png"]
    assert str(folder) not in report.skipped[0].reason


def test_a_file_that_changed_is_skipped(folder: Path) -> None:
    noise(folder / "b.png")
    report = scanned(folder)
    Image.new("RGB", (200, 90)).save(folder / "b.png")
    _, report = cached(report)
    assert "changed" in report.skipped[0].reason


def test_nothing_left_at_scan(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"x")
    with pytest.raises(BadInput) as e:
        scanned(tmp_path)
    (problem,) = e.value.problems
    assert problem.field == "images"
    assert "a.png" in problem.fix
    assert "b.jpg" in problem.fix


def test_nothing_left_at_cache_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    data = noise(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match="none of the pictures") as e:
        cached(scanned(tmp_path))
    assert e.value.problems[0].field == "images"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_unreadable_picture(folder: Path, monkeypatch) -> None:
    """Like `chmod 000`, which does not bind when the tests run as root."""
    noise(folder / "locked.png")
    real = Image.open

    def refuse(path, *args, **kwargs):
        if Path(path).name == "locked.png":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Image, "open", refuse)
    (skipped,) = scanned(folder).skipped
    assert skipped.reason == "the file cannot be read: Permission denied"


def test_a_wrong_extension_is_no_matter(folder: Path) -> None:
    Image.new("RGB", (64, 64)).save(folder / "really a jpeg.png", format="JPEG")
    assert len(scanned(folder).pictures) == 2


def test_avif_without_a_reader_is_said(folder: Path, monkeypatch) -> None:
    (folder / "a.avif").write_bytes(b"whatever")
    known = {e: f for e, f in Image.registered_extensions().items() if e != ".avif"}
    monkeypatch.setattr(Image, "registered_extensions", lambda: known)
    (skipped,) = scanned(folder).skipped
    assert (skipped.name, skipped.reason) == ("a.avif", "this Pillow cannot read .avif; convert it to png")


def test_kinds_that_are_not_read_are_said(folder: Path) -> None:
    for name in ("a.heic", "b.TIFF", "notes.md"):
        (folder / name).write_bytes(b"x")
    report = scanned(folder)
    assert [skipped.name for skipped in report.skipped] == ["a.heic", "b.TIFF"]  # each has a tile in the tab
    (notice,) = [n for n in report.notices if "not read" in n]
    assert "a.heic" in notice
    assert "b.TIFF" in notice
    assert "notes.md" not in notice


def test_small_pictures_are_said_to_be_scaled_up(folder: Path) -> None:
    Image.new("RGB", (40, 40)).save(folder / "small.png")
    (notice,) = [n for n in scanned(folder).notices if "scaled up" in n]
    assert "small.png (40x40)" in notice
    assert "good" not in notice
