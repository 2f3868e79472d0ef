"""LoRA maths: fast paths equal `delta`; files' shapes are read as hosts read them; broken ones are named."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lora_ext.adapters import KINDS, LoraAdapter, adapter_for, kind_of
from lora_ext.errors import BadInput
from lora_ext.layers import ConvGeometry

sizes = st.integers(1, 9)


@st.composite
def cases(draw):
    """An adapter with random numbers, its layer's shape, and a geometry (None for linear)."""
    out, width, rank = draw(sizes), draw(sizes), draw(st.integers(1, 6))
    kernel = draw(st.sampled_from([(), (1, 1), (3, 3), (3, 1), (2, 2)]))
    tucker = bool(kernel) and draw(st.booleans())
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    rand = lambda *s: torch.randn(s, generator=g)  # noqa: E731
    ones = (1,) * len(kernel)
    tensors = {
        "lora_down.weight": rand(rank, width, *(ones if tucker else kernel)),
        "lora_up.weight": rand(out, rank, *ones),
        "alpha": torch.tensor(draw(st.sampled_from([1.0, 2.5, 16.0, -1.0]))),
    }
    if tucker:
        tensors["lora_mid.weight"] = rand(rank, rank, *kernel)
    shape = (out, width, *kernel)
    geometry = None
    if kernel and not (kernel == (1, 1) and draw(st.booleans())):
        geometry = ConvGeometry(draw(st.sampled_from([(1, 1), (2, 2)])), draw(st.sampled_from([(0, 0), (1, 1)])))
    return LoraAdapter.from_tensors(tensors, shape), shape, geometry, g


