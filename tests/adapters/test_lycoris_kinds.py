"""ΔW of every kind as whole tensors against lycoris-lora's own modules: what their forward does to the input.

Their forward is the truth, being what was trained; strength 1 only, because their modules scale inside where hosts
scale the difference.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_ext.adapters import adapter_for, split_bias

lycoris = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed: its ΔW is not compared")

BOUND = 1e-5


def host(shape, bias=True):
    out, width, *kernel = shape
    if not kernel:
        return nn.Linear(width, out, bias)
    return nn.Conv2d(width, out, tuple(kernel), padding=tuple(k // 2 for k in kernel), bias=bias)


def randomized(module, std=0.5):
    g = torch.Generator().manual_seed(11)
    for p in module.parameters():
        p.data.normal_(0, std, generator=g)
    return module.eval()


def weight_by_forward(forward, shape, bias):
    """The weight that `forward` behaves like: a convolution answers a single point with its kernel, turned around."""
    _, width, *kernel = shape
    x = torch.zeros(width, width, *kernel)
    x[(range(width), range(width), *(k // 2 for k in kernel))] = 1
    with torch.no_grad():
        y = forward(x)
    y = y - bias.reshape(1, -1, *(1 for _ in kernel))
    return (y.flip(*range(2, 2 + len(kernel))) if kernel else y).transpose(0, 1)


def relative(ours, theirs):
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def file_of(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def compare(make, shape, std=0.5):
    """`make(host)` is their module; its file read by us must change the weight as its forward does."""
    module = host(shape)
    theirs = randomized(make(module), std)
    base = module.weight.detach()
    want = weight_by_forward(theirs, shape, module.bias.detach()) - base
    tensors, bias = split_bias(file_of(theirs))
    assert not bias
    assert want.norm() > 1e-3
    ours = adapter_for(tensors, shape)
    assert relative(ours.delta(base), want) <= BOUND
    again = adapter_for(ours.to_tensors(), shape)
    assert relative(again.delta(base), want) <= BOUND
    return ours


LINEAR, POINT, CONV, ODD, PRIME = (24, 40), (24, 40, 1, 1), (16, 12, 3, 3), (15, 21), (13, 7, 3, 3)
SHAPES = [LINEAR, POINT, CONV, ODD, PRIME]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_tucker": True},
        {"rs_lora": True},
        {"use_scalar": True},
        {"weight_decompose": True, "wd_on_out": True},
        {"weight_decompose": True, "wd_on_out": False},
        {"weight_decompose": True, "use_tucker": True, "rs_lora": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("algo", ["locon", "loha"])
def test_locon_and_loha(algo, options, rank, shape):
    kind = {"locon": lycoris.LoConModule, "loha": lycoris.LohaModule}[algo]
    compare(lambda module: kind("x", module, lora_dim=rank, alpha=3, **options), shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 1000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factor": 1},
        {"factor": 2},
        {"factor": 8},
        {"factor": 7},
        {"decompose_both": True},
        {"full_matrix": True},
        {"use_tucker": True},
        {"use_scalar": True},
        {"unbalanced_factorization": True},
        {"weight_decompose": True, "wd_on_out": True, "decompose_both": True},
        {"weight_decompose": True, "wd_on_out": False},
    ],
    ids=str,
)
def test_lokr(options, rank, shape):
    compare(lambda module: lycoris.LokrModule("x", module, lora_dim=rank, alpha=5, **options), shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 1000])
def test_lokr_scaled_by_the_root_of_its_rank(rank, shape):
    """Where both sides are whole their file does not say the rank, and their own reader takes the scale for 1; their
    forward scaled by √rank. We read what they read."""
    module = host(shape)
    theirs = randomized(
        lycoris.LokrModule("x", module, lora_dim=rank, alpha=5, decompose_both=True, use_tucker=True, rs_lora=True)
    )
    want = weight_by_forward(theirs, shape, module.bias.detach()) - module.weight.detach()
    tensors = file_of(theirs)
    if {"lokr_w1", "lokr_w2"} <= set(tensors):
        want = want / rank**0.5
    assert relative(adapter_for(tensors, shape).delta(module.weight.detach()), want) <= BOUND


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize("options", [{}, {"use_scalar": True}], ids=str)
def test_glora(options, rank, shape):
    compare(lambda module: lycoris.GLoRAModule("x", module, lora_dim=rank, alpha=3, **options), shape)


@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        (LINEAR, 2),
        (LINEAR, 4),
        (LINEAR, 100),
        (POINT, 4),
        (CONV, 4),
        (CONV, 100),
        (ODD, 3),
        (ODD, 5),
        ((26, 7, 3, 3), 2),
    ],
)
@pytest.mark.parametrize("options", [{}, {"rescaled": True}, {"constraint": 0.01}, {"constraint": 0.5}], ids=str)
def test_diag_oft(options, rank, shape):
    compare(lambda module: lycoris.DiagOFTModule("x", module, lora_dim=rank, **options), shape)


@pytest.mark.parametrize(
    ("shape", "rank"),
    [(LINEAR, 6), (LINEAR, 12), (POINT, 6), (CONV, 2), (CONV, 4), (CONV, 100), ((40, 9, 3, 3), 10), ((20, 21), 10)],
)
@pytest.mark.parametrize("options", [{}, {"rescaled": True}, {"constraint": 0.01}], ids=str)
def test_boft(options, rank, shape):
    compare(lambda module: lycoris.ButterflyOFTModule("x", module, lora_dim=rank, **options), shape)


def test_oft_of_single_rows_turns_nothing():
    theirs = randomized(lycoris.DiagOFTModule("x", host(PRIME), lora_dim=4))
    assert theirs.oft_blocks.shape == (13, 1, 1) and theirs.oft_blocks.abs().min() > 0
    assert not adapter_for(file_of(theirs), PRIME).delta(torch.ones(PRIME)).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3(on_input, shape):
    compare(lambda module: lycoris.IA3Module("x", module, train_on_input=on_input), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_with_its_bias(shape):
    module = host(shape)
    theirs = randomized(lycoris.FullModule("x", module))
    diff, diff_b = theirs.get_diff_weight()
    weight, bias = split_bias({"diff": diff.detach(), "diff_b": diff_b.detach()})
    assert torch.equal(adapter_for(weight, shape).delta(module.weight), diff)
    assert torch.equal(adapter_for(bias, shape[:1]).delta(module.bias), diff_b)
    want = weight_by_forward(theirs, shape, module.bias.detach() + diff_b.detach())
    torch.testing.assert_close(adapter_for(weight, shape).delta(module.weight) + module.weight, want)


@pytest.mark.parametrize("module", [nn.LayerNorm(12), nn.GroupNorm(3, 12)], ids=["layer", "group"])
def test_norm_with_its_bias(module):
    theirs = randomized(lycoris.NormModule("x", module))
    weight, bias = split_bias(file_of(theirs))
    x = torch.randn(5, 12, 4, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs(x)
        module.weight += adapter_for(weight, (12,)).delta(module.weight)
        module.bias += adapter_for(bias, (12,)).delta(module.bias)
        torch.testing.assert_close(module(x), want)


def test_sparse_rest_as_their_extractor_writes_it():
    """What `lycoris.utils.extract_diff` does for a linear layer with `use_bias`, whose loops want a whole model."""
    utils = pytest.importorskip("lycoris.utils", reason="lycoris-lora's extractor does not load here")
    g = torch.Generator().manual_seed(3)
    diff = torch.randn(24, 40, generator=g)
    (down, up, rest), mode = utils.extract_linear(diff, "fixed", 6, device="cpu")
    assert mode == "low rank"
    sparse = utils.make_sparse(rest.reshape(24, -1), 0.9).to_sparse().coalesce()
    tensors = {
        "lora_down.weight": down,
        "lora_up.weight": up,
        "alpha": torch.Tensor([down.shape[0]]),
        "bias_indices": sparse.indices().to(torch.int16),
        "bias_values": sparse.values(),
        "bias_size": torch.tensor(rest.shape).to(torch.int16),
    }
    delta = adapter_for(tensors, (24, 40)).delta(torch.zeros(24, 40))
    assert relative(delta, up @ down + sparse.to_dense()) <= BOUND
    assert relative(delta, diff) < relative(up @ down, diff)


@pytest.mark.parametrize("dimension", [*range(1, 70), 320, 640, 768, 1280, 2560, 3072, 5120])
def test_factorization_is_theirs(dimension):
    from lycoris.functional import factorization as theirs

    from lora_ext.adapters.start import factorization

    for factor in (-1, 1, 2, 3, 4, 6, 8, 16, 100, 1000):
        assert factorization(dimension, factor) == theirs(dimension, factor), factor
