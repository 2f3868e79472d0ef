"""Settings about memory: where it is bounded, the result is the same."""

from __future__ import annotations

import os
import sys
import time

import fake_bitsandbytes
import pytest
import torch
from diffusers import UNet2DConditionModel
from settings_table import about
from training_runs import config, contents, fingerprint, model, pictures, run, same

from lora_ext.config import MemoryConfig, TrainConfig, read
from lora_ext.data.store_size import DAY
from lora_ext.errors import BadInput
from lora_ext.training import Card, Finished, Notice, Stage, Stop, train
from lora_ext.training.arranged import arrange
from lora_ext.training.estimate import taped
from lora_ext.training.small_weights import SmallLinear, check_small

SHUFFLED = {"shuffle_tags": True, "caption_dropout": 0.2, "repeats": 2, "epochs": 3, "max_steps": 0}


def tagged(folder):
    """Pictures with captions that have an order to lose."""
    there = pictures(folder)
    for n, path in enumerate(sorted(there.glob("*.txt"))):
        path.write_text(f"cat {n}, red, big, on a sofa, at night", encoding="utf8")
    return str(there)


def watched(monkeypatch):
    """How many captions are held encoded whenever a batch is put together."""
    from lora_ext.training.material import Material

    held, batch = [], Material.batch
    monkeypatch.setattr(
        Material, "batch", lambda self, s, d: held.append(len(self.supply.conditioning)) or batch(self, s, d)
    )
    return held


def encodings(result):
    """After how many steps captions were encoded."""
    steps, found = 0, []
    for event in result.events:
        if isinstance(event, Stage) and event.name == "Caching captions" and event.done == 0:
            found.append(steps)
        steps += hasattr(event, "learning_rate")
    return found


@about("caption_memory")
def test_captions_that_would_fill_the_memory_are_encoded_by_epoch(tmp_path, monkeypatch):
    images, held = tagged(tmp_path / "pictures"), watched(monkeypatch)
    whole = run(tmp_path / "a", images=images, **SHUFFLED)
    most = max(held)
    held.clear()
    bounded = run(tmp_path / "b", images=images, caption_memory=0.0, **SHUFFLED)
    assert encodings(whole) == [0]
    assert encodings(bounded) == [0, 0, 6, 12]
    assert max(held) < most
    assert same(bounded.tensors, whole.tensors)


def test_what_varies_is_the_same_after_a_resume(tmp_path):
    images = tagged(tmp_path / "pictures")
    values = {**SHUFFLED, "images": images, "caption_memory": 0.0, "state_every": 1}
    whole = run(tmp_path / "a", **values)
    run(tmp_path / "b", **{**values, "max_steps": 8})
    resumed = run(tmp_path / "b", **values, resume=True)
    assert encodings(resumed) == [0, 0, 4], "epochs that are over are passed by"
    assert same(resumed.tensors, whole.tensors)


def test_long_captions_and_a_learning_text_encoder_by_epoch(tmp_path):
    images = tagged(tmp_path / "pictures")
    values = {**SHUFFLED, "images": images, "epochs": 2, "caption_tokens": "150"}
    run(tmp_path / "a", caption_memory=0.0, **values)
    learnt = [
        run(tmp_path / name, caption_memory=memory, text_encoder_lr=1e-3, **values)
        for name, memory in (("b", 0.0), ("c", 1.0))
    ]
    assert encodings(learnt[0]) == []
    assert same(learnt[0].tensors, learnt[1].tensors)


def test_stopping_while_captions_are_encoded_keeps_what_was_learnt(tmp_path):
    images, before = tagged(tmp_path / "pictures"), fingerprint(model())
    work = train(
        model(), config(tmp_path, images=images, caption_memory=0.0, **SHUFFLED), output=tmp_path / "x.safetensors"
    )
    seen = 0
    for event in work:
        seen += hasattr(event, "learning_rate")
        if seen == 6 and isinstance(event, Stage) and event.name == "Caching captions":
            break
    rest = [work.throw(Stop()), *work]
    assert rest[-1] == Finished(6, "stopped")
    assert contents(tmp_path / "x.safetensors")[0]
    assert fingerprint(model()) == before


