"""The patcher's promises: exact, order-free, bitwise reversible, only what changed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import LAYERS, TABLE, bits, network, weights

from lora_ext.adapters import Adapter, LoraAdapter, Network
from lora_ext.errors import BadInput
from lora_ext.layers import LayerTable
from lora_ext.patching import Strengths, WeightPatcher, compose
from lora_ext.patching.originals import Copied, Originals

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NETWORKS = (*(network(i) for i in range(4)), network(9, LAYERS[:2]))

strength = st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 3))
chosen = st.lists(st.tuples(st.sampled_from(range(len(NETWORKS))), strength, strength), unique_by=lambda x: x[0])


def made(dtype=torch.float32):
    live = weights(dtype)
    return live, WeightPatcher(lambda: live, TABLE)


def wanted(picks):
    return {NETWORKS[i]: Strengths(u, t) for i, u, t in picks}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), st.lists(chosen, min_size=1, max_size=4))
def test_clear_is_bitwise_after_any_sequence(dtype, sequence):
    live, patcher = made(dtype)
    before = bits(live)
    for picks in sequence:
        patcher.apply(wanted(picks))
    patcher.clear()
    assert bits(live) == before
    assert patcher.originals_bytes == 0
    assert not patcher.state


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), chosen, st.randoms(use_true_random=False), st.lists(chosen, max_size=2))
def test_same_set_in_any_order_and_history_gives_same_bits(dtype, picks, random, history):
    live, patcher = made(dtype)
    patcher.apply(wanted(picks))
    other, second = made(dtype)
    shuffled = list(picks)
    random.shuffle(shuffled)
    for past in history:
        second.apply(wanted(past))
    second.apply(wanted(shuffled))
    assert bits(live) == bits(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_rounding_of_the_float64_sum(dtype):
    live, patcher = made(dtype)
    base = {k: t.clone() for k, t in live.items()}
    picks = {NETWORKS[0]: Strengths(0.7, 0.3), NETWORKS[1]: Strengths(-0.5, 1.0), NETWORKS[2]: Strengths(1.0, 1.0)}
    patcher.apply(picks)
    for layer in LAYERS:
        w0 = layer.view(base[layer.key]).double()
        for net, s in picks.items():
            a = net.adapters[layer.name]
            w0 = w0 + s.of(layer.name) * a.delta(torch.zeros(layer.shape)).double()
        got = layer.view(live[layer.key])
        # float32 sums may land on the other side of a rounding boundary, hence one unit in the last place
        ulp = torch.finfo(dtype).eps * w0.abs().clamp_min(1e-3)
        assert ((got.double() - w0).abs() <= 0.51 * ulp + 2e-7).all(), layer.name


def test_fused_rows_touch_only_their_slice():
    live, patcher = made()
    before = live["attn.in_proj_weight"].clone()
    k_only = network(5, (LAYERS[4],))
    patcher.apply({k_only: Strengths()})
    after = live["attn.in_proj_weight"]
    assert torch.equal(after[:8], before[:8])
    assert torch.equal(after[16:], before[16:])
    assert not torch.equal(after[8:16], before[8:16])
    assert patcher.originals_bytes == 8 * 8 * 4


def test_only_changed_layers_are_written():
    _live, patcher = made()
    pair = {NETWORKS[0]: Strengths(), NETWORKS[4]: Strengths()}
    assert patcher.apply(pair).layers_written == len(LAYERS)
    assert patcher.apply(dict(reversed(pair.items()))).layers_written == 0
    assert patcher.apply({NETWORKS[0]: Strengths()}).layers_written == 2
    assert patcher.apply({NETWORKS[0]: Strengths(1.0, 0.5)}).layers_written == 3
    report = patcher.apply({NETWORKS[4]: Strengths()})
    assert (report.layers_written, report.layers_restored) == (len(LAYERS), len(LAYERS) - 2)
    assert set(patcher._originals.names()) == {layer.name for layer in LAYERS[:2]}


def test_adapter_changed_in_place_is_applied_again():
    live, patcher = made()
    net = network(6)
    patcher.apply({net: Strengths()})
    first = bits(live)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    patcher.apply({net: Strengths()})
    assert bits(live) != first


def test_strengths_per_part_and_zero():
    live, patcher = made()
    before = bits(live)
    patcher.apply({NETWORKS[0]: Strengths(0.0, 1.0)})
    now = bits(live)
    assert now["a.to_q.weight"] == before["a.to_q.weight"]
    assert now["attn.in_proj_weight"] != before["attn.in_proj_weight"]
    patcher.apply({NETWORKS[0]: Strengths(0.0, 0.0)})
    assert bits(live) == before


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("error", [RuntimeError("card fell off"), Interrupt()])
def test_exception_in_the_middle_puts_everything_back(error):
    live, patcher = made(torch.float16)
    before = bits(live)
    patcher.apply({NETWORKS[0]: Strengths()})

    class Broken(LoraAdapter):
        def factors(self):
            raise error

    good = network(7)
    last = max(good.adapters)
    a = good.adapters[last]
    good.adapters[last] = Broken(a.down.data, a.up.data, None, a.alpha)
    with pytest.raises(type(error)):
        patcher.apply({good: Strengths()})
    assert bits(live) == before
    assert not patcher.state
    assert patcher.originals_bytes == 0
    patcher.apply({NETWORKS[1]: Strengths()})
    patcher.clear()
    assert bits(live) == before


def test_what_could_not_be_put_back_is_put_back_the_next_time(monkeypatch):
    live, patcher = made(torch.float16)
    before = bits(live)
    real, calls = Copied.copy_rows, []

    def full(self, *given):
        calls.append(1)
        if len(calls) == 3:
            raise torch.cuda.OutOfMemoryError("full")
        real(self, *given)

    def overflow(self):
        raise torch.cuda.OutOfMemoryError("first")

    with monkeypatch.context() as scarce:
        scarce.setattr(compose.Composer, "check", overflow)
        scarce.setattr(Copied, "copy_rows", full)
        with pytest.raises(torch.cuda.OutOfMemoryError, match="first"):
            patcher.apply({NETWORKS[0]: Strengths()})
    assert bits(live) != before
    patcher.clear()
    assert bits(live) == before
    assert patcher.originals_bytes == 0


@pytest.mark.parametrize("before", [{}, {NETWORKS[0]: Strengths(0.5, 0.5)}])
def test_overflow_names_layer_and_network_and_leaves_weights_as_before(before):
    live, patcher = made(torch.float16)
    patcher.apply(before)
    was = bits(live)
    loud = network(8)
    loud.name = "shouter"
    with pytest.raises(BadInput) as caught:
        patcher.apply({**before, loud: Strengths(1e6, 0.0)})
    assert "shouter" in str(caught.value)
    assert "unet:" in str(caught.value)
    assert "float16" in str(caught.value)
    assert bits(live) == was
    assert patcher.state == before
    patcher.clear()
    assert bits(live) == bits(weights(torch.float16))


def test_overflow_in_bf16_and_fp32_too():
    for dtype in (torch.bfloat16, torch.float32):
        live, patcher = made(dtype)
        with pytest.raises(BadInput):
            patcher.apply({NETWORKS[0]: Strengths(1e39, 0.0)})
        assert bits(live) == bits(weights(dtype))


def test_long_rows_of_fp8_are_no_overflow():
    live = {
        key: (t.float() * 600).clamp(-400, 400).to(torch.float8_e4m3fn) for key, t in weights(torch.float32).items()
    }
    before = bits(live)
    patcher = WeightPatcher(lambda: live, TABLE)
    patcher.apply({NETWORKS[0]: Strengths(1.0, 1.0)})
    assert bits(live) != before
    patcher.clear()
    assert bits(live) == before


def test_parts_of_a_model_on_two_devices(monkeypatch):
    """The numbers that tell about overflow are looked at in one piece, which is of one device."""
    live = weights(torch.float16)
    live["attn.in_proj_weight"] = live["attn.in_proj_weight"].to("meta")
    looked = []
    monkeypatch.setattr(torch, "stack", lambda given: looked.extend(given) or torch.zeros(len(given)))
    WeightPatcher(lambda: live, TABLE).apply({NETWORKS[0]: Strengths()})
    assert {t.device.type for t in looked} == {"meta"}


def test_broken_model_weight_is_not_blamed_on_the_network():
    live, patcher = made(torch.float16)
    live["a.to_q.weight"][0, 0] = torch.nan
    with pytest.raises(BadInput, match="model's own weight"):
        patcher.apply({NETWORKS[0]: Strengths()})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_strength_must_be_a_number(bad):
    live, patcher = made()
    with pytest.raises(BadInput, match=r"n0.*text encoder strength"):
        patcher.apply({NETWORKS[0]: Strengths(1.0, bad)})
    assert bits(live) == bits(weights(torch.float32))


def test_network_of_another_model_is_refused_whole():
    live = weights(torch.float32)
    patcher = WeightPatcher(lambda: live, LayerTable("sdxl", {x.name: x for x in LAYERS[:2]}))
    with pytest.raises(BadInput, match=r"b\.conv.*no such layer"):
        patcher.apply({NETWORKS[0]: Strengths()})
    assert bits(live) == bits(weights(torch.float32))
    live["a.to_q.weight"] = torch.zeros(3, 3)
    with pytest.raises(BadInput, match="another shape"):
        patcher.apply({NETWORKS[4]: Strengths()})


def test_writes_into_live_parameters_in_place_and_leaves_flags():
    raw = weights(torch.float32)
    live = {k: torch.nn.Parameter(t) for k, t in raw.items()}
    patcher = WeightPatcher(lambda: live, TABLE)
    pointers = {k: p.data_ptr() for k, p in live.items()}
    patcher.apply({NETWORKS[0]: Strengths()})
    assert {k: p.data_ptr() for k, p in live.items()} == pointers
    assert all(p.requires_grad and p.grad is None and p.is_leaf for p in live.values())


def test_strided_live_weight():
    live = weights(torch.float32)
    expected, patcher = made()
    patcher.apply({NETWORKS[0]: Strengths()})
    live["a.to_q.weight"] = live["a.to_q.weight"].t().contiguous().t()
    live["b.conv.weight"] = live["b.conv.weight"].contiguous(memory_format=torch.channels_last)
    second = WeightPatcher(lambda: live, TABLE)
    second.apply({NETWORKS[0]: Strengths()})
    assert bits(live) == bits(expected)


def test_precision_switches_are_off_inside_and_restored():
    seen = []

    class Spy(LoraAdapter):
        def factors(self):
            seen.append(
                (torch.is_grad_enabled(), torch.is_autocast_cpu_enabled(), torch.get_float32_matmul_precision())
            )
            return super().factors()

    net = network(3)
    for name, a in list(net.adapters.items()):
        net.adapters[name] = Spy(a.down.data, a.up.data, None, a.alpha)
    expected, exact = made()
    exact.apply({NETWORKS[3]: Strengths()})
    live, patcher = made()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            patcher.apply({net: Strengths()})
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert {s[:2] for s in seen} == {(False, False)}
    assert bits(live) == bits(expected)


class Dense(Adapter):
    """A kind without factors, not linear in strength, whose ΔW depends on W0: stands for DoRA."""

    tensor_names = frozenset({"w"})
    linear_in_strength = False

    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.Parameter(w)

    @classmethod
    def from_tensors(cls, tensors, shape):
        return cls(tensors["w"])

    def to_tensors(self):
        return {"w": self.w}

    def delta(self, base):
        return base * self.w


def test_kind_without_factors_uses_w0_and_combines_with_lora():
    live, patcher = made()
    base = live["a.to_q.weight"].clone()
    dense = Network("dense", {LAYERS[0].name: Dense(torch.tensor(0.25))}, identity="d")
    patcher.apply({dense: Strengths(2.0), NETWORKS[0]: Strengths(0.5)})
    low_rank = NETWORKS[0].adapters[LAYERS[0].name].delta(base)
    torch.testing.assert_close(live["a.to_q.weight"], base + 0.5 * base + 0.5 * low_rank, rtol=1e-6, atol=1e-6)
    patcher.clear()
    assert torch.equal(live["a.to_q.weight"], base)


def test_blocks_give_the_same_numbers(monkeypatch):
    expected, whole = made(torch.float16)
    whole.apply({NETWORKS[0]: Strengths(), NETWORKS[1]: Strengths()})
    monkeypatch.setattr("lora_ext.patching.compose.CPU_BLOCK", 10)
    live, patcher = made(torch.float16)
    patcher.apply({NETWORKS[0]: Strengths(), NETWORKS[1]: Strengths()})
    for k, t in live.items():
        torch.testing.assert_close(t, expected[k], rtol=1e-3, atol=1e-4)


def test_forget_drops_copies_without_writing():
    live, patcher = made()
    patcher.apply({NETWORKS[0]: Strengths()})
    now = bits(live)
    patcher.forget()
    assert bits(live) == now
    assert patcher.originals_bytes == 0
    assert not patcher.state


def test_originals_keep_the_first_copy():
    kept = Originals(lambda: None)
    weight = torch.ones(2)
    kept.keep(LAYERS[0], weight)
    weight.zero_()
    assert torch.equal(kept.keep(LAYERS[0], weight).tensor, torch.ones(2))


def test_networks_made_in_inference_mode():
    with torch.inference_mode():
        net = network(11)
    live, patcher = made()
    patcher.apply({net: Strengths()})
    patcher.clear()
    assert bits(live) == bits(weights(torch.float32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card on this machine: device moves are not tested")
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_on_a_card_adapters_on_the_cpu(dtype):
    live = {k: t.cuda() for k, t in weights(dtype).items()}
    before = {k: t.clone() for k, t in live.items()}
    cpu, reference = made(dtype)
    reference.apply({NETWORKS[0]: Strengths()})
    patcher = WeightPatcher(lambda: live, TABLE)
    patcher.apply({NETWORKS[0]: Strengths()})
    for k, t in live.items():
        torch.testing.assert_close(t.cpu(), cpu[k], rtol=2e-2 if dtype == torch.bfloat16 else 2e-3, atol=1e-4)
    with pytest.raises(BadInput):
        patcher.apply({NETWORKS[0]: Strengths(1e39)})
    patcher.clear()
    assert all(torch.equal(live[k], before[k]) for k in live)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card on this machine: device moves are not tested")
def test_a_part_on_a_card_and_a_part_on_the_cpu():
    live = {k: t.cuda() if k.startswith("attn") else t for k, t in weights(torch.float16).items()}
    before = {k: t.clone() for k, t in live.items()}
    patcher = WeightPatcher(lambda: live, TABLE)
    patcher.apply({NETWORKS[0]: Strengths()})
    assert not any(torch.equal(live[k], before[k]) for k in live if k != "untouched.weight")
    with pytest.raises(BadInput):
        patcher.apply({NETWORKS[0]: Strengths(1e39)})
    patcher.clear()
    assert all(torch.equal(live[k], before[k]) for k in live)


def refused(patcher, strength):
    try:
        patcher.apply({NETWORKS[0]: Strengths(strength, 0.0)})
    except BadInput:
        return True
    return False


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_range_is_asked_for_once_and_again_when_it_may_be_left(dtype, monkeypatch):
    asked = []
    real = compose._Written
    monkeypatch.setattr(compose, "_Written", lambda *given: asked.append(1) or real(*given))
    live, patcher = made(dtype)
    for strength in (0.5, 0.9, -20.0):
        patcher.apply({NETWORKS[0]: Strengths(strength, strength)})
        assert len(asked) == len(NETWORKS[0].adapters), "every layer is looked at the first time, and only then"
    loud = [torch.finfo(dtype).max * share for share in (0.01, 0.3, 1.0, 3.0, 30.0)]
    assert [refused(patcher, s) for s in loud] == [refused(made(dtype)[1], s) for s in loud] != [False] * len(loud)
    patcher.clear()
    asked.clear()
    live["a.to_q.weight"].fill_(torch.finfo(dtype).max)
    patcher.apply({NETWORKS[0]: Strengths(0.0, 1.0)})
    assert asked, "a weight that held W0 again may have been changed since"
