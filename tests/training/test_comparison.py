"""A sheet: each file exactly as it paints in a prompt, the model given back bit for bit, whatever happens."""

from __future__ import annotations

import io
import threading
from functools import cache

import pytest
import torch
from PIL import Image
from training_runs import fingerprint, model

from lora_ext.adapters import LoraAdapter, Network
from lora_ext.config import SheetConfig
from lora_ext.errors import BadInput
from lora_ext.formats import NameTable, network_metadata, read_network, write_network
from lora_ext.live import CheckpointInfo, RenderRequest
from lora_ext.model import default_targets
from lora_ext.patching import Strengths
from lora_ext.training import contact_sheet as sheets
from lora_ext.training.comparison import MOST_PICTURES, Plan, Row, compare, plan
from lora_ext.training.contact_sheet import contact_sheet

SMALL = {"width": 64, "height": 64, "steps": 1}


@cache
def names(family="sd1"):
    return NameTable(model(family).table)


def lora(path, seed=0, family="sd1"):
    """A LoRA that shows, as a file."""
    generator = torch.Generator().manual_seed(seed)
    adapters = {}
    for layer in default_targets(model(family).table, conv=False)[::24]:
        adapter = LoraAdapter.create(layer.shape, 2, 2.0, generator)
        adapter.up.data.normal_(0, 0.3, generator=generator)
        adapters[layer.name] = adapter
    metadata = network_metadata(family=family, name=path.stem, rank=2, alpha=2.0)
    write_network(path, Network(path.stem, adapters, metadata), names(family), metadata, torch.float16)
    return path


@pytest.fixture
def two(tmp_path):
    return [lora(tmp_path / "cat-step000001.safetensors", 1), lora(tmp_path / "cat.safetensors", 2)]


def wanted(files, strengths=(0, 0.7), prompts=("a cat",), **more):
    return plan(files, list(strengths), list(prompts), {**SMALL, **more})


@cache
def opened(path):
    return read_network(path, names()).network


def by_hand(live, path, row):
    """The picture of a prompt with this file's tag."""
    request = RenderRequest(row.prompt, "", row.seed, 1, 7.0, 64, 64)
    network = opened(path)
    live.patcher.apply({network: Strengths(row.strength, row.strength)})
    try:
        return live.render(request).tobytes()
    finally:
        live.patcher.clear()


def test_every_cell_is_what_the_prompt_would_paint(two):
    live = model()
    before = fingerprint(live)
    sheet = wanted(two, (0, 0.7), ("a cat",), seed=3, pictures=2)
    painted = list(compare(live, sheet))
    assert fingerprint(live) == before
    assert len(painted) == sheet.total == 6
    assert [row.seed for row in sheet.rows] == [3, 3, 4, 4]
    assert [one.columns for one in painted[:3]] == [(0, 1), (0,), (1,)]  # the model alone once, for all columns
    for one in painted:
        for column in one.columns:
            assert one.image.tobytes() == by_hand(live, two[column], sheet.rows[one.row])
    assert len({one.image.tobytes() for one in painted}) == 6


def test_the_model_is_the_hosts_between_two_pictures(two):
    """With what the user had in the weights, and the lock free."""
    live = model()
    network = read_network(lora(two[0].with_name("mine.safetensors"), 5), names()).network
    live.patcher.apply({network: Strengths(0.5, 0.5)})
    try:
        before = fingerprint(live)
        for _ in compare(live, wanted(two)):
            free = []
            taker = threading.Thread(target=lambda free=free: free.append(live._lock.acquire(timeout=5)))
            taker.start()
            taker.join()
            assert free == [True]
            live._lock = threading.RLock()  # the thread that took it is gone
            assert fingerprint(live) == before
        assert fingerprint(live) == before
    finally:
        live.patcher.clear()


def test_a_sheet_that_is_broken_off_leaves_nothing_behind(two, monkeypatch):
    live = model()
    before = fingerprint(live)
    painting = compare(live, wanted(two))
    next(painting)
    next(painting)
    painting.close()
    assert fingerprint(live) == before

    def fail(request):
        raise RuntimeError("the sampler broke")

    painting = compare(live, wanted(two, (1,)))
    next(painting)
    monkeypatch.setattr(live, "render", fail)
    with pytest.raises(RuntimeError, match="sampler"):
        next(painting)
    assert fingerprint(live) == before


def test_too_little_memory_is_told_by_its_field(two, monkeypatch):
    live = model()
    before = fingerprint(live)

    def fail(request):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(live, "render", fail)
    with pytest.raises(BadInput, match=r"width: there is not enough memory .* 64x64"):
        list(compare(live, wanted(two, (1,))))
    assert fingerprint(live) == before


