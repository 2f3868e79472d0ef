"""Caches on disk: the same latents again, and nothing that is damaged, foreign or out of date is believed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from lora_ext.config import DataConfig
from lora_ext.data import DataReport, LatentCache, Store, TextCache, fingerprint, scan
from lora_ext.data.background import ahead
from lora_ext.errors import BadInput


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.linear_gradient("L").rotate(90 * i).resize((64, 64)).point(lambda v, i=i: v * (4 - i) // 4).save(
            folder / f"{i}.png"
        )
    return folder


def scanned(folder: Path, **settings: object) -> DataReport:
    return scan(DataConfig(images=str(folder), **{"resolution": 64, "concept": "x", "flip": True, **settings}))


def store(folder: Path, identity: str = "vae 1") -> Store:
    return Store(folder / "cache", identity)


class Encoder:
    """Counts what it encodes."""

    def __init__(self, factor: float = 1.0) -> None:
        self.calls, self.factor = 0, factor

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls += len(pixels)
        return torch.nn.functional.avg_pool2d(pixels, 8).to(torch.float16) * self.factor


def built(report: DataReport, kept: Store | None, encoder: Encoder, threads: int = 1) -> list[torch.Tensor]:
    cache = LatentCache(kept, threads)
    list(cache.build(report.views(), encoder))
    assert not cache.skipped
    return [cache.latents(p, flipped) for p in report.pictures for flipped in (False, True)]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_the_second_run_encodes_nothing(pictures: Path, tmp_path: Path) -> None:
    report, first, second = scanned(pictures), Encoder(), Encoder(9)
    plain = built(report, None, Encoder())
    assert equal(built(report, store(tmp_path), first), plain)
    assert equal(built(report, store(tmp_path), second), plain)
    assert (first.calls, second.calls) == (8, 0)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "foreign", "renamed", "text", "nan"])
def test_bad_entries_are_made_anew(pictures: Path, tmp_path: Path, damage: str) -> None:
    report, again = scanned(pictures), Encoder()
    plain = built(report, store(tmp_path), Encoder())
    entries = sorted((tmp_path / "cache").glob("*.safetensors"))
    assert len(entries) == 4
    for path in entries:
        data = path.read_bytes()
        if damage == "cut":
            path.write_bytes(data[:-5])
        elif damage == "bit":
            at = 8 + int.from_bytes(data[:8], "little") + 101  # in the numbers, not in the digest
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "foreign":
            path.write_bytes(save({"plain": torch.zeros(4, 8, 8)}))
        elif damage == "renamed":
            path.write_bytes(entries[(entries.index(path) + 1) % 4].read_bytes())
        elif damage == "text":
            path.write_text("not this")
        else:
            tensors = load(data)
            tensors["plain"][0, 0, 0] = torch.nan
            path.write_bytes(save(tensors))
    assert equal(built(report, store(tmp_path), again), plain)
    assert again.calls == 8


def test_what_an_entry_depends_on(pictures: Path, tmp_path: Path) -> None:
    built(scanned(pictures), store(tmp_path), Encoder())

    def calls(folder: Path = pictures, identity: str = "vae 1", **settings: object) -> int:
        encoder, cache = Encoder(), LatentCache(store(tmp_path, identity))
        list(cache.build(scanned(folder, **settings).views(), encoder))
        return encoder.calls

    assert calls() == 0
    assert calls(identity="vae 2") == 8
    assert calls(flip=False) == 4
    assert calls(resolution=128) == 8
    assert calls(colour_jitter=0.5, variations=2) == 16
    (pictures / "0.png").write_bytes((pictures / "1.png").read_bytes())
    assert calls() == 0, "content counts, not the name"
    Image.new("RGB", (64, 64), "red").save(pictures / "0.png")
    assert calls() == 2
    Image.new("L", (64, 64), 9).save(pictures / "1-mask.png")
    assert calls() == 2
    Image.new("L", (64, 64), 99).save(pictures / "1-mask.png")
    assert calls() == 2


def test_a_full_disk_costs_nothing_but_the_cache(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    import tempfile

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    report, kept = scanned(pictures), store(tmp_path)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    assert equal(built(report, kept, Encoder()), built(report, None, Encoder()))
    assert kept.problem == "No space left on device"
    assert not list((tmp_path / "cache").iterdir())


def test_an_entry_that_goes_away_is_said(pictures: Path, tmp_path: Path) -> None:
    report, cache = scanned(pictures), LatentCache(store(tmp_path))
    list(cache.build(report.views(), Encoder()))
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="went away"):
        cache.latents(report.pictures[0])


def test_where_the_folder_is(pictures: Path, tmp_path: Path) -> None:
    assert Store.open(DataConfig(images=str(pictures)), "x") is None
    assert Store.open(DataConfig(images=str(pictures), cache="disk"), "x") is not None
    assert (pictures / ".lora-ext-cache").is_dir()
    assert len(scanned(pictures).pictures) == 4
    Store.open(DataConfig(images=str(pictures), cache="disk", cache_folder=str(tmp_path / "there")), "x")
    assert (tmp_path / "there").is_dir()
    with pytest.raises(BadInput) as caught:
        Store.open(DataConfig(images=str(pictures), cache="disk", cache_folder=str(pictures / "0.png")), "x")
    assert caught.value.problems[0].field == "cache_folder"


def test_fingerprints() -> None:
    one = {"a": torch.zeros(2), "b": torch.ones(2, dtype=torch.bfloat16)}
    others = [{**one, "a": torch.tensor([0.0, 1e-30])}, {"a": one["b"], "b": one["a"]}, {"a": one["a"]}]
    others.append({**one, "a": torch.zeros(2, 1)})
    assert fingerprint(one, 1) == fingerprint(dict(reversed(one.items())), 1)
    assert len({fingerprint(t, 1) for t in (one, *others)} | {fingerprint(one, 2)}) == 6


def test_texts_are_kept_too(tmp_path: Path) -> None:
    asked: list[str] = []

    def encode(captions: list[str]) -> list[torch.Tensor]:
        asked.extend(captions)
        return [torch.full((2,), float(len(c))) for c in captions]

    def cache(identity: str = "te") -> TextCache[torch.Tensor]:
        return TextCache(store(tmp_path, identity), lambda t: {"context": t}, lambda found: found["context"])

    list(cache().build(["a", "bb"], encode))
    second = cache()
    list(second.build(["a", "bb", "ccc"], encode))
    assert asked == ["a", "bb", "ccc"]
    assert [second[c][0].item() for c in ("a", "bb", "ccc")] == [1, 2, 3]
    list(cache("other").build(["a"], encode))
    assert asked[-1] == "a"
    strange = TextCache(store(tmp_path), lambda t: {"context": t}, lambda found: found["pooled"])
    list(strange.build(["a"], encode))
    assert asked[-2:] == ["a", "a"]
    second.keep(["bb"])
    assert ("a" in second, "bb" in second, len(second)) == (False, True, 1)
    with pytest.raises(ValueError, match="pack"):
        TextCache(store(tmp_path))


@pytest.mark.parametrize("threads", [1, 3])
def test_background_work_keeps_order_and_distance(threads: int) -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(i: int) -> int:
        with lock:
            begun.append(i)
        return i * i

    results = ahead(work, range(50), threads, room=4)
    for i, result in enumerate(results):
        assert result == i * i
        assert len(begun) <= i + 6
    assert len(begun) == 50


def test_background_work_stops_and_tells() -> None:
    begun: list[int] = []

    def work(i: int) -> int:
        begun.append(i)
        if i == 2:
            raise KeyError(i)
        return i

    results = ahead(work, range(1000), 2, room=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError):
        next(results)
    assert len(begun) < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("lora-ext-reading")]


def test_threads_decode_at_the_same_time_and_give_the_same(pictures: Path, monkeypatch) -> None:
    from lora_ext.data import latents

    report, plain = scanned(pictures), built(scanned(pictures), None, Encoder())
    meeting = threading.Barrier(3, timeout=20)
    load_picture = latents.load_picture

    def meet(picture):
        if picture.name != "3.png":
            meeting.wait()  # passes only when three are here at once
        return load_picture(picture)

    monkeypatch.setattr(latents, "load_picture", meet)
    assert equal(built(report, None, Encoder(), threads=3), plain)
