"""Settings of noise and loss: none is ignored by a training step."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from settings_table import about
from test_learner import batch, learner
from training_runs import config, model, pictures, run, same

from lora_ext.data import scan
from lora_ext.diffusion import NoiseSchedule
from lora_ext.errors import BadInput
from lora_ext.training import Notice
from lora_ext.training.check import check


def loss(tmp_path, family="sd1", given=None, **values):
    return learner(tmp_path, family, grown=False, **values).loss(given or batch(family, tokens=False)).item()


@about(
    "loss_type",
    "huber_schedule",
    "huber_c",
    "huber_scale",
    "min_snr_gamma",
    "debiased",
    "noise_offset",
    "noise_offset_random",
    "adaptive_noise_offset",
    "pyramid_levels",
    "pyramid_discount",
    "input_perturbation",
    "input_perturbation_random",
    "timestep_min",
    "timestep_max",
    "timestep_distribution",
    "timestep_mean",
    "timestep_spread",
)
@pytest.mark.parametrize(
    ("base", "values"),
    [
        ({}, {"loss_type": "huber"}),
        ({}, {"loss_type": "smooth_l1"}),
        ({}, {"loss_type": "l1"}),
        ({"loss_type": "huber"}, {"huber_schedule": "constant"}),
        ({"loss_type": "huber"}, {"huber_schedule": "exponential"}),
        ({"loss_type": "huber"}, {"huber_c": 0.5}),
        ({"loss_type": "huber", "huber_schedule": "constant"}, {"huber_scale": 3.0}),
        ({}, {"min_snr_gamma": 1.0}),
        ({}, {"debiased": True}),
        ({}, {"noise_offset": 0.1}),
        ({"noise_offset": 0.1}, {"noise_offset_random": True}),
        ({"noise_offset": 0.1}, {"adaptive_noise_offset": 0.1}),
        ({}, {"pyramid_levels": 4}),
        ({"pyramid_levels": 4}, {"pyramid_discount": 0.9}),
        ({}, {"input_perturbation": 0.1}),
        ({"input_perturbation": 0.1}, {"input_perturbation_random": True}),
        ({}, {"timestep_min": 900}),
        ({}, {"timestep_max": 100}),
        ({}, {"timestep_distribution": "sigmoid"}),
        ({}, {"timestep_distribution": "cosmap"}),
        ({"timestep_distribution": "logit_normal"}, {"timestep_mean": 2.0}),
        ({"timestep_distribution": "sigmoid"}, {"timestep_spread": 3.0}),
    ],
    ids=lambda v: ",".join(v) or "-",
)
def test_it_changes_the_loss(tmp_path, base, values):
    assert loss(tmp_path, **base, **values) != pytest.approx(loss(tmp_path, **base), rel=1e-6)


@about("scale_v_loss")
def test_scale_v_loss(tmp_path):
    assert loss(tmp_path, "sd2", scale_v_loss=True) != loss(tmp_path, "sd2")
    assert loss(tmp_path, "sd1", scale_v_loss=True) == loss(tmp_path, "sd1")
    pictures(tmp_path / "pictures")
    assert any("predicts noise already" in n.text for n in run(tmp_path, scale_v_loss=True, max_steps=1).of(Notice))


@about("v_pred_like_loss")
def test_v_pred_like_loss(tmp_path):
    assert loss(tmp_path, "sd1", v_pred_like_loss=0.5) > loss(tmp_path, "sd1")
    assert loss(tmp_path, "sd2", v_pred_like_loss=0.5) == loss(tmp_path, "sd2")
    pictures(tmp_path / "pictures")
    said = run(tmp_path, model("sd2"), v_pred_like_loss=0.5, max_steps=1).of(Notice)
    assert any("v-prediction model already" in n.text for n in said)


@about("zero_terminal_snr")
def test_zero_terminal_snr(tmp_path):
    made = learner(tmp_path, "sd2", zero_terminal_snr=True)
    assert made.schedule.alphas_cumprod[-1] == 0
    assert learner(tmp_path, "sd2").schedule.alphas_cumprod[-1] > 0
    pictures(tmp_path / "pictures")
    with pytest.raises(BadInput) as caught:
        run(tmp_path, zero_terminal_snr=True, timestep_min=999, timestep_max=999)
    assert [p.field for p in caught.value.problems] == ["timestep_min", "zero_terminal_snr"]


@about("masked_loss")
def test_masked_loss(tmp_path):
    given = batch(tokens=False)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :4] = 1.0
    masked = dataclasses.replace(given, mask=mask)
    assert loss(tmp_path, given=masked, masked_loss=True) < loss(tmp_path, given=masked, masked_loss=False)
    assert loss(tmp_path, given=masked) == loss(tmp_path, given=given)


@about("prior_weight")
def test_prior_weight(tmp_path, monkeypatch):
    pictures(tmp_path / "pictures")

    def with_one_to_keep(data):
        first, *rest = scan(data).pictures
        return dataclasses.replace(scan(data), pictures=(dataclasses.replace(first, regularisation=True), *rest))

    monkeypatch.setattr(sys.modules["lora_ext.training.check"], "scan", with_one_to_keep)
    runs = {
        weight: run(tmp_path / str(weight), images=str(tmp_path / "pictures"), max_steps=3, prior_weight=weight)
        for weight in (1.0, 0.25)
    }
    assert not same(runs[1.0].tensors, runs[0.25].tensors)


def test_what_is_drawn_for_a_batch_can_be_used_in_pieces(tmp_path):
    made, given = learner(tmp_path, pyramid_levels=3, input_perturbation=0.1), batch(tokens=False)
    draw = made.draw(given)
    assert torch.equal(draw[1:].noise.given, draw.noise.given[1:])
    assert torch.equal(draw[:1].timesteps, draw.timesteps[:1])


def test_a_schedule_shorter_than_the_range_is_noticed(tmp_path, monkeypatch):
    pictures(tmp_path / "pictures")
    live = model()
    monkeypatch.setattr(live, "alphas_cumprod", NoiseSchedule.default(steps=100).alphas_cumprod)
    with pytest.raises(BadInput, match="less than 100"):
        check(live, config(tmp_path, timestep_min=100), tmp_path / "x.safetensors")
