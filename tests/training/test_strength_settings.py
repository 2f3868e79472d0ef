"""Training at less than full strength: the same numbers as a host that applies the LoRA so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings_table import about
from test_learner import assert_close, batch, draw, gradients, learner
from training_runs import model, run, same

from lora_ext.patching import Strengths

KINDS = {
    "lora": {"text_encoder_lr": 1e-3},
    "dora": {"dora": True},
    "oft": {"kind": "oft"},
    "norm": {"kind": "norm"},
    "dropout that never drops": {"dropout": 1e-9},
}


@about("lowest_strength")
def test_it_changes_what_is_learnt_and_not_the_hosts_random_numbers(tmp_path):
    state = torch.get_rng_state()
    weaker = run(tmp_path / "a", max_steps=2, lowest_strength=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(weaker.tensors, run(tmp_path / "b", max_steps=2).tensors)


def test_every_strength_of_the_range_is_drawn_and_a_restored_run_goes_on_with_the_next(tmp_path):
    made, given = learner(tmp_path, lowest_strength=0.6), batch(tokens=False)
    drawn = sorted(made.draw(given).strength for _ in range(200))
    assert 0.6 <= drawn[0] < 0.62
    assert 0.79 < drawn[100] < 0.82
    assert 0.98 < drawn[-1] <= 1
    chance = made.chance()
    wanted = [made.draw(given).strength for _ in range(3)]
    made.set_chance(chance)
    assert [made.draw(given).strength for _ in range(3)] == wanted
    assert made.draw(given)[1:].strength != 1, "each piece of a batch has the strength of the whole"


def test_without_it_nothing_is_drawn(tmp_path):
    made = learner(tmp_path)
    before = made.dice.get_state()
    assert made.draw(batch(tokens=False)).strength == 1
    assert torch.equal(made.dice.get_state(), before)


@pytest.mark.parametrize("name", KINDS)
def test_training_at_a_strength_is_applying_at_it(tmp_path, name):
    text_rate = KINDS[name].get("text_encoder_lr", 0.0)
    made = learner(tmp_path, grown=False, lowest_strength=0.5, **KINDS[name])
    for p in (p for g in made.groups() for p in g.parameters):
        p.data.add_(0.03 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    given, (noise, timesteps) = batch(tokens=text_rate > 0), draw()
    drawn = replace(made.draw(given), timesteps=timesteps, strength=0.6)
    drawn = replace(drawn, noise=replace(drawn.noise, given=noise, asked=noise))
    weak, whole = made.loss(given, drawn), made.plain_loss(given, noise, timesteps)
    live, bare = model(), learner(tmp_path, grown=False, text_encoder_lr=text_rate)
    for strength, ours in ((0.6, weak), (1.0, whole)):
        with torch.no_grad():
            live.patcher.apply({made.network("x", f"{name} {strength}"): Strengths(strength, strength)})
            try:
                applied = bare.loss_of(given, noise, timesteps)
            finally:
                live.patcher.clear()
        assert ours.item() == pytest.approx(applied.item(), rel=1e-5), f"at {strength}; measuring is at full strength"
    assert abs(weak.item() - whole.item()) > 1e-4 * whole.item()


def test_a_layer_computed_twice_has_the_same_strength_twice(tmp_path):
    found = []
    for checkpointing in (False, True):
        made = learner(tmp_path, lowest_strength=0.2, checkpointing=checkpointing)
        made.loss(batch(tokens=False), made.draw(batch(tokens=False))).backward()
        found.append(gradients(made))
    assert_close(found[1], found[0], 1e-6)
