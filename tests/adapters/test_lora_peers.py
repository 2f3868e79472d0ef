"""ΔW as whole tensors against the peers that are installed: peft and lycoris-lora."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_ext.adapters import LoraAdapter

BOUND = 1e-5


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def randomized(module: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(11)
    for p in module.parameters():
        p.data.normal_(0, 0.5, generator=g)
    return module


HOSTS = {
    "linear": lambda: nn.Linear(40, 24),
    "pointwise": lambda: nn.Conv2d(40, 24, 1),
    "conv": lambda: nn.Conv2d(12, 20, 3, padding=1),
    "strided": lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_delta(host, rslora):
    peft = pytest.importorskip("peft", reason="peft is not installed: its ΔW is not compared")
    module = HOSTS[host]()
    wrapped = peft.get_peft_model(
        nn.Sequential(module), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], use_rslora=rslora)
    )
    layer = randomized(wrapped.base_model.model[0])
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    alpha = 6 * 4**0.5 if rslora else 6.0
    ours = LoraAdapter.from_tensors(
        {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}, tuple(module.weight.shape)
    )
    theirs = layer.get_delta_weight("default")
    assert relative(ours.delta(module.weight), theirs) <= BOUND
    if host != "linear":
        return
    x = torch.randn(3, 7, 40)
    want = wrapped(x) - layer.base_layer(x)
    assert relative(ours.forward_delta(x, module.weight, None), want) <= BOUND


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("tucker", [False, True])
def test_lycoris_delta(host, tucker):
    locon = pytest.importorskip("lycoris.modules.locon", reason="lycoris-lora is not installed: its ΔW is not compared")
    module = HOSTS[host]()
    theirs = randomized(locon.LoConModule("x", module, lora_dim=4, alpha=3, use_tucker=tucker))
    tensors = {k: v.detach().clone() for k, v in theirs.state_dict().items() if k.startswith(("lora_", "alpha"))}
    assert ("lora_mid.weight" in tensors) == (tucker and host in {"conv", "strided"})
    ours = LoraAdapter.from_tensors(tensors, tuple(module.weight.shape))
    delta = theirs.get_diff_weight()[0]
    assert relative(ours.delta(module.weight), delta.reshape(module.weight.shape)) <= BOUND