@about("cache_limit")
def test_the_cache_folder_keeps_its_size(tmp_path):
    def left(**values):
        run(tmp_path, cache="disk", max_steps=1, overwrite=True, **values)
        return {p.name for p in (tmp_path / "pictures" / ".lora-ext-cache").iterdir()}

    first = left()
    then = time.time() - 2 * DAY
    for name in first:
        os.utime(tmp_path / "pictures" / ".lora-ext-cache" / name, (then, then))
    assert len(left(resolution=128)) > len(first), "20 GB are not full"
    for name in first:
        os.utime(tmp_path / "pictures" / ".lora-ext-cache" / name, (then, then))
    after = left(resolution=128, cache_limit=1e-6)
    assert after
    assert len(first - after) == 3, "the latents of the smaller pictures; captions are in use"


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    from lora_ext.data import Store

    def full(self, key, tensors):
        self.problem = "No space left on device"
        return False

    monkeypatch.setattr(Store, "put", full)
    result = run(tmp_path, cache="disk", max_steps=1)
    told = [n.text for n in result.of(Notice) if "No space left" in n.text]
    assert len(told) == 2, "pictures and captions"
    assert result.path.is_file()


@pytest.fixture(params=["fake", "real"])
def bitsandbytes(request, monkeypatch):
    """The package where it is installed and has CPU kernels, and a stand-in everywhere."""
    if request.param == "fake":
        fake_bitsandbytes.install(monkeypatch)
    else:
        try:
            problems = list(check_small("4bit", torch.device("cpu")))
        except ImportError as e:
            problems = [e]
        if problems:
            pytest.skip(f"BITSANDBYTES NOT TESTED, a stand-in is: {problems[0]}")


@about("base_weights")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_weights_in_few_bits(tmp_path, bitsandbytes, bits):
    """Trained nearly alike, close to what the rounding of the weights allows; the model is as it was."""
    live = model()
    before = fingerprint(live)
    plain = run(tmp_path, max_steps=3)
    small = run(tmp_path / "small", images=str(tmp_path / "pictures"), max_steps=3, base_weights=bits)
    assert fingerprint(live) == before
    assert not same(small.tensors, plain.tensors)
    for mine, exact in zip(small.steps, plain.steps, strict=True):
        assert mine.loss == pytest.approx(exact.loss, rel={"8bit": 0.02, "4bit": 0.2}[bits])
        assert mine.loss != exact.loss


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "ia3"},
        {"dora": True},
        {"kind": "oft"},
        {"kind": "full"},
        {"precision": "bf16", "checkpointing": True, "text_encoder_lr": 1e-3},
        {"dropout": 0.1, "preview_prompt": "a cat", "preview_every": 1},
    ],
    ids=str,
)
def test_few_bits_go_with_everything(tmp_path, monkeypatch, values):
    fake_bitsandbytes.install(monkeypatch)
    live = model()
    before = fingerprint(live)
    plain = run(tmp_path, max_steps=1, **values)
    small = run(tmp_path / "small", images=str(tmp_path / "pictures"), max_steps=1, base_weights="8bit", **values)
    assert small.steps[0].loss == pytest.approx(plain.steps[0].loss, rel=0.05)
    assert fingerprint(live) == before


def test_a_layer_in_few_bits_gives_the_gradients_of_what_it_holds(bitsandbytes):
    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 64)
    small = SmallLinear(layer, "4bit")
    exact = torch.nn.functional.linear
    x, y = (torch.randn(5, 128, requires_grad=True) for _ in range(2))
    y.data.copy_(x.data)
    out, wanted = small(x), exact(y, small.weight, layer.bias)
    assert torch.allclose(out, wanted, atol=1e-6)
    (out.square().sum()).backward()
    (wanted.square().sum()).backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-4)
    assert (small.weight - layer.weight).norm() < 0.2 * layer.weight.norm()
    assert small.outline.shape == layer.weight.shape
    held = small.codes.numel() * small.codes.element_size()
    assert held <= layer.weight.numel(), "a byte each at most"


