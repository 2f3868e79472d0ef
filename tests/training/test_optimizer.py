"""One step: the maths is torch's AdamW; what is not finite never reaches the weights."""

from __future__ import annotations

import pytest
import torch

from lora_ext.config import OptimConfig
from lora_ext.training.optimizer import Diverged, ParameterGroup, Reading, Stepper

PATIENCE = OptimConfig().bad_steps
CPU = torch.device("cpu")


def parameters(*values):
    return [torch.nn.Parameter(torch.tensor(v, dtype=torch.float32)) for v in values]


def stepper(*groups, **optim):
    return Stepper([ParameterGroup(p, rate) for p, rate in groups], OptimConfig(**optim), CPU, half=False)


def test_it_is_adamw_with_its_own_rate_per_group():
    ours, theirs = parameters([1.0, -2.0], [3.0]), parameters([1.0, -2.0], [3.0])
    s = stepper(([ours[0]], 1e-2), ([ours[1]], 1e-3), weight_decay=0.1, max_grad_norm=0.0)
    peer = torch.optim.AdamW(
        [{"params": [theirs[0]], "lr": 5e-3}, {"params": [theirs[1]], "lr": 5e-4}], weight_decay=0.1
    )
    for _ in range(4):
        s.backward(sum((p**3).sum() for p in ours))
        s.step(0.5)
        sum((p**3).sum() for p in theirs).backward()
        peer.step()
        peer.zero_grad()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("longest", [0.0, 0.5, 100.0])
def test_clipping(longest):
    (ours,), (theirs,) = parameters([3.0, 4.0]), parameters([3.0, 4.0])
    s = stepper(([ours], 1e-2), max_grad_norm=longest)
    seen = []
    s.optimizer.register_step_post_hook(lambda *_: seen.append(ours.grad.clone()))
    s.backward((ours**2).sum())
    s.step(1.0)
    (theirs**2).sum().backward()
    if longest:
        torch.nn.utils.clip_grad_norm_([theirs], longest)
    assert torch.equal(seen[0], theirs.grad)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_poisoned_step_changes_nothing_at_all(poison):
    clean, hit = parameters([1.0, 2.0]), parameters([1.0, 2.0])
    a, b = stepper((clean, 1e-2)), stepper((hit, 1e-2))
    for step in range(5):
        if step == 2:
            b.backward((hit[0] * poison).sum())
            b.step(1.0)
            assert b.read().refused == 1
        for s, p in ((a, clean), (b, hit)):
            s.backward((p[0] ** 2).sum())
            s.step(1.0)
    assert torch.equal(clean[0], hit[0])


def test_a_poisoned_micro_batch_spoils_only_its_step():
    (p,) = parameters([1.0])
    s = stepper(([p], 1e-2))
    s.backward((p * float("nan")).sum())
    s.backward((p**2).sum())
    s.step(1.0)
    assert p.item() == 1.0
    s.backward((p**2).sum())
    s.step(1.0)
    assert 0 < p.item() < 1.0
    reading = s.read()
    assert (reading.loss, reading.refused) == (1.0, 1)


def test_the_reading_is_the_mean_since_the_last():
    (p,) = parameters([0.0])
    s = stepper(([p], 0.0), weight_decay=0.0)
    for losses in ([1.0, 2.0], [5.0]):
        for value in losses:
            s.backward(p.sum() + value / 2)
            s.backward(p.sum() + value / 2)
            s.step(1.0)
        assert s.read().loss == pytest.approx(sum(losses) / len(losses))
    assert s.read().loss is None


def test_patience_ends():
    (p,) = parameters([1.0])
    s = stepper(([p], 1e-2))
    for step in range(PATIENCE):
        s.backward((p * float("nan")).sum())
        s.step(1.0)
        if step < PATIENCE - 1:
            assert s.read().refused == step + 1
    with pytest.raises(Diverged) as caught:
        s.read()
    assert caught.value.problems[0].field == "learning_rate"
    assert p.item() == 1.0


def test_good_steps_renew_the_patience():
    (p,) = parameters([1.0])
    s = stepper(([p], 1e-2))
    for step in range(3 * PATIENCE):
        s.backward((p * (float("nan") if step % 2 else 1.0)).sum())
        s.step(1.0)
        s.read()


def test_parameters_without_gradient_are_left_alone():
    used, unused = parameters([1.0], [1.0])
    s = stepper(([used, unused], 1e-2))
    s.backward((used**2).sum())
    s.step(1.0)
    assert unused.item() == 1.0
    assert used.item() != 1.0


def test_a_step_in_which_every_layer_rests_changes_nothing_and_counts():
    (p,) = parameters([1.0, 2.0])
    s = stepper(([p], 1e-2))
    s.backward(torch.tensor(0.5))
    s.step(1.0)
    assert torch.equal(p, torch.tensor([1.0, 2.0]))
    assert s.read() == Reading(0.5, 0)
    s.backward((p**2).sum())
    s.step(1.0)
    assert not torch.equal(p, torch.tensor([1.0, 2.0]))
