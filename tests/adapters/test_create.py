"""Fresh adapters: nothing changes at the start, everything learns, and lycoris-lora reads what was learned."""

from __future__ import annotations

import math

import pytest
import torch
from test_lycoris_kinds import host, weight_by_forward

from lora_ext.adapters import ADAPTER_KINDS, CreateOptions, LoraAdapter, adapter_for, create_adapter
from lora_ext.errors import BadInput
from lora_ext.layers import ConvGeometry, Layer, LayerName

LINEAR, POINT, CONV, ODD = (24, 40), (24, 40, 1, 1), (16, 12, 3, 3), (15, 21)


def layer(shape, op=None):
    op = op or {1: "bias", 2: "linear", 4: "conv"}[len(shape)]
    name = LayerName("unet", "a.b")
    return Layer(name.bias if op == "bias" else name, "k", None, shape, op, "a.b")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


CASES = [
    ("lora", {}),
    ("lora", {"tucker": True}),
    ("lora", {"rslora": True}),
    ("lora", {"dora": True}),
    ("lora", {"dora": True, "tucker": True, "rslora": True}),
    ("lora", {"pissa": True}),
    ("loha", {}),
    ("loha", {"tucker": True}),
    ("loha", {"dora": True}),
    ("lokr", {}),
    ("lokr", {"lokr_factor": 4}),
    ("lokr", {"lokr_decompose_both": True, "tucker": True}),
    ("lokr", {"lokr_full": True}),
    ("lokr", {"dora": True}),
    ("oft", {}),
    ("oft", {"oft_constraint": 0.02, "oft_rescale": True}),
    ("ia3", {}),
    ("ia3", {"ia3_on_input": True}),
    ("ia3", {"ia3_on_input": False}),
    ("full", {}),
]
SHAPED = [(kind, options, shape) for kind, options in CASES for shape in (POINT, CONV, ODD)]


def fresh(kind, options, shape, seed=0):
    base = torch.randn(shape, generator=rng(9))
    return create_adapter(kind, layer(shape), 3, 2.0, CreateOptions(**options), rng(seed), base), base


