"""Broken files: whatever a layer's tensors are, the answer is an adapter that fits or `BadInput`, never a crash."""

from __future__ import annotations

import math

import adapter_samples
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.adapters import adapter_for, split_bias
from lora_ext.errors import BadInput

SHAPES = list(adapter_samples.GEOMETRIES)


def filled(value):
    return lambda t: torch.full_like(t, value) if t.is_floating_point() else t


FAULTS = {
    "nan": filled(math.nan),
    "inf": filled(-math.inf),
    "huge": lambda t: torch.full(t.shape, 3e38),
    "transposed": lambda t: t.transpose(0, 1).contiguous() if t.dim() > 1 else t,
    "integers": lambda t: t.long(),
    "booleans": lambda t: t > 0,
    "complex": lambda t: t.float().to(torch.complex64),
    "no axes": lambda t: torch.tensor(1.5),
    "one axis": lambda t: t.flatten(),
    "five axes": lambda t: t.reshape(*t.shape, *(1 for _ in range(5 - t.dim()))),
    "empty": lambda t: torch.zeros([0] * max(t.dim(), 1)),
    "no rows": lambda t: t[:0] if t.dim() else t,
    "less": lambda t: t[:-1] if t.dim() else t,
    "more": lambda t: torch.cat([t, t]) if t.dim() else torch.stack([t, t]),
    "narrow": lambda t: t[:, :1].contiguous() if t.dim() > 1 else t,
    "negative": lambda t: -t,
    "other": lambda t: torch.ones(4, 3, 2),
}


@st.composite
def broken(draw):
    shape = draw(st.sampled_from(SHAPES))
    kind = draw(st.sampled_from(sorted(adapter_samples.KINDS)))
    tensors = adapter_samples.KINDS[kind](shape, adapter_samples.draw(draw(st.integers(0, 99))))
    for name in draw(st.lists(st.sampled_from(sorted(tensors)), max_size=3, unique=True)):
        tensors[name] = FAULTS[draw(st.sampled_from(sorted(FAULTS)))](tensors[name])
    for name in draw(st.lists(st.sampled_from(sorted(tensors)), max_size=1)):
        del tensors[name]
    strangers = ["alpha", "scale", "scalar", "rescale", "dora_scale", "lokr_w1", "hada_t1", "lora_up.bias", "diff_b"]
    for name in draw(st.lists(st.sampled_from(strangers), max_size=2, unique=True)):
        tensors.setdefault(name, draw(st.sampled_from([torch.tensor(0.5), torch.ones(3), torch.ones(12, 1)])))
    other = draw(st.sampled_from([None, None, None, (6,), (12, 8, 3), (0, 8), (), (8, 12), (1, 1), (12, 8, 1, 1)]))
    return tensors, other if other is not None else shape


@settings(max_examples=600, deadline=None)
@given(broken())
def test_an_adapter_that_fits_or_bad_input(case):
    tensors, shape = case
    try:
        weight, bias = split_bias(tensors)
        adapters = [(adapter_for(weight, shape), shape)] if weight else []
        adapters += [(adapter_for(bias, shape[:1]), shape[:1])] if bias else []
    except BadInput as e:
        assert e.problems and all(p.field and p.what for p in e.problems)
        return
    for adapter, size in adapters:
        assert all(torch.isfinite(p).all() for p in adapter.parameters())
        assert adapter.delta(torch.ones(size)).shape == size