def test_another_checkpoint_ends_the_sheet(two, monkeypatch):
    live = model()
    painting = compare(live, wanted(two))
    next(painting)
    monkeypatch.setitem(vars(live), "checkpoint", CheckpointInfo("other", "other.safetensors", ""))
    before = fingerprint(live)
    with pytest.raises(BadInput, match=r"another checkpoint .* got other"):
        next(painting)
    assert fingerprint(live) == before


def test_a_picture_that_the_hosts_button_broke_off_is_left_out(two):
    pressed = iter([False, True])
    assert len(list(compare(model(), wanted(two), lambda: next(pressed)))) == 1


def test_files_that_are_gone_or_changed_are_named(two):
    for spoil, said in ((two[1].unlink, "is not there any more"), (lambda: lora(two[1], 9), "was changed")):
        lora(two[1], 2)
        painting = compare(model(), wanted(two, (1,)))
        next(painting)
        spoil()
        with pytest.raises(BadInput, match=f"files: the file cat {said}"):
            next(painting)
    with pytest.raises(BadInput, match="files: the file no is not there any more"):
        next(compare(model(), wanted([two[1], two[1].with_name("no.safetensors")])))


def test_files_of_another_family_or_damaged_are_named(tmp_path):
    other = lora(tmp_path / "big.safetensors", 1, "sdxl")
    damaged = tmp_path / "half.safetensors"
    damaged.write_bytes(other.read_bytes()[:2000])
    for path in (other, damaged):
        with pytest.raises(BadInput, match=f"files: the file {path.stem}: "):
            list(compare(model(), wanted([path], (1,))))


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    nan, tag = float("nan"), "a cat <lora:cat:1>"
    with pytest.raises(BadInput) as told:
        plan([], [0.5, nan, True, 1e9, "1"], ["a cat", tag, 3], {"steps": 0, "width": 65, "colour": "red"})
    fields = [problem.field for problem in told.value.problems]
    assert sorted(fields) == sorted(
        ["steps", "width", "colour", "files", *["strengths"] * 4, "prompts", "prompts"]
    )  # fmt: skip
    for empty in (None, [], "1", {}):
        with pytest.raises(BadInput, match="strengths"):
            plan([tmp_path], empty, ["a"], {})
        with pytest.raises(BadInput, match="prompts"):
            plan([tmp_path], [1], empty, {})


def test_a_sheet_has_an_end(tmp_path):
    files = [tmp_path / str(n) for n in range(40)]
    with pytest.raises(BadInput, match=rf"files: this would be 500 pictures; expected at most {MOST_PICTURES}"):
        plan(files[:5], [n / 100 for n in range(1, 101)], ["a"], {})
    with pytest.raises(BadInput, match="at most 64 of this size"):
        plan(files, [1], ["a", "b"], {"width": 2048, "height": 2048})
    assert plan(files, [0, -0.0, 1, 1.0], [" a ", "a", ""], {}).total == 41


def test_a_sheet_as_one_picture_is_labelled():
    rows = (Row("a cat, 猫, кот " * 30, 0.0, 1), Row("x" * 500, 0.7, 1))
    red = Image.new("RGB", (96, 64), (255, 0, 0))
    file = io.BytesIO()
    red.save(file, "PNG")
    cells = {(0, 0): file.getvalue(), (1, 0): file.getvalue(), (1, 1): file.getvalue()}
    sheet = Image.open(io.BytesIO(contact_sheet(["step 1\nloss 0.25", "final"], rows, cells, (96, 64))))
    reds = sum(count for count, colour in sheet.getcolors(1 << 20) if colour == (255, 0, 0))
    assert reds == 3 * 96 * 64
    assert sheet.crop((0, 60, 200, 200)).getcolors(1 << 16)[1:]  # something is written beside the rows
    assert sheet.info["comparison"].splitlines()[0] == "Columns: step 1, loss 0.25; final"
    assert "猫" in sheet.info["comparison"]


def test_a_huge_sheet_is_scaled_down(monkeypatch):
    monkeypatch.setattr(sheets, "MOST_PIXELS", 1 << 20)
    monkeypatch.setattr(sheets, "LONGEST_SIDE", 1500)
    file = io.BytesIO()
    Image.new("RGB", (1024, 1024)).save(file, "PNG")
    rows = [Row("a", 1.0, seed) for seed in range(20)]
    whole = Image.open(io.BytesIO(contact_sheet(["a"] * 20, rows, {(19, 19): file.getvalue()}, (1024, 1024))))
    assert max(whole.size) <= 1500
    assert whole.width * whole.height < 2 * 2**20


def test_a_plan_counts_the_model_alone_once(tmp_path):
    assert Plan((tmp_path, tmp_path), (Row("a", 0.0, 0), Row("a", 1.0, 0)), SheetConfig()).total == 3