@settings(max_examples=150, deadline=None)
@given(cases())
def test_factors_and_forward_equal_delta(case):
    adapter, shape, geometry, g = case
    base = torch.zeros(shape)
    delta = adapter.delta(base)
    assert delta.shape == shape
    factors = adapter.factors()
    torch.testing.assert_close(factors.product().reshape(shape), delta, rtol=1e-5, atol=1e-5)
    if geometry is None:
        x = torch.randn(2, 4, shape[1], generator=g)
        want = functional.linear(x, delta.flatten(1))
    else:
        x = torch.randn(2, shape[1], 6, 5, generator=g)
        want = functional.conv2d(x, delta, None, geometry.stride, geometry.padding)
    got = adapter.forward_delta(x, base, geometry)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_tensors_round_trip(case):
    adapter, shape, _, _ = case
    again = LoraAdapter.from_tensors(adapter.to_tensors(), shape)
    assert again.alpha == adapter.alpha
    for (name, a), (other, b) in zip(adapter.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(a, b)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_gradients_of_the_cheap_path_equal_those_of_delta(case):
    adapter, shape, geometry, g = case
    base = torch.zeros(shape)
    x = torch.randn(2, shape[1], *((6, 5) if geometry else ()), generator=g)
    adapter.forward_delta(x, base, geometry).square().mean().backward()
    cheap = [p.grad.clone() for p in adapter.parameters()]
    adapter.zero_grad()
    delta = adapter.delta(base)
    slow = (
        functional.conv2d(x, delta, None, geometry.stride, geometry.padding)
        if geometry
        else functional.linear(x, delta.flatten(1))
    )
    slow.square().mean().backward()
    for a, p in zip(cheap, adapter.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-4)


def test_create_changes_nothing_and_is_repeatable():
    made = [LoraAdapter.create((6, 5, 3, 3), 4, 2.0, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(made[0].down, made[1].down)
    assert not made[0].delta(torch.zeros(6, 5, 3, 3)).any()
    assert made[0].down.shape == (4, 5, 3, 3)
    assert made[0].up.shape == (6, 4, 1, 1)
    assert made[0].down.abs().max() <= 1 / math.sqrt(45)
    assert made[0].down.std() > 0.3 / math.sqrt(45)
    assert {p.dtype for p in made[0].parameters()} == {torch.float32}


def test_create_draws_like_torch():
    """The same distribution as `kaiming_uniform_(a=√5)`: with the same seed, the same numbers."""
    mine = LoraAdapter.create((6, 50), 40, 2.0, torch.Generator().manual_seed(3)).down
    torch.manual_seed(3)
    theirs = torch.nn.init.kaiming_uniform_(torch.empty(40, 50), a=math.sqrt(5))
    torch.testing.assert_close(mine.detach(), theirs)


def test_half_precision_input_gives_half_precision_output():
    adapter = LoraAdapter.create((6, 5), 4, 2.0)
    x = torch.ones(2, 5, dtype=torch.bfloat16)  # torch 2.1 multiplies no float16 on a CPU
    assert adapter.forward_delta(x, torch.zeros(6, 5), None).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert adapter.forward_delta(torch.ones(2, 5), torch.zeros(6, 5), None).dtype == torch.bfloat16


def lora(down, up, alpha=None, mid=None):
    tensors = {"lora_down.weight": torch.ones(down), "lora_up.weight": torch.ones(up)}
    if alpha is not None:
        tensors["alpha"] = torch.as_tensor(alpha)
    if mid is not None:
        tensors["lora_mid.weight"] = torch.ones(mid)
    return tensors


@pytest.mark.parametrize(
    ("tensors", "shape"),
    [
        (lora((2, 8), (6, 2)), (6, 8, 1, 1)),
        (lora((2, 8, 1, 1), (6, 2, 1, 1)), (6, 8)),
        (lora((2, 8, 1, 1), (6, 2)), (6, 8, 1, 1)),
        (lora((2, 8, 3, 3), (6, 2)), (6, 8, 3, 3)),
    ],
)
def test_linear_and_pointwise_shapes_are_interchangeable(tensors, shape):
    adapter = LoraAdapter.from_tensors(tensors, shape)
    assert adapter.scale == 1.0
    assert torch.equal(adapter.delta(torch.zeros(shape)), torch.full(shape, 2.0))
    assert adapter.down.dim() == adapter.up.dim() == len(shape)


def test_alpha_missing_means_rank_and_one_element_is_a_scalar():
    assert LoraAdapter.from_tensors(lora((2, 8), (6, 2)), (6, 8)).alpha == 2.0
    assert LoraAdapter.from_tensors(lora((2, 8), (6, 2), [4.0]), (6, 8)).scale == 2.0
    assert LoraAdapter.from_tensors(lora((2, 8), (6, 2), 1), (6, 8)).scale == 0.5


def broken(name, value):
    tensors = lora((2, 8), (6, 2), 1.0)
    tensors[name][..., 0] = value
    return tensors


BAD = {
    "alpha 0": (lora((2, 8), (6, 2), 0.0), (6, 8), "alpha"),
    "alpha NaN": (lora((2, 8), (6, 2), float("nan")), (6, 8), "alpha"),
    "alpha two": (lora((2, 8), (6, 2), [1.0, 2.0]), (6, 8), "alpha"),
    "ranks disagree": (lora((2, 8), (6, 3)), (6, 8), "lora_up"),
    "rank 0": (lora((0, 8), (6, 0)), (6, 8), "lora_down"),
    "up broadcasts": (lora((2, 8), (1, 2)), (6, 8), "lora_up"),
    "down broadcasts": (lora((2, 1), (6, 2)), (6, 8), "lora_down"),
    "transposed": (lora((8, 2), (2, 6)), (6, 8), "transposed"),
    "transposed, square layer": (lora((8, 2), (2, 8)), (8, 8), "transposed"),
    "no down": ({"lora_up.weight": torch.ones(6, 2)}, (6, 8), "lora_down"),
    "no up": ({"lora_down.weight": torch.ones(2, 8)}, (6, 8), "lora_up"),
    "alpha alone": ({"alpha": torch.ones(())}, (6, 8), "lora_up"),
    "down NaN": (broken("lora_down.weight", math.nan), (6, 8), "lora_down"),
    "up inf": (broken("lora_up.weight", math.inf), (6, 8), "lora_up"),
    "integers": ({k: v.long() for k, v in lora((2, 8), (6, 2)).items()}, (6, 8), "lora_down"),
    "scalar": ({"lora_down.weight": torch.ones(()), "lora_up.weight": torch.ones(6, 2)}, (6, 8), "lora_down"),
    "kernel": (lora((2, 8, 1, 1), (6, 2, 1, 1)), (6, 8, 3, 3), "lora_down"),
    "mid": (lora((2, 8, 1, 1), (6, 2, 1, 1), 1.0, (2, 3, 3, 3)), (6, 8, 3, 3), "lora_mid"),
    "inpainting conv": (lora((2, 4, 3, 3), (6, 2, 1, 1)), (6, 9, 3, 3), "lora_down"),
    "norm": (lora((2, 8), (6, 2)), (6,), "shape"),
    "unknown": ({**lora((2, 8), (6, 2)), "lora_sideways": torch.ones(1)}, (6, 8), "lora_sideways"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_tensors_are_named(case):
    tensors, shape, word = BAD[case]
    with pytest.raises(BadInput, match=word):
        adapter_for(tensors, shape)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (4, 0.0), (4, math.nan)])
def test_create_refuses_nonsense(rank, alpha):
    with pytest.raises(BadInput):
        LoraAdapter.create((6, 8), rank, alpha)


def test_dispatch_needs_every_name_understood():
    assert KINDS[0] is LoraAdapter
    assert kind_of(["lora_down.weight", "lora_up.weight"]) is LoraAdapter
    assert kind_of(["lora_down.weight", "lora_up.weight", "lora_sideways"]) is None
    assert kind_of(["weight"]) is None, "a checkpoint's weight is no IA3"
    assert kind_of(["lora_down.weight", "hada_w1_a", "dora_scale"]) is None
    assert kind_of([]) is None


def test_adapter_owns_its_numbers():
    tensors = lora((2, 8), (6, 2), 1.0)
    adapter = LoraAdapter.from_tensors(tensors, (6, 8))
    tensors["lora_down.weight"].zero_()
    assert adapter.down.any()
