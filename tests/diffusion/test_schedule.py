"""Our noise maths against diffusers' DDPMScheduler, as whole tensors."""

from __future__ import annotations

import pytest
import torch

from lora_ext.diffusion import NoiseSchedule

diffusers = pytest.importorskip("diffusers", reason="diffusers is the peer these goldens are computed against")

EVERY = torch.arange(1000)


def peer(prediction_type: str = "epsilon"):
    return diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
    )


def latents_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1000, 4, 2, 3, generator=generator), torch.randn(1000, 4, 2, 3, generator=generator)


def test_default_is_stable_diffusions() -> None:
    ours = NoiseSchedule.default().alphas_cumprod
    assert ours.shape == (1000,)
    assert torch.allclose(ours, peer().alphas_cumprod, rtol=2e-6, atol=1e-7)  # the peer multiplies up in float32
    assert round(float(ours[0]), 6) == 0.99915  # the first and last number of the original checkpoint's table
    assert round(float(ours[-1]), 6) == 0.00466


def test_add_noise_equals_diffusers_at_every_timestep() -> None:
    x, noise = latents_and_noise()
    ours = NoiseSchedule(peer().alphas_cumprod, "epsilon").add_noise(x, noise, EVERY)
    assert (ours - peer().add_noise(x, noise, EVERY)).abs().max() <= 1e-6
    assert not torch.equal(ours, x)


def test_v_target_equals_diffusers_at_every_timestep() -> None:
    x, noise = latents_and_noise()
    ours = NoiseSchedule(peer().alphas_cumprod, "v_prediction").target(x, noise, EVERY)
    assert (ours - peer("v_prediction").get_velocity(x, noise, EVERY)).abs().max() <= 1e-6


def test_epsilon_target_is_the_noise() -> None:
    x, noise = latents_and_noise()
    assert torch.equal(NoiseSchedule.default("epsilon").target(x, noise, EVERY), noise)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_latents_are_noised_in_float32(dtype: torch.dtype) -> None:
    x, noise = (t.to(dtype) for t in latents_and_noise())
    schedule = NoiseSchedule.default("v_prediction")
    noisy, target = schedule.add_noise(x, noise, EVERY), schedule.target(x, noise, EVERY)
    assert noisy.dtype == target.dtype == torch.float32
    assert torch.equal(noisy, schedule.add_noise(x.float(), noise.float(), EVERY))


def test_timesteps_are_uniform_and_private() -> None:
    schedule = NoiseSchedule.default()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    drawn = schedule.sample_timesteps(200_000, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert drawn.dtype == torch.int64
    assert (int(drawn.min()), int(drawn.max())) == (0, 999)
    counts = torch.bincount(drawn, minlength=1000).double()
    assert float(((counts - 200) ** 2 / 200).sum()) < 1200  # chi-squared, 999 degrees: mean 999, sd 45
    assert torch.equal(drawn, schedule.sample_timesteps(200_000, torch.Generator().manual_seed(3)))


def test_no_step_leaves_the_device() -> None:
    """On the meta device any `.item()` or copy to the CPU raises."""
    schedule = NoiseSchedule.default("v_prediction").to("meta")
    x = torch.empty(2, 4, 8, 8, device="meta")
    t = schedule.sample_timesteps(2, torch.Generator().manual_seed(0))
    assert t.device.type == "meta"
    assert schedule.add_noise(x, x, t).device.type == "meta"
    assert schedule.target(x, x, t).shape == x.shape


def test_tables_are_not_the_callers_storage() -> None:
    table = torch.linspace(0.9, 0.1, 10)
    schedule = NoiseSchedule(table, "epsilon")
    table.zero_()
    assert float(schedule.alphas_cumprod.min()) > 0


@pytest.mark.parametrize(
    ("table", "prediction_type", "word"),
    [
        (torch.rand(3, 2), "epsilon", "one number per timestep"),
        (torch.empty(0), "epsilon", "one number per timestep"),
        (torch.tensor([0.5, float("nan")]), "epsilon", "between 0 and 1"),
        (torch.tensor([1.5]), "epsilon", "between 0 and 1"),
        (torch.tensor([0.5]), "sample", "epsilon or v_prediction"),
    ],
)
def test_what_is_no_schedule_is_refused(table: torch.Tensor, prediction_type: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        NoiseSchedule(table, prediction_type)  # type: ignore[arg-type]


def test_zero_terminal_snr_is_allowed() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.0]), "v_prediction")
    x, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    assert float(schedule.add_noise(x, noise, torch.tensor([1]))) == 2.0
    assert float(schedule.target(x, noise, torch.tensor([1]))) == -1.0