def test_what_few_bits_need_is_named_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(BadInput) as caught:
        run(tmp_path, base_weights="4bit")
    (problem,) = caught.value.problems
    assert problem.field == "base_weights"
    assert "pip install" in problem.fix
    fake_bitsandbytes.install(monkeypatch)

    def without_card(*_, **__):
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(sys.modules["bitsandbytes.functional"], "quantize_4bit", without_card)
    with pytest.raises(BadInput, match="NVIDIA card") as caught:
        run(tmp_path, base_weights="4bit")
    assert [p.field for p in caught.value.problems] == ["base_weights"]


def test_an_optimizer_in_8_bits_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    for name in ("adamw8bit", "paged_adamw8bit"):
        with pytest.raises(BadInput, match="bitsandbytes is not installed") as caught:
            run(tmp_path, optimizer=name)
        assert {p.field for p in caught.value.problems} == {"optimizer"}
        assert any("pip install" in p.fix for p in caught.value.problems)


@about("attention")
def test_attention(tmp_path, monkeypatch):
    with pytest.raises(BadInput) as caught:
        run(tmp_path, attention="xformers")
    assert [p.field for p in caught.value.problems] == ["attention"]
    chosen = []
    unet = UNet2DConditionModel(**SMALL)
    monkeypatch.setattr(unet, "enable_xformers_memory_efficient_attention", lambda: chosen.append(unet))
    arrange(unet, MemoryConfig(), "")
    assert not chosen
    arrange(unet, MemoryConfig(attention="xformers"), "")
    assert chosen == [unet]


def test_plain_attention_says_the_same_as_the_fused(monkeypatch):
    """What bfloat16 on a CPU trains with under torch 2.1, where the fused one's backward pass spoils memory."""
    unet = UNet2DConditionModel(**SMALL)
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8)
    arrange(unet, MemoryConfig(), "")
    fused = unet(x, 7, text).sample
    arrange(unet, MemoryConfig(), "", fused=False)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)  # calling it would be an error
    plain = unet(x, 7, text).sample
    assert torch.allclose(plain, fused, atol=1e-5)


SMALL = {
    "block_out_channels": (32, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
}


@about("checkpointing_where")
def test_checkpointing_of_a_part(tmp_path):
    def on(where):
        unet = UNet2DConditionModel(**SMALL)
        arrange(unet, MemoryConfig(), where)
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        return [{m.gradient_checkpointing for m in b.modules() if hasattr(m, "gradient_checkpointing")} for b in blocks]

    yes, no = {True}, {False}
    assert on("") == [no] * 7
    assert on("all") == [yes] * 7
    assert on("large") == [yes, no, no, no, no, no, yes]
    assert on("small") == [no, yes, yes, yes, yes, yes, no]
    arch, table = model().architecture, model().table

    def activations(**values):
        values = {"images": "-", "output": "x", "resolution": 512, **values}
        return taped(read(TrainConfig, values), arch, table).saved

    parts = [activations(checkpointing=True, checkpointing_where=where) for where in ("all", "large", "small")]
    assert parts[0] < min(parts[1:])
    assert max(parts) < activations()


def test_a_part_becomes_the_whole_when_memory_runs_out(tmp_path, monkeypatch):
    from lora_ext.training.learner import Learner

    loss = Learner.loss

    def full(self, batch, draw=None):
        if not self.checkpointing:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss(self, batch, draw)

    monkeypatch.setattr(Learner, "loss", full)
    result = run(tmp_path, checkpointing=True, checkpointing_where="large", max_steps=1)
    assert any("gradient checkpointing is on" in n.text for n in result.of(Notice))


def test_a_card_that_is_too_small_is_told_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(Card, "of", lambda model, precision: Card(torch.float32, torch.float32, free_bytes=2**20))
    told = [n.text for n in run(tmp_path, max_steps=1).of(Notice) if "GB are free" in n.text]
    assert len(told) == 1
    assert "gradient checkpointing" in told[0]
    monkeypatch.setattr(Card, "of", lambda model, precision: Card(free_bytes=2**40))
    assert not any("GB are free" in n.text for n in run(tmp_path / "large", max_steps=1).of(Notice))