@pytest.mark.parametrize("kind", adapter_samples.KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_missing_or_spoiled_tensor_is_named(kind, shape):
    """Each tensor in turn is left out, has one row too many, is not finite or is no real number."""
    whole = adapter_samples.KINDS[kind](shape, adapter_samples.draw(1))
    adapter_for(whole, shape)
    may_lack = {"alpha", "rescale", "dora_scale", "output_factor"}  # it is of another kind then
    may_lack |= {"lora_mid.weight", "bm.weight"} if math.prod(shape[2:]) == 1 else set()
    for name, tensor in whole.items():
        rest = {k: t for k, t in whole.items() if k != name}
        bad = [] if name in may_lack else [rest]
        bad += [rest | {name: FAULTS[fault](tensor)} for fault in ("more", "complex")]
        bad += [rest | {name: FAULTS["nan"](tensor)}] if tensor.is_floating_point() else []
        for tensors in bad:
            with pytest.raises(BadInput) as caught:
                adapter_for(tensors, shape)
            assert all(p.what for p in caught.value.problems)


@pytest.mark.parametrize(
    ("tensors", "shape", "word"),
    [
        ({"lokr_w1": torch.ones(5, 2), "lokr_w2": torch.ones(4, 4)}, (12, 8), "divide"),
        ({"lokr_w1": torch.ones(2, 2), "lokr_w1_a": torch.ones(2, 1), "lokr_w2": torch.ones(6, 4)}, (12, 8), "lokr_w1"),
        ({"oft_blocks": torch.ones(3, 5, 5)}, (12, 8), "12 rows"),
        ({"oft_blocks": torch.ones(2, 3, 4, 4)}, (12, 8), "12 rows"),
        ({"oft_blocks": torch.ones(3, 4, 4), "alpha": torch.tensor(-1.0)}, (12, 8), "constraint"),
        ({"weight": torch.ones(8), "on_input": torch.tensor(2)}, (12, 8), "0 or 1"),
        ({"weight": torch.ones(12), "on_input": torch.tensor(1)}, (12, 8), "weight"),
        ({"weight": torch.ones(12)}, (12, 8), "cannot be read"),
        ({"diff": torch.ones(8, 12)}, (12, 8), "diff"),
        ({"diff": torch.ones(12), "diff_b": torch.ones(12)}, (12,), "one difference"),
        ({"w_norm": torch.ones(11)}, (12,), "w_norm"),
    ],
)
def test_what_is_wrong_is_said(tensors, shape, word):
    with pytest.raises(BadInput, match=word):
        adapter_for(tensors, shape)


@pytest.mark.parametrize("size", [(5, 1), (1, 5), (12, 8), (7,), (1, 12), (12, 1, 3, 3)])
def test_a_magnitude_that_fits_no_axis(size):
    tensors = adapter_samples.lora((12, 8), adapter_samples.draw(1)) | {"dora_scale": torch.ones(size)}
    if size == (1, 12):
        assert adapter_for(tensors | adapter_samples.lora((8, 12), adapter_samples.draw(1)), (8, 12)).axis == 1
    with pytest.raises(BadInput, match="dora_scale"):
        adapter_for(tensors, (12, 8))


def test_the_axis_of_a_magnitude_is_told_by_its_shape():
    square = adapter_samples.lora((8, 8), adapter_samples.draw(1))
    axes = {(8, 1): 0, (1, 8): 1, (8,): 0, (8, 1, 1, 1): 0, (1, 8, 1, 1): 1}
    for size, axis in axes.items():
        assert adapter_for(square | {"dora_scale": torch.ones(size)}, (8, 8)).axis == axis
    conv = adapter_samples.lora((8, 8, 3, 3), adapter_samples.draw(1))
    assert adapter_for(conv | {"lora_magnitude_vector": torch.ones(1, 8, 1, 1)}, (8, 8, 3, 3)).axis == 0


def test_factors_beside_the_rank():
    """`scale` takes alpha's place, `scalar` comes on top, a missing alpha means 1."""
    plain = adapter_samples.lora((12, 8), adapter_samples.draw(1), rank=4)
    base = torch.zeros(12, 8)
    one = adapter_for({k: t for k, t in plain.items() if k != "alpha"}, (12, 8)).delta(base)
    for more, factor in (
        ({"alpha": torch.tensor([2.0])}, 0.5),
        ({"scale": torch.tensor(3.0)}, 3.0),
        ({"scale": torch.tensor(3.0), "scalar": torch.tensor([0.5])}, 1.5),
        ({"alpha": torch.tensor(4), "scalar": torch.tensor(0.0)}, 0.0),
    ):
        tensors = {k: t for k, t in plain.items() if k != "alpha"} | more
        torch.testing.assert_close(adapter_for(tensors, (12, 8)).delta(base), one * factor)


def test_biases_are_split_off():
    lora = adapter_samples.lora((12, 8), adapter_samples.draw(1), rank=4) | {"lora_up.bias": torch.ones(12)}
    weight, bias = split_bias(lora)
    assert set(weight) == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert torch.equal(adapter_for(bias, (12,)).delta(torch.zeros(12)), torch.full((12,), 0.5))
    assert split_bias({"b_norm": torch.ones(3)})[0] == {}
    assert set(split_bias({"diff_b": torch.ones(3), "alpha": torch.ones(())})[0]) == set()
    assert set(split_bias({"w_norm": torch.ones(3), "b_norm": torch.ones(3)})[0]) == {"w_norm"}
    sparse = adapter_samples.sparse((12, 8), adapter_samples.draw(1))
    assert split_bias(sparse) == (sparse, {})
    with pytest.raises(BadInput, match=r"lora_up\.bias"):
        split_bias({"lora_up.bias": torch.ones(3), "diff_b": torch.ones(3), "lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(BadInput, match="lora_down"):
        split_bias({"lora_up.bias": torch.ones(3)})
