"""Every loss option against the formula as published, worked out here once more, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from lora_ext.diffusion import LossRecipe, NoiseSchedule, diffusion_loss, mse

STEPS = torch.tensor([0, 17, 400, 999])


def pair(seed=0, batch=4):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, 8, 8, generator=random), torch.randn(batch, 4, 8, 8, generator=random)


def loss(prediction, target, kind="epsilon", weights=None, mask=None, steps=STEPS, **recipe):
    schedule = NoiseSchedule.default(kind)
    return diffusion_loss(prediction, target, steps, schedule, LossRecipe(**recipe), weights, mask).item()


def snr(t):
    alpha = NoiseSchedule.default().alphas_cumprod.double()[t].item()
    return alpha / (1 - alpha)


def by_hand(prediction, target, element, weight):
    """The mean over elements of each sample, times its weight, then over samples; float64 and Python throughout."""
    total = 0.0
    for row, wanted, t in zip(prediction.double(), target.double(), STEPS.tolist(), strict=True):
        total += element(row - wanted, t).mean().item() * weight(t)
    return total / len(STEPS)


def square(d, t):
    return d**2


def one(t):
    return 1.0


def test_the_plain_recipe_is_mse_bit_for_bit():
    prediction, target = pair()
    want = mse(prediction, target)
    schedule = NoiseSchedule.default()
    assert torch.equal(diffusion_loss(prediction, target, STEPS, schedule, LossRecipe()), want)
    whole = torch.ones(4, 1, 8, 8)
    assert diffusion_loss(prediction, target, STEPS, schedule, LossRecipe(), None, whole).item() == pytest.approx(
        want.item()
    )


BORDERS = {
    "constant": lambda t: 0.2 * 0.5,
    "exponential": lambda t: math.exp(math.log(0.2) * t / 1000) * 0.5,
    "snr": lambda t: (1 - 0.2) / (1 + snr(t) ** -0.5) ** 2 + 0.2,
}


@pytest.mark.parametrize("how", BORDERS)
@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_pseudo_huber_is_that_of_sd_scripts(kind, how):
    def element(d, t):
        c = BORDERS[how](t)
        bent = 2 * (torch.sqrt(d**2 + c**2) - c)
        return bent * c if kind == "huber" else bent

    prediction, target = pair()
    got = loss(prediction, target, loss_type=kind, huber_schedule=how, huber_c=0.2, huber_scale=0.5)
    assert got == pytest.approx(by_hand(prediction, target, element, one), rel=1e-5)


def test_l1():
    prediction, target = pair()
    assert loss(prediction, target, loss_type="l1") == pytest.approx(
        torch.nn.functional.l1_loss(prediction, target).item(), rel=1e-6
    )


def test_a_huge_border_makes_huber_mse():
    prediction, target = (t.double() for t in pair())
    got = loss(prediction, target, loss_type="huber", huber_schedule="constant", huber_c=1.0, huber_scale=300.0)
    assert got == pytest.approx(mse(prediction, target).item(), rel=1e-2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.5, 5.0, 1e3])
def test_min_snr(kind, gamma):
    def weight(t):
        return min(snr(t), gamma) / (snr(t) + 1 if kind == "v_prediction" else snr(t))

    prediction, target = pair()
    got = loss(prediction, target, kind, min_snr_gamma=gamma)
    assert got == pytest.approx(by_hand(prediction, target, square, weight), rel=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_debiased_estimation(kind):
    def weight(t):
        capped = min(snr(t), 1000)
        return 1 / (capped + 1) if kind == "v_prediction" else capped**-0.5

    prediction, target = pair()
    assert loss(prediction, target, kind, debiased=True) == pytest.approx(
        by_hand(prediction, target, square, weight), rel=1e-5
    )


def test_a_v_loss_weighed_like_noise_prediction():
    prediction, target = pair()
    want = by_hand(prediction, target, square, lambda t: min(snr(t), 1000) / (min(snr(t), 1000) + 1))
    assert loss(prediction, target, "v_prediction", scale_v_loss=True) == pytest.approx(want, rel=1e-5)
    assert loss(prediction, target, "epsilon", scale_v_loss=True) == pytest.approx(mse(prediction, target).item())


@pytest.mark.parametrize("more", [0.5, 2.0])
def test_a_noise_loss_with_that_of_v_added(more):
    def weight(t):
        scale = min(snr(t), 1000) / (min(snr(t), 1000) + 1)
        return 1 + more / scale

    prediction, target = pair()
    got = loss(prediction, target, v_pred_like=more)
    assert got == pytest.approx(by_hand(prediction, target, square, weight), rel=1e-5)
    plain = mse(prediction, target).item()
    assert loss(prediction, target, "v_prediction", v_pred_like=more) == pytest.approx(plain)


def test_options_multiply():
    def weight(t):
        capped = min(snr(t), 1000)
        return min(snr(t), 5) / snr(t) * (1 + 0.5 * (capped + 1) / capped) * capped**-0.5

    prediction, target = pair()
    got = loss(prediction, target, min_snr_gamma=5.0, v_pred_like=0.5, debiased=True)
    assert got == pytest.approx(by_hand(prediction, target, square, weight), rel=1e-5)


def test_the_weight_of_v_is_that_of_noise_seen_through_the_model():
    """A v error e is an ε error √ᾱ·e, so min-SNR for v and for ε are one loss."""
    random = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(4, 4, 8, 8, generator=random, dtype=torch.float64) for _ in range(2))
    v, e = NoiseSchedule.default("v_prediction"), NoiseSchedule.default("epsilon")
    wrong = 0.1 * torch.randn(4, 4, 8, 8, generator=random, dtype=torch.float64)
    alpha = e.alphas_cumprod[STEPS].sqrt().view(-1, 1, 1, 1)
    as_v, target = v.target(latents, noise, STEPS) + wrong, v.target(latents, noise, STEPS)
    recipe = LossRecipe(min_snr_gamma=5.0)
    one_way = diffusion_loss(as_v, target, STEPS, v, recipe)
    other_way = diffusion_loss(noise.float() + alpha * wrong, noise.float(), STEPS, e, recipe)
    # gamma caps SNR, and SNR/(SNR+1) = ᾱ turns one error into the other
    assert one_way.item() == pytest.approx(other_way.item(), rel=1e-4)


def test_zero_snr_gives_finite_numbers_for_v():
    schedule = NoiseSchedule.default("v_prediction").with_zero_terminal_snr()
    prediction, target = pair()
    for recipe in (
        LossRecipe(min_snr_gamma=5.0),
        LossRecipe(debiased=True),
        LossRecipe(scale_v_loss=True),
        LossRecipe(loss_type="huber"),
    ):
        assert torch.isfinite(diffusion_loss(prediction, target, STEPS, schedule, recipe))


def test_a_mask_multiplies_the_error_of_each_place():
    prediction, target = pair()
    mask = torch.zeros(4, 1, 8, 8)
    mask[:, :, :4] = 1.0
    mask[:, :, 4:6] = 0.5
    got = loss(prediction, target, mask=mask)
    want = ((prediction - target) ** 2 * mask).mean().item()
    assert got == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="mask"):
        loss(prediction, target, mask=torch.ones(4, 1, 4, 4))


def test_weights_count_samples():
    prediction, target = pair()
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0])
    want = ((prediction - target) ** 2).flatten(1).mean(1) * weights
    assert loss(prediction, target, weights=weights) == pytest.approx(want.mean().item(), rel=1e-6)
    assert loss(prediction, target, weights=weights, loss_type="l1") != pytest.approx(
        loss(prediction, target, loss_type="l1")
    )


def test_options_work_on_the_schedules_device_without_python_numbers(monkeypatch):
    """No `.item()`: the loss must not wait for a GPU."""

    def forbidden(self):
        raise AssertionError("a number was read back")

    prediction, target = pair()
    schedule = NoiseSchedule.default("v_prediction")
    monkeypatch.setattr(torch.Tensor, "item", forbidden)
    monkeypatch.setattr(torch.Tensor, "__float__", forbidden)
    recipe = LossRecipe(loss_type="huber", min_snr_gamma=5.0, debiased=True, scale_v_loss=True)
    found = diffusion_loss(prediction, target, STEPS, schedule, recipe)
    with pytest.raises(AssertionError, match="read back"):
        found.item()
    monkeypatch.undo()
    assert 0.0 < found.item() < float("inf")
