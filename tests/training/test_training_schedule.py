"""How long a run is and how its learning rate goes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.config import OptimConfig
from lora_ext.training.schedule import Length, epoch_ends, rate_factor


def rates(total, **optim):
    return [rate_factor(step, total, OptimConfig(**optim)) for step in range(1, total + 1)]


def test_constant_is_constant():
    assert rates(5) == [1.0] * 5


def test_warmup_rises_evenly_from_almost_nothing():
    assert rates(6, warmup=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_cosine_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.AdamW([parameter], lr=1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=20)
    want = []
    for _ in range(20):
        want.append(adam.param_groups[0]["lr"])
        adam.step()
        peer.step()
    assert rates(20, schedule="cosine") == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"schedule": "linear"}, ("get_linear_schedule_with_warmup", {})),
        ({"schedule": "cosine"}, ("get_cosine_schedule_with_warmup", {})),
        (
            {"schedule": "cosine_with_restarts", "schedule_cycles": 3},
            ("get_cosine_with_hard_restarts_schedule_with_warmup", {"num_cycles": 3}),
        ),
        (
            {"schedule": "polynomial", "schedule_power": 2.5},
            ("get_polynomial_decay_schedule_with_warmup", {"power": 2.5, "lr_end": 0.0}),
        ),
    ],
)
def test_schedules_are_transformers(ours, theirs):
    optimization = pytest.importorskip("transformers.optimization", reason="transformers is the peer")
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name, more = theirs
    peer = getattr(optimization, name)(adam, num_warmup_steps=0, num_training_steps=20, **more)
    want = []
    for _ in range(20):
        want.append(adam.param_groups[0]["lr"])
        adam.step()
        peer.step()
    assert rates(20, **ours) == pytest.approx(want, abs=1e-9)


def test_the_longer_warmup_counts():
    assert rates(10, warmup=2, warmup_percent=30.0)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates(10, warmup=4, warmup_percent=30.0)[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])


FALLING = ["constant", "linear", "cosine", "polynomial", "rex"]


@given(st.integers(1, 300), st.integers(0, 400), st.sampled_from(FALLING))
def test_factors_stay_in_range_and_fall_only_after_the_warmup(total, warmup, schedule):
    got = rates(total, warmup=warmup, schedule=schedule)
    assert all(0 < f <= 1 for f in got)
    top = min(warmup + 1, total)
    assert got[:top] == sorted(got[:top])
    assert got[top:] == sorted(got[top:], reverse=True)


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 7))
def test_epochs_decide_the_length(batches, accumulate, epochs):
    length = Length.of(batches, OptimConfig(accumulate=accumulate, epochs=epochs))
    assert length.steps_per_epoch == math.ceil(batches / accumulate)
    assert length.total == epochs * length.steps_per_epoch
    assert length.epochs == epochs


def test_steps_decide_alone_when_given():
    assert Length.of(4, OptimConfig(max_steps=30, epochs=2)) == Length(4, 8, 30)
    assert Length.of(4, OptimConfig(max_steps=3, epochs=2)) == Length(4, 1, 3)


def test_epoch_ends_leave_out_the_last():
    assert list(epoch_ends(Length(4, 5, 20), 2)) == [8, 16]
    assert list(epoch_ends(Length(4, 4, 16), 2)) == [8]
    assert list(epoch_ends(Length(4, 5, 20), 0)) == []
