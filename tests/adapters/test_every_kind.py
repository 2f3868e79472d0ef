"""What holds for every kind: the fast path is ΔW, gradients agree, what is saved is what is read."""

from __future__ import annotations

import adapter_samples
import pytest
import torch
from torch.nn import functional

from lora_ext.adapters import KINDS, adapter_for, kind_of

SHAPES = list(adapter_samples.GEOMETRIES)
CASES = [(kind, shape) for kind in adapter_samples.KINDS for shape in SHAPES]


def made(kind, shape, seed=1):
    rand = adapter_samples.draw(seed)
    tensors = adapter_samples.KINDS[kind](shape, rand)
    return adapter_for(tensors, shape), tensors, rand


def slow(x, weight, geometry):
    if geometry is None:
        return functional.linear(x, weight.flatten(1))
    return functional.conv2d(x, weight, None, geometry.stride, geometry.padding, geometry.dilation)


def test_no_kind_is_left_out():
    seen = {type(made(kind, shape)[0]) for kind, shape in CASES}
    assert {kind.__name__ for kind in KINDS} - {kind.__name__ for kind in seen} == {"EmbeddingLora", "BiasFactor"}


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_forward_and_factors_equal_delta(kind, shape):
    adapter, _, rand = made(kind, shape)
    base = rand(*shape)
    delta = adapter.delta(base)
    assert delta.shape == shape and delta.dtype == torch.float32
    if (factors := adapter.factors()) is not None:
        torch.testing.assert_close(factors.product().reshape(shape), delta, rtol=1e-5, atol=1e-5)
    for geometry in adapter_samples.GEOMETRIES[shape]:
        x = rand(2, 5, shape[1]) if geometry is None else rand(2, shape[1], 7, 6)
        got = adapter.forward_delta(x, base, geometry)
        torch.testing.assert_close(got, slow(x, delta, geometry), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", adapter_samples.KINDS)
def test_a_layer_held_as_linear_or_as_point_convolution(kind):
    """diffusers holds some 1x1 convolutions as linear layers: `base` then lacks the trailing ones."""
    shape = adapter_samples.POINT
    adapter, _, rand = made(kind, shape)
    base, x = rand(*shape), rand(2, 5, shape[1])
    want = functional.linear(x, adapter.delta(base).flatten(1))
    flat = base[:, :, 0, 0]
    torch.testing.assert_close(adapter.delta(flat), adapter.delta(base)[:, :, 0, 0])
    torch.testing.assert_close(adapter.forward_delta(x, flat, None), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_gradients_of_the_cheap_path_equal_those_of_delta(kind, shape):
    adapter, _, rand = made(kind, shape)
    base, geometry = rand(*shape), adapter_samples.GEOMETRIES[shape][0]
    x = (rand(2, 5, shape[1]) if geometry is None else rand(2, shape[1], 7, 6)).requires_grad_()
    grads = []
    for run in (lambda: adapter.forward_delta(x, base, geometry), lambda: slow(x, adapter.delta(base), geometry)):
        adapter.zero_grad()
        x.grad = None
        run().square().mean().backward()
        grads.append([x.grad.clone(), *(p.grad.clone() for p in adapter.parameters())])
    for cheap, true in zip(*grads, strict=True):
        torch.testing.assert_close(cheap, true, rtol=1e-3, atol=1e-3 * float(true.abs().max()))
        assert true.abs().max() > 0


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_what_is_saved_is_what_is_read(kind, shape):
    adapter, _, rand = made(kind, shape)
    saved = adapter.to_tensors()
    assert kind_of(saved) is not None
    assert all(t.is_contiguous() and not t.requires_grad for t in saved.values())
    again = adapter_for(saved, shape)
    assert type(again) is type(adapter)
    base = rand(*shape)
    assert torch.equal(again.delta(base), adapter.delta(base))
    for name, tensor in again.to_tensors().items():
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("kind", adapter_samples.KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_any_precision_becomes_float32(kind, dtype):
    shape = adapter_samples.LINEAR
    tensors = adapter_samples.KINDS[kind](shape, adapter_samples.draw(2))
    narrow = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    adapter = adapter_for(narrow, shape)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    base = adapter_samples.draw(3)(*shape)
    widened = adapter_for({k: t.float() if t.is_floating_point() else t for k, t in narrow.items()}, shape)
    assert torch.equal(adapter.delta(base), widened.delta(base))


@pytest.mark.parametrize("kind", adapter_samples.KINDS)
def test_half_precision_input_and_autocast(kind):
    shape = adapter_samples.LINEAR
    adapter, _, rand = made(kind, shape)
    x, base = rand(2, shape[1]), rand(*shape)
    want = adapter.forward_delta(x, base, None)
    half = adapter.forward_delta(x.bfloat16(), base.bfloat16(), None)
    with torch.autocast("cpu", torch.bfloat16):
        cast = adapter.forward_delta(x, base, None)
    assert half.dtype == torch.bfloat16
    for got in (half, cast):
        assert (got.float() - want).norm() <= 0.05 * want.norm() + 0.02 * (x @ base.t()).norm()


@pytest.mark.parametrize("kind", adapter_samples.KINDS)
def test_an_adapter_owns_its_numbers(kind):
    shape = adapter_samples.CONV
    adapter, tensors, rand = made(kind, shape)
    base = rand(*shape)
    before = adapter.delta(base).clone()
    for tensor in tensors.values():
        tensor.zero_()
    assert torch.equal(adapter.delta(base), before)
