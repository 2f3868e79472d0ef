"""The prediction before the start, against what torch really keeps, allocates and writes."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import pytest
import torch
from measured_memory import MEASURES_PEAKS, encoding, full_size, on_meta, saved_by
from training_runs import config as small_config
from training_runs import model, run

from lora_ext.adapters import Network
from lora_ext.config import TrainConfig, read, settings
from lora_ext.errors import BadInput
from lora_ext.formats import NameTable, write_network
from lora_ext.model import detect, layer_table
from lora_ext.model.unet_parts import unet_parts
from lora_ext.training import Card, estimate
from lora_ext.training.creation import create_adapters
from lora_ext.training.estimate import STATE_BYTES, taped
from lora_ext.training.optimizers import KINDS, make_optimizer
from lora_ext.training.targets import plan

NEAR = 0.15
KINDS_OF_ADAPTER = {
    "lora": {},
    "locon": {"conv_rank": 8},
    "all layers": {"layers": "all"},
    "attention": {"layers": "attention"},
    "tucker": {"conv_rank": 8, "tucker": True},
    "pissa": {"init": "pissa", "rank": 4},
    "dora": {"dora": True},
    "loha": {"kind": "loha", "rank": 4},
    "lokr": {"kind": "lokr", "rank": 4},
    "oft": {"kind": "oft", "rank": 4},
    "ia3": {"kind": "ia3"},
    "full": {"kind": "full"},
    "norm": {"kind": "norm"},
    "norms too": {"train_norms": True},
    "dropout": {"dropout": 0.1},
    "rank dropout": {"rank_dropout": 0.1},
    "weight dropout": {"weight_dropout": 0.1},
}


def settings_of(**values):
    return read(TrainConfig, {"images": "-", "output": "x", **values})


@cache
def shaped(family, **_):
    """The published models' widths, levels and heads with fewer blocks on each level: as wide, but quick to walk."""
    arch = detect(full_size.tensors(family))
    fewer = {"sd1": {"res_blocks": 1}, "sdxl": {"res_blocks": 1, "depth": (0, 1, 2), "middle_depth": 2}}[family]
    return _with_table(replace(arch, unet=replace(arch.unet, **fewer)))


@cache
def single():
    """One level of SD1."""
    arch = detect(full_size.tensors("sd1"))
    return _with_table(replace(arch, unet=replace(arch.unet, channels=(320,), depth=(1,), heads=(8,), res_blocks=1)))


def _with_table(arch):
    tensors = {}
    for part in unet_parts(arch.unet):
        tensors[part.key] = torch.empty(part.shape, device="meta")
        if part.bias:
            tensors[part.bias] = torch.empty(part.shape[0], device="meta")
    return arch, layer_table(arch), tensors


def compared(given, values, precision, pixels, batch=1):
    """Predicted and measured: (saved, saved), (peak, peak)."""
    arch, table, tensors = given
    config = settings_of(resolution=pixels, batch_size=batch, **values)
    tape = taped(config, arch, table, Card(precision, precision))
    measured = on_meta(arch, table, tensors, config, precision, batch, pixels, pixels)
    return (tape.saved, measured.saved), (tape.peak, measured.peak)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("family", "precision"), [("sd1", torch.float32), ("sdxl", torch.bfloat16)])
def test_activations_of_published_models(family, precision, checkpointing):
    pixels = {"sd1": 512, "sdxl": 1024}[family]
    saved, peak = compared(shaped(family), {"checkpointing": checkpointing}, precision, pixels)
    assert saved[0] == pytest.approx(saved[1], rel=NEAR)
    assert saved[1] > 2**26
    if MEASURES_PEAKS:  # torch 2.1 does not tell when memory is free again
        assert peak[0] == pytest.approx(peak[1], rel=NEAR)


@pytest.mark.parametrize("name", KINDS_OF_ADAPTER)
def test_activations_of_every_kind_of_adapter(name):
    precision = torch.bfloat16 if MEASURES_PEAKS else torch.float32
    saved, peak = compared(single(), KINDS_OF_ADAPTER[name], precision, 256)
    assert saved[0] == pytest.approx(saved[1], rel=NEAR)
    if MEASURES_PEAKS and name != "full":  # whose gradients, which are counted apart, are larger than all the rest
        assert peak[0] == pytest.approx(peak[1], rel=NEAR)


