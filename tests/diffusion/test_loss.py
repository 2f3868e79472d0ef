from __future__ import annotations

import pytest
import torch

from lora_ext.diffusion import mse


def test_equals_torchs_mse_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 4, 8, 6, generator=generator).half() for _ in range(2))
    loss = mse(a, b)
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    assert torch.allclose(loss, torch.nn.functional.mse_loss(a.float(), b.float()), rtol=1e-6)


def test_large_half_differences_do_not_overflow() -> None:
    a = torch.full((1, 2, 2, 2), 600.0, dtype=torch.float16)
    assert float(mse(a, -a)) == 1_440_000.0


def test_weights_count_whole_samples() -> None:
    prediction = torch.tensor([[1.0, 1.0], [3.0, 3.0]]).reshape(2, 2, 1, 1)
    assert float(mse(prediction, torch.zeros_like(prediction), torch.tensor([2.0, 1.0]))) == (2 * 1 + 1 * 9) / 2


def test_gradient_reaches_the_prediction() -> None:
    prediction = torch.ones(2, 1, 1, 2, requires_grad=True)
    mse(prediction, torch.zeros(2, 1, 1, 2)).backward()
    assert torch.equal(prediction.grad, torch.full((2, 1, 1, 2), 0.5))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 1, 8, 8), (2, 4, 8)])
def test_shapes_are_never_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        mse(torch.zeros(2, 4, 8, 8), torch.zeros(shape))


def test_weights_must_be_one_per_sample() -> None:
    with pytest.raises(ValueError, match="one number per sample"):
        mse(torch.zeros(2, 4), torch.zeros(2, 4), torch.ones(1))
