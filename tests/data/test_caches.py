from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, LatentCache, TextCache, load_picture, scan
from lora_ext.errors import BadInput


@pytest.fixture
def report(tmp_path: Path) -> DataReport:
    """Five pictures in two buckets, each with a slope so that left and right differ."""
    for i in range(5):
        size = (128, 128) if i % 2 else (192, 64)
        image = Image.linear_gradient("L").rotate(90).resize(size).point(lambda v, i=i: v * (5 - i) // 5)
        image.save(tmp_path / f"{i}.png")
    return scan(DataConfig(images=str(tmp_path), concept="x", resolution=128))


def encode(pixels: Tensor) -> Tensor:
    assert pixels.dtype == torch.float32
    return torch.cat([torch.nn.functional.avg_pool2d(pixels, 8), pixels[:, :1, ::8, ::8]], 1).to(torch.bfloat16)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_latents_are_those_of_the_picture_and_its_mirror(report: DataReport, chunk: int) -> None:
    cache = LatentCache()
    progress = list(cache.build(report.pictures, encode, flip=True, chunk=chunk))
    assert progress[-1] == len(report.pictures) == len(cache)
    assert progress == sorted(set(progress))
    for picture in report.pictures:
        pixels = load_picture(picture)[None]
        plain, mirrored = cache.latents(picture), cache.latents(picture, flipped=True)
        assert torch.equal(plain, encode(pixels)[0])
        assert torch.equal(mirrored, encode(pixels.flip(-1))[0])
        assert not torch.equal(plain, mirrored)
        assert (plain.dtype, plain.device.type) == (torch.bfloat16, "cpu")
        assert plain.shape == (4, picture.bucket[1] // 8, picture.bucket[0] // 8)


def test_each_picture_is_encoded_once_and_no_chunk_mixes_sizes(report: DataReport) -> None:
    sizes: list[int] = []

    def counting(pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return encode(pixels)

    list(LatentCache().build(report.pictures, counting, flip=False, chunk=2))
    assert sizes == [2, 1, 2]  # three wide ones, two square ones


def test_a_batch_is_stacked_in_order(report: DataReport) -> None:
    cache = LatentCache()
    list(cache.build(report.pictures, encode, flip=True))
    one, other = report.pictures[1], report.pictures[3]
    batch = cache.batch([(one, True), (other, False)])
    assert torch.equal(batch, torch.stack([cache.latents(one, True), cache.latents(other)]))


def test_rows_do_not_keep_their_chunk_alive(report: DataReport) -> None:
    cache = LatentCache()
    list(cache.build(report.pictures, encode, flip=False, chunk=4))
    latents = cache.latents(report.pictures[0])
    assert latents.untyped_storage().nbytes() == latents.numel() * latents.element_size()


def test_no_mirror_unless_asked(report: DataReport) -> None:
    cache = LatentCache()
    list(cache.build(report.pictures, encode, flip=False))
    with pytest.raises(KeyError, match="without its mirror image"):
        cache.latents(report.pictures[0], flipped=True)


def test_values_that_are_not_finite_are_never_cached(report: DataReport) -> None:
    def overflowing(pixels: Tensor) -> Tensor:
        latents = encode(pixels)
        latents[0, 0, 0, 0] = float("nan")
        return latents

    with pytest.raises(BadInput, match=r"0\.png: the VAE gave values that are not finite"):
        list(LatentCache().build(report.pictures, overflowing, flip=False))


def test_encode_must_answer_for_every_picture(report: DataReport) -> None:
    with pytest.raises(ValueError, match="1 latents for 2 pictures"):
        list(LatentCache().build(report.pictures, lambda x: encode(x)[:1], flip=False, chunk=2))


def test_progress_comes_while_building(report: DataReport) -> None:
    cache = LatentCache()
    steps = cache.build(report.pictures, encode, flip=False)
    assert len(cache) == 0
    assert next(steps) == 1
    assert len(cache) == 1
    steps.close()  # stopping half-way is allowed
    assert len(cache) == 1


def test_every_caption_once() -> None:
    asked: list[list[str]] = []

    def text(captions: list[str]) -> list[str]:
        asked.append(captions)
        return [c.upper() for c in captions]

    cache: TextCache[str] = TextCache()
    assert list(cache.build(["a", "b", "a", "", "c"], text, chunk=2)) == [2, 4]
    assert asked == [["a", "b"], ["", "c"]]
    assert [cache[c] for c in ("c", "a", "", "b")] == ["C", "A", "", "B"]
    assert list(cache.build(["a", "d"], text)) == [5]
    assert asked[-1] == ["d"]
    assert len(cache) == 5


def test_every_caption_must_be_answered() -> None:
    with pytest.raises(ValueError, match="1 conditionings for 2 captions"):
        list(TextCache[int]().build(["a", "b"], lambda _: [1]))