def test_activations_of_a_batch_and_of_weights_in_float32():
    arch, table, tensors = single()
    config = settings_of(resolution=512, batch_size=3)
    measured = on_meta(arch, table, tensors, config, torch.bfloat16, 3, 512, 512, held=torch.float32)
    tape = taped(config, arch, table, Card(torch.bfloat16, torch.float32))
    assert tape.saved == pytest.approx(measured.saved, rel=NEAR)
    half = taped(config, arch, table, Card(torch.bfloat16, torch.bfloat16))
    assert tape.saved > half.saved, "autocast keeps half copies of float32 weights"


@pytest.mark.parametrize(
    ("family", "values"), [("sd1", {"text_encoder_lr": 1e-3}), ("sdxl", {}), ("sd1", {"checkpointing": True})], ids=str
)
def test_activations_of_a_real_step_on_this_cpu(tmp_path, family, values, monkeypatch):
    """A shrunken model with real numbers, text encoders too."""
    from lora_ext.training.learner import Learner

    live, found, loss = model(family), [], Learner.loss

    def counting(self, batch, draw=None):
        held = [*live.tensors.values(), *(p for a in self.adapters.values() for p in a.parameters())]
        out, saved = saved_by(lambda: loss(self, batch, draw), held)
        found.append(saved)
        return out

    monkeypatch.setattr(Learner, "loss", counting)
    run(tmp_path, live, max_steps=1, resolution=128, **values)
    config = small_config(tmp_path, resolution=128, **values)
    tape = taped(config, live.architecture, live.table, Card(torch.float32, torch.float32))
    assert tape.saved == pytest.approx(found[0], rel=NEAR)


@pytest.mark.parametrize(
    ("family", "pixels", "checkpointing", "tflop"),
    [("sd1", 512, False, 1.80), ("sd1", 512, True, 2.60), ("sdxl", 1024, False, 14.7), ("sdxl", 1024, True, 21.5)],
)
def test_work_of_a_step(family, pixels, checkpointing, tflop):
    """Figures counted by torch on the full models."""
    arch = detect(full_size.tensors(family))
    started = time.perf_counter()
    found = estimate(settings_of(resolution=pixels, checkpointing=checkpointing), arch, layer_table(arch))
    assert found.step_flops == pytest.approx(tflop * 1e12, rel=0.05)
    assert time.perf_counter() - started < 5, "a form asks for it at every change"


@pytest.mark.parametrize("name", [name for name in KINDS if name in STATE_BYTES])
def test_what_optimizers_remember(name):
    config = settings_of(optimizer=name, learning_rate=1.0)
    parameter = torch.nn.Parameter(torch.ones(256, 256))
    try:
        optimizer = make_optimizer([([parameter], 1e-3)], config.optim, torch.device("cpu"))
    except BadInput as e:
        pytest.skip(f"OPTIMIZER NOT MEASURED: {e}")
    parameter.grad = torch.ones(256, 256)
    getattr(optimizer, "train", lambda: None)()
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError) as e:
        pytest.skip(f"OPTIMIZER NOT MEASURED, it needs a card: {e}")
    held = sum(t.numel() * t.element_size() for t in optimizer.state[parameter].values() if torch.is_tensor(t))
    assert held / parameter.numel() == pytest.approx(STATE_BYTES[name], abs=0.2)


@pytest.mark.parametrize("name", ["lora", "locon", "tucker", "dora", "loha", "lokr", "oft", "ia3", "norm", "norms too"])
def test_the_file_has_the_predicted_size(name, tmp_path):
    arch, table, _ = shaped("sd1")
    config = settings_of(**KINDS_OF_ADAPTER[name])
    planned = plan(table, config)
    ones = {t.layer.key: torch.ones(()).expand(_whole(t.layer)) for t in planned}
    network = Network("x", create_adapters(planned, config.network, ones, torch.Generator()), identity="x")
    metadata = dict(run(tmp_path / "run", max_steps=1).metadata)
    write_network(tmp_path / "x.safetensors", network, NameTable(table), metadata, torch.float16)
    written = (tmp_path / "x.safetensors").stat().st_size
    assert estimate(config, arch, table).file_bytes == pytest.approx(written, rel=0.01)


