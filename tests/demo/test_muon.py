"""The autoencoder's optimizer: near-orthogonal updates, and a stopped run goes on as if it never had."""

import pytest
import torch
from torch import nn

from demo.muon import SMALLEST, Both, optimizer, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (16, 144)])
def test_updates_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    # every direction counts about the same, however unequal the gradient's were
    random = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(random, full_matrices=False)
    found = orthogonal(left @ torch.diag(torch.logspace(0, -1, len(values))) @ right)
    assert found.shape == random.shape and found.dtype == random.dtype
    after = torch.linalg.svdvals(found)
    assert after.min() > 0.5 and after.max() < 1.3


def learn(module: nn.Module, using: Both, steps: range) -> None:
    for group in using.param_groups:
        group["lr"] = 0.01 * group.get("share", 1.0)
    for step in steps:
        using.zero_grad()
        x = torch.randn(8, SMALLEST, generator=torch.Generator().manual_seed(step))
        module(x).square().mean().backward()
        using.step()


def layer() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(SMALLEST, SMALLEST)


def test_its_state_is_all_of_it() -> None:
    straight, broken = layer(), layer()
    learn(straight, optimizer(straight.parameters()), range(6))
    first = optimizer(broken.parameters())
    learn(broken, first, range(3))
    second = optimizer(broken.parameters())
    second.load_state_dict(first.state_dict())
    learn(broken, second, range(3, 6))
    assert torch.equal(straight.weight, broken.weight) and torch.equal(straight.bias, broken.bias)
    assert not torch.equal(straight.weight, layer().weight) and not torch.equal(straight.bias, layer().bias)