def forward(adapter, x, base):
    if len(base.shape) == 2:
        return adapter.forward_delta(x, base, None)
    return adapter.forward_delta(x, base, ConvGeometry((1, 1), (base.shape[2] // 2, base.shape[3] // 2)))


def learn(adapter, base, steps=2):
    """A few steps of plain descent towards random outputs, so that every parameter moves."""
    g = rng(4)
    x = torch.randn(*((6, base.shape[1]) if base.dim() == 2 else (2, base.shape[1], 5, 5)), generator=g)
    goal = torch.randn(forward(adapter, x, base).shape, generator=g)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (forward(adapter, x, base) - goal).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("kind", "options", "shape"), SHAPED)
def test_starts_at_nothing_and_everything_learns(kind, options, shape):
    adapter, base = fresh(kind, options, shape)
    x = torch.randn(*((6, shape[1]) if len(shape) == 2 else (2, shape[1], 5, 5)), generator=rng(1))
    assert torch.equal(adapter.delta(base), torch.zeros(shape))
    assert not forward(adapter, x, base).any()
    before = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    assert before and all(p.dtype == torch.float32 and p.requires_grad for p in adapter.parameters())
    learn(adapter, base)
    for name, p in adapter.named_parameters():
        assert not torch.equal(p, before[name]), name
    assert torch.isfinite(adapter.delta(base)).all() and adapter.delta(base).any()


@pytest.mark.parametrize(("kind", "options", "shape"), SHAPED)
def test_the_seed_decides(kind, options, shape):
    first, second, other = (fresh(kind, options, shape, seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    drawn = any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    assert drawn == (kind in {"lora", "loha", "lokr"} and not options.get("pissa"))


@pytest.mark.parametrize(("kind", "options", "shape"), SHAPED)
def test_saved_and_read_is_the_same(kind, options, shape):
    adapter, base = fresh(kind, options, shape)
    learn(adapter, base)
    again = adapter_for(adapter.to_tensors(), shape)
    bound = 1e-5 if options.get("pissa") else 0.0
    torch.testing.assert_close(again.delta(base), adapter.delta(base), rtol=0, atol=bound)


def theirs_for(lycoris, kind, options, module, shape):
    """Their module with the same settings."""
    more = {"weight_decompose": True, "wd_on_out": False} if options.get("dora") else {}
    more |= {"use_tucker": True} if options.get("tucker") else {}
    more |= {"rs_lora": True} if options.get("rslora") else {}
    if kind == "lora":
        return lycoris.LoConModule("x", module, lora_dim=6 if options.get("pissa") else 3, alpha=2, **more)
    if kind == "loha":
        return lycoris.LohaModule("x", module, lora_dim=3, alpha=2, **more)
    if kind == "lokr":
        more |= {"decompose_both": options.get("lokr_decompose_both", False)}
        more |= {"full_matrix": options.get("lokr_full", False), "factor": options.get("lokr_factor", -1)}
        return lycoris.LokrModule("x", module, lora_dim=3, alpha=2, **more)
    if kind == "oft":
        rescaled, constraint = options.get("oft_rescale", False), options.get("oft_constraint", 0)
        return lycoris.DiagOFTModule("x", module, lora_dim=3, rescaled=rescaled, constraint=constraint)
    if kind == "ia3":
        on_input = options.get("ia3_on_input", len(shape) == 4)
        return lycoris.IA3Module("x", module, train_on_input=on_input)
    return lycoris.FullModule("x", module)


@pytest.mark.parametrize(("kind", "options", "shape"), SHAPED)
def test_lycoris_reads_what_was_learned(kind, options, shape):
    lycoris = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed: it reads nothing of ours")
    adapter, base = fresh(kind, options, shape)
    learn(adapter, base)
    module = host(shape, bias=False)
    module.weight.data.copy_(base)
    theirs = theirs_for(lycoris, kind, options, module, shape).eval()
    saved = {k: t.clone() for k, t in adapter.to_tensors().items()}
    if kind == "oft" and "rescale" in saved:
        saved["rescale"] = saved["rescale"].reshape(theirs.rescale.shape)
    missed = theirs.load_state_dict(saved, strict=False)
    assert not missed.unexpected_keys and set(missed.missing_keys) <= {"scalar", "alpha", "weight"}
    if options.get("pissa"):
        theirs.scale = float(theirs.alpha) / 6
    got = weight_by_forward(theirs, shape, torch.zeros(shape[0])) - base
    # `got` is a difference of float32 sums, which round to the size of the weight
    assert (adapter.delta(base) - got).norm() <= 1e-5 * got.norm() + 1e-6 * base.norm()


@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("shape", [(320, 768), (96, 64, 3, 3)])
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_drawn_as_lycoris_draws(kind, shape, tucker):
    """The same tensors in the same sizes, and as wide."""
    lycoris = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed: its start is not compared")
    options = {"tucker": True} if tucker else {}
    draws = [
        (
            create_adapter(kind, layer(shape), 3, 2.0, CreateOptions(**options), rng(seed)).to_tensors(),
            theirs_for(lycoris, kind, options, host(shape), shape).state_dict(),
        )
        for seed in range(30)
    ]
    made, theirs = draws[0]
    assert {k: t.shape for k, t in made.items()} == {k: t.shape for k, t in theirs.items()}
    for name, tensor in theirs.items():
        if tensor.numel() < 50:
            continue
        # of at least 1500 numbers: 0.1 is more than four standard errors of the quotient
        ours, drawn = (torch.stack([one[which][name].detach() for one in draws]) for which in (0, 1))
        assert float(ours.std()) == pytest.approx(float(drawn.std()), rel=0.1), name


def test_norms_and_biases():
    for kind, op, name in (
        ("norm", "norm", "w_norm"),
        ("norm", "bias", "b_norm"),
        ("full", "bias", "diff_b"),
        ("full", "embedding", "diff"),
    ):
        shape = (20, 8) if op == "embedding" else (8,)
        adapter = create_adapter(kind, layer(shape, op), 1, 1.0)
        assert set(adapter.to_tensors()) == {name}
        adapter.delta(torch.ones(shape)).sum().backward()
        assert torch.equal(next(adapter.parameters()).grad, torch.ones(shape))


@pytest.mark.parametrize("axis_base", [torch.float16, torch.bfloat16])
def test_dora_starts_at_nothing_from_half_weights_too(axis_base):
    base = torch.randn(CONV, generator=rng(2)).to(axis_base)
    adapter = create_adapter("lora", layer(CONV), 3, 2.0, CreateOptions(dora=True), rng(), base)
    assert adapter.to_tensors()["dora_scale"].shape == (1, 12, 1, 1), "the axis that A1111 and Forge read rightly"
    assert not adapter.delta(base.float()).any()


def test_pissa_starts_from_the_best_part_of_the_weight():
    base = torch.randn(LINEAR, generator=rng(2))
    adapter = create_adapter("lora", layer(LINEAR), 5, 3.0, CreateOptions(pissa=True), rng(), base)
    values = torch.linalg.svdvals(base)
    rest = base - LoraAdapter(adapter.down.detach(), adapter.up.detach(), None, 3.0).delta(base)
    torch.testing.assert_close(torch.linalg.svdvals(rest)[: len(values) - 5], values[5:], rtol=1e-4, atol=1e-5)
    saved = adapter.to_tensors()
    assert saved["lora_down.weight"].shape == (10, 40) and float(saved["alpha"]) == 6.0


def test_rank_stabilized_alpha_is_in_the_file():
    made = create_adapter("lora", layer(LINEAR), 9, 2.0, CreateOptions(rslora=True), rng())
    assert isinstance(made, LoraAdapter) and made.scale == pytest.approx(2 / math.sqrt(9))
    assert float(made.to_tensors()["alpha"]) == pytest.approx(6.0)


def test_the_mask_drops_ranks_in_forward_only():
    adapter, base = fresh("lora", {}, LINEAR)
    learn(adapter, base)
    x, delta = torch.randn(2, 40, generator=rng()), adapter.delta(base)
    adapter.mask = torch.tensor([2.0, 0.0, 1.0])
    kept = LoraAdapter((adapter.down * adapter.mask[:, None]).detach(), adapter.up.detach(), None, adapter.alpha)
    torch.testing.assert_close(adapter.forward_delta(x, base, None), kept.forward_delta(x, base, None))
    assert torch.equal(adapter.delta(base), delta)


BAD = {
    "rank": ("lora", (6, 8), {}, 0),
    "dora without the weight": ("lora", (6, 8), {"dora": True}, 2),
    "pissa without the weight": ("lora", (6, 8), {"pissa": True}, 2),
    "dora of ia3": ("ia3", (6, 8), {"dora": True}, 2),
    "factor for lora": ("lora", (6, 8), {"lokr_factor": 4}, 2),
    "factor 0": ("lokr", (6, 8), {"lokr_factor": 0}, 2),
    "norm of a linear": ("norm", (6, 8), {}, 2),
    "lora of a bias": ("lora", (6,), {}, 2),
    "oft of a bias": ("oft", (6,), {}, 2),
    "constraint": ("oft", (6, 8), {"oft_constraint": -1.0}, 2),
    "unknown": ("glora", (6, 8), {}, 2),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_nonsense_is_refused(case):
    kind, shape, options, rank = BAD[case]
    with pytest.raises(BadInput):
        create_adapter(kind, layer(shape), rank, 1.0, CreateOptions(**options), rng())
    assert "glora" not in ADAPTER_KINDS


def test_a_full_norm_is_refused():
    with pytest.raises(BadInput, match="norm"):
        create_adapter("full", layer((8,), "norm"), 1, 1.0)


def test_gradients_do_not_reach_the_weight_or_the_norm():
    """DoRA section 4.3: the norm counts as a constant."""
    base = torch.randn(LINEAR, generator=rng(2))
    adapter = create_adapter("lora", layer(LINEAR), 3, 2.0, CreateOptions(dora=True), rng(), base)
    learn(adapter, base)
    adapter.zero_grad()
    adapter.delta(base).square().sum().backward()
    inner = LoraAdapter(adapter.inner.down.detach(), adapter.inner.up.detach(), None, 2.0)
    c = (adapter.magnitude / (base + inner.delta(base)).norm(dim=0)).detach()
    ((base + inner.delta(base)) * c - base).square().sum().backward()
    torch.testing.assert_close(adapter.inner.up.grad, inner.up.grad, rtol=1e-4, atol=1e-3)