def _whole(layer):
    return layer.shape if layer.rows is None else (layer.rows[1], *layer.shape[1:])


def test_the_parts_add_up_and_each_setting_moves_its_own():
    arch, table, _ = shaped("sd1")

    def parts(card=None, **values):
        found = estimate(settings_of(**values), arch, table, None, card or Card())
        assert sum(part.bytes for part in found.parts) == found.peak_vram_bytes
        return {part.name: part.bytes for part in found.parts}

    plain = parts()
    assert "Text encoders" not in plain
    assert parts(text_encoder_lr=1e-4)["Text encoders"] > 2**27
    assert parts(ema_decay=0.99)["Running average"] == plain["Adapters"]
    assert parts(optimizer="adamw8bit")["Optimizer"] == plain["Optimizer"] // 4
    assert parts(rank=64)["Adapters"] == 2 * plain["Adapters"]
    assert parts(learning_rate=0, text_encoder_lr=1e-4)["Gradients"] < plain["Gradients"]
    assert parts(Card(weights=torch.float32))["UNet"] == 2 * plain["UNet"]
    assert parts(batch_size=4)["Activations"] == pytest.approx(4 * plain["Activations"], rel=0.1)
    assert parts(resolution=1024)["Activations"] > 3.5 * plain["Activations"]


def test_small_runs_need_most_while_pictures_are_prepared():
    arch, table, _ = shaped("sdxl")
    small = {"resolution": 1024, "rank": 1, "checkpointing": True, "base_weights": "4bit"}
    parts = {part.name: part.bytes for part in estimate(settings_of(**small), arch, table).parts}
    if MEASURES_PEAKS:
        measured = encoding(arch, full_size.tensors("sdxl"), 1024)
        assert parts["Activations while preparing pictures"] == pytest.approx(measured, rel=NEAR)
    assert set(parts) == {"VAE", "Activations while preparing pictures"}


def test_an_optimizer_that_is_undone_needs_copies_while_it_steps():
    arch, table, _ = shaped("sd1")
    values = {"checkpointing": True, "rank": 512, "resolution": 256}
    blind, fused = (
        {part.name: part.bytes for part in estimate(settings_of(optimizer=name, **values), arch, table).parts}
        for name in ("adamw_schedulefree", "adamw")
    )
    assert blind["Copies while stepping"] == 3 * fused["Adapters"]
    assert "Activations" in fused


def test_few_bits_make_the_unet_small():
    arch, table, _ = shaped("sdxl")
    sizes = []
    for bits in ("as_loaded", "8bit", "4bit"):
        found = estimate(settings_of(base_weights=bits, resolution=1024), arch, table)
        sizes.append(next(part.bytes for part in found.parts if part.name == "UNet"))
    assert 0.5 < sizes[1] / sizes[0] < 0.75
    assert 0.25 < sizes[2] / sizes[0] < 0.6


def test_what_does_not_fit_is_told_with_what_to_change():
    arch, table, _ = shaped("sdxl")
    wanted = settings_of(resolution=1024, batch_size=4, text_encoder_lr=1e-5)
    known = set(settings(TrainConfig))
    tight = estimate(wanted, arch, table, None, Card(free_bytes=2**32))
    assert tight.fits is False
    assert {"checkpointing", "batch_size", "resolution", "text_encoder_lr"} <= {a.field for a in tight.advice} <= known
    assert all("GB instead of" in advice.text for advice in tight.advice)
    assert estimate(wanted, arch, table, None, Card(free_bytes=2**40)).advice == ()
    assert estimate(wanted, arch, table).fits is None


def test_time_comes_from_a_measured_rate():
    arch, table, _ = shaped("sd1")
    found = estimate(settings_of(max_steps=10, accumulate=2), arch, table, None, Card(flops=1e12))
    assert found.seconds_per_step == pytest.approx(found.step_flops / 1e12)
    assert found.total_seconds == pytest.approx(10 * found.seconds_per_step)
    assert estimate(settings_of(), arch, table).seconds_per_step is None
