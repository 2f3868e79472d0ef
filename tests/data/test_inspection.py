"""The closer look before a run; colour profiles and EXIF in odd places."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, inspect, load_picture, scan
from lora_ext.data.likeness import groups_alike, look


def scanned(folder: Path, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"resolution": 64, "concept": "x", **settings}))


def photo(seed: int, size: tuple[int, int] = (200, 150)) -> Image.Image:
    low = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(low).resize(size, Image.Resampling.BICUBIC)


def test_the_same_picture_saved_otherwise_is_found(tmp_path: Path) -> None:
    for seed in range(6):
        photo(seed).save(tmp_path / f"{seed}.png")
    photo(2).save(tmp_path / "two again.jpg", quality=60)
    photo(4).resize((90, 70)).save(tmp_path / "small four.png")
    photo(4).point(lambda v: v * 0.9).save(tmp_path / "dark four.webp")
    found = inspect(scanned(tmp_path))
    assert {frozenset(group) for group in found.alike} == {
        frozenset({"2.png", "two again.jpg"}),
        frozenset({"4.png", "small four.png", "dark four.webp"}),
    }
    assert sum("Look the same" in line for line in found.lines()) == 2


def test_groups_are_those_of_comparing_each_with_each() -> None:
    dice = random.Random(0)
    looks = [dice.getrandbits(64) for _ in range(60)]
    for _ in range(60):
        one = dice.choice(looks)
        for bit in dice.sample(range(64), dice.randint(0, 5)):
            one ^= 1 << bit
        looks.append(one)
    near = {frozenset((i, j)) for i in range(120) for j in range(i) if (looks[i] ^ looks[j]).bit_count() <= 3}
    reached = {i: {i} for i in range(120)}
    for _ in range(20):
        for i, j in map(tuple, near):
            reached[i] |= reached[j]
            reached[j] |= reached[i]
    wanted = {frozenset(group) for group in reached.values() if len(group) > 1}
    assert {frozenset(group) for group in groups_alike(looks)} == wanted


def test_captions_too_long_damage_and_all_in_lines(tmp_path: Path) -> None:
    photo(0).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one two three four")
    photo(1).save(tmp_path / "b.png")
    data = (tmp_path / "b.png").read_bytes()
    photo(2, (128, 64)).save(tmp_path / "c.png")
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    found = inspect(scanned(tmp_path, repeats=3), lambda text: len(text.split()), longest=3)
    assert found.too_long == (("one two three four", 4),)
    assert found.damaged == ("b.png",)
    text = "\n".join(found.lines())
    for part in (
        "3 pictures, 9 seen per epoch",
        "64 x 64",
        "4 tokens, the model sees 3",
        "cannot be read: b.png",
        "No caption",
    ):
        assert part in text


def test_a_look_is_cheap(tmp_path: Path, monkeypatch) -> None:
    """A large JPEG is decoded small."""
    from PIL import JpegImagePlugin

    photo(0, (2048, 1536)).save(tmp_path / "large.jpg")
    sizes = []
    load = JpegImagePlugin.JpegImageFile.load
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", lambda self: sizes.append(self.size) or load(self))
    inspect(scanned(tmp_path))
    assert sizes
    assert max(sizes[0]) <= 512
    assert (look(photo(0, (2048, 1536))) ^ look(photo(0))).bit_count() <= 3


# Colour profiles


def swapped() -> bytes:
    """A profile in which red and blue change places: made from sRGB's by renaming its tags."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", data[128:132])[0]):
        at = 132 + 12 * i
        tag = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(tag, tag)
    return bytes(data).replace("sRGB".encode("utf-16-be"), "xBGR".encode("utf-16-be"))


def colour(folder: Path) -> list[int]:
    pixels = load_picture(scanned(folder).pictures[0])
    return [round(v) for v in ((pixels.mean((1, 2)) + 1) * 127.5).tolist()]


@pytest.mark.parametrize(
    ("mode", "extension"),
    [("RGB", "png"), ("RGB", "jpg"), ("RGB", "webp"), ("RGBA", "png"), ("RGBA", "webp"), ("P", "png")],
)
def test_pictures_become_srgb(tmp_path: Path, mode: str, extension: str) -> None:
    image = Image.new("RGB", (64, 64), "red").convert(mode)
    image.save(tmp_path / f"a.{extension}", icc_profile=swapped(), quality=100, lossless=True)
    red, _, blue = colour(tmp_path)
    assert (red < 20, blue > 235) == (True, True)
    assert not any("profile" in n for n in scanned(tmp_path).notices)


def test_srgb_stays_bit_for_bit(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo(3, (64, 64)).save(tmp_path / "a.png", icc_profile=profile)
    wanted = np.asarray(photo(3, (64, 64)), np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.array_equal(load_picture(scanned(tmp_path).pictures[0]).numpy(), wanted.astype(np.float32))


def test_a_profile_that_cannot_be_used_is_said(tmp_path: Path, monkeypatch) -> None:
    Image.new("RGB", (64, 64), (200, 100, 50)).save(tmp_path / "a.png", icc_profile=b"no profile at all")
    (notice,) = [n for n in scanned(tmp_path).notices if "profile" in n]
    assert "damaged" in notice
    assert "a.png" in notice
    assert colour(tmp_path) == [200, 100, 50]


def test_a_pillow_without_little_cms_is_said(tmp_path: Path, monkeypatch) -> None:
    from lora_ext.data import colour_profile

    class Missing:
        def ImageCmsProfile(self, _):
            raise ImportError("cannot import _imagingcms")

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png", icc_profile=swapped() + b"\0")
    colour_profile._look.cache_clear()
    import sys

    monkeypatch.setattr("PIL.ImageCms", Missing())
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", Missing())
    assert any("Little CMS" in n for n in scanned(tmp_path).notices)
    colour_profile._look.cache_clear()


def test_cmyk_with_a_profile_of_rgb_is_said(tmp_path: Path) -> None:
    Image.new("CMYK", (64, 64)).save(tmp_path / "a.jpg", icc_profile=swapped())
    assert any("does not fit" in n for n in scanned(tmp_path).notices)
    assert len(scanned(tmp_path).pictures) == 1


# EXIF behind the pixels


def with_late_exif(path: Path, orientation: int) -> None:
    data = path.read_bytes()
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    end = data.index(b"IEND") - 4
    path.write_bytes(data[:end] + chunk + data[end:])


def test_exif_behind_the_pixels_of_a_png_turns_it(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 128), "blue")
    image.paste("red", (0, 0, 64, 64))
    image.save(tmp_path / "a.png")
    with_late_exif(tmp_path / "a.png", 6)  # shown turned clockwise: red is then on the right
    (picture,) = scanned(tmp_path, resolution=128).pictures
    assert (picture.size, picture.orientation) == ((128, 64), 6)
    pixels = load_picture(picture)
    assert float(pixels[0, :, -8:].mean()) == 1.0
    assert float(pixels[0, :, :8].mean()) == -1.0


def test_a_png_cut_off_is_still_looked_through(tmp_path: Path) -> None:
    from lora_ext.data.png_chunks import late_exif

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.bin").write_bytes(b"GIF89a")
    assert late_exif(tmp_path / "b.bin") == b""
    for end in (8, 20, 33, len(data) - 12):
        (tmp_path / "a.png").write_bytes(data[:end])
        assert late_exif(tmp_path / "a.png") == b""
