"""Noise, dressed as published; and which timesteps come how often."""

from __future__ import annotations

import pytest
import torch

from lora_ext.diffusion import NoiseRecipe, NoiseSchedule, TimestepRange, draw_noise

LATENTS = torch.randn(3, 4, 16, 12, generator=torch.Generator().manual_seed(5)) + 0.5


def sources(seed=0):
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 100)


def drawn(**recipe):
    return draw_noise(LATENTS, NoiseRecipe(**recipe), *sources())


def plain(source):
    return torch.randn(LATENTS.shape, generator=source)


def test_plain_noise_is_one_draw():
    source, _ = sources()
    want = plain(source)
    got = drawn()
    assert torch.equal(got.asked, want)
    assert got.given is got.asked


@pytest.mark.parametrize("random", [False, True])
def test_noise_offset_moves_whole_channels(random):
    source, dice = sources()
    want = plain(source)
    strength = 0.1 * (torch.rand((), generator=dice).item() if random else 1)
    want = want + strength * torch.randn(3, 4, 1, 1, generator=source)
    assert torch.allclose(drawn(offset=0.1, offset_random=random).asked, want)


def test_adaptive_offset_follows_the_pictures_mean():
    source, _ = sources()
    want = plain(source)
    strength = 0.1 + 0.2 * LATENTS.mean(dim=(2, 3), keepdim=True).abs()
    want = want + strength * torch.randn(3, 4, 1, 1, generator=source)
    assert torch.allclose(drawn(offset=0.1, adaptive_offset=0.2).asked, want)


def test_pyramid_noise():
    """sd-scripts' recipe with the same draws: level i is smaller by r**i with r in 2..4, weaker by discount**i."""
    source, dice = sources()
    noise = plain(source)
    up = torch.nn.Upsample(size=(16, 12), mode="bilinear")
    for i in range(6):
        r = torch.rand((), generator=dice).item() * 2 + 2
        h, w = max(1, int(16 / r**i)), max(1, int(12 / r**i))
        noise = noise + up(torch.randn(3, 4, h, w, generator=source)) * 0.4**i
        if h == 1 or w == 1:
            break
    got = drawn(pyramid_levels=6, pyramid_discount=0.4).asked
    assert torch.allclose(got, noise / noise.std(), atol=1e-6)
    assert got.std().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("random", [False, True])
def test_input_perturbation_is_not_asked_for(random):
    source, dice = sources()
    want = plain(source)
    strength = 0.1 * (torch.rand((), generator=dice).item() if random else 1)
    more = torch.randn(LATENTS.shape, generator=source)
    got = drawn(perturbation=0.1, perturbation_random=random)
    assert torch.equal(got.asked, want)
    assert torch.allclose(got.given, want + strength * more)


def test_a_slice_of_noise_is_that_of_its_samples():
    got = drawn(perturbation=0.1)[1:3]
    assert torch.equal(got.given, drawn(perturbation=0.1).given[1:3])


def test_zero_terminal_snr_is_diffusers():
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddpm", reason="diffusers is the peer")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    want = (1 - scheduling.rescale_zero_terminal_snr(betas)).cumprod(0)
    got = NoiseSchedule.default("v_prediction").with_zero_terminal_snr()
    assert torch.allclose(got.alphas_cumprod.double(), want, atol=1e-6)
    assert got.alphas_cumprod[-1] == 0
    assert got.snr[-1] == 0
    assert torch.allclose(got.alphas_cumprod[0], NoiseSchedule.default().alphas_cumprod[0])


def test_snr_is_that_of_diffusers():
    training = pytest.importorskip("diffusers.training_utils", reason="diffusers is the peer")
    import diffusers

    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    steps = torch.tensor([0, 1, 500, 999])
    assert torch.allclose(NoiseSchedule.default().snr[steps], training.compute_snr(scheduler, steps).float(), rtol=1e-3)


def sample(n=20000, **of):
    return NoiseSchedule.default().sample_timesteps(n, torch.Generator().manual_seed(0), TimestepRange(**of))


def test_the_whole_even_range_is_what_it_was():
    want = NoiseSchedule.default().sample_timesteps(50, torch.Generator().manual_seed(0))
    assert torch.equal(sample(50), want)


@pytest.mark.parametrize("distribution", ["uniform", "sigmoid", "logit_normal", "cosmap"])
def test_timesteps_stay_in_their_range(distribution):
    got = sample(low=200, high=300, distribution=distribution)
    assert got.dtype == torch.int64
    assert got.min() >= 200
    assert got.max() < 300
    assert len(got.unique()) > 80


def share(steps, low, high):
    return ((steps >= low) & (steps < high)).float().mean().item()


def test_distributions_have_their_shapes():
    normal = torch.distributions.Normal(0.0, 1.0)

    def want(low, high, mean, spread):
        edges = torch.logit(torch.tensor([low / 1000, high / 1000]))
        found = normal.cdf((edges - mean) / spread)
        return (found[1] - found[0]).item()

    for low, high in ((100, 300), (300, 600), (700, 900)):
        assert share(sample(), low, high) == pytest.approx((high - low) / 1000, abs=0.015)
        assert share(sample(distribution="sigmoid", mean=9.0, spread=0.7), low, high) == pytest.approx(
            want(low, high, 0.0, 0.7), abs=0.015
        )
        assert share(sample(distribution="logit_normal", mean=0.8, spread=0.7), low, high) == pytest.approx(
            want(low, high, 0.8, 0.7), abs=0.015
        )
    # cosmap's density is 2 / (π (1 − 2t + 2t²)), whose integral is known
    middle = torch.atan(torch.tensor(2 * 0.6 - 1)) - torch.atan(torch.tensor(2 * 0.4 - 1))
    assert share(sample(distribution="cosmap"), 400, 600) == pytest.approx(2 / torch.pi * middle.item(), abs=0.015)
