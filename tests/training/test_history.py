"""The loss curve stays small and true."""

from __future__ import annotations

import itertools

from lora_ext.training.history import LossHistory


def test_everything_is_kept_while_there_is_room():
    history = LossHistory(most=10)
    for step in range(1, 11):
        history.add(step, step / 10)
    assert history.after(0) == [(s, s / 10) for s in range(1, 11)]
    assert history.after(7) == [(8, 0.8), (9, 0.9), (10, 1.0)]


def test_a_long_run_is_thinned_evenly_and_keeps_its_start():
    history = LossHistory(most=10)
    for step in range(1, 100_001):
        history.add(step, float(step))
        assert len(history.after(0)) <= 10
    steps = [s for s, _ in history.after(0)]
    assert steps[0] == 1
    assert len(steps) > 5
    assert len({b - a for a, b in itertools.pairwise(steps)}) == 1
    assert all(loss == step for step, loss in history.after(0))


def test_the_running_mean_follows_slowly_and_sees_every_loss():
    history = LossHistory(most=2)
    assert history.mean is None
    history.add(1, 1.0)
    assert history.mean == 1.0
    for step in range(2, 500):
        history.add(step, 3.0)
    assert abs(history.mean - 3.0) < 1e-6
