"""ΔW as whole tensors against peft's own modules, from the state dicts they save."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from lora_ext.adapters import adapter_for, split_bias

peft = pytest.importorskip("peft", reason="peft is not installed: its ΔW is not compared")

BOUND = 1e-5
HOSTS = {
    "linear": lambda: nn.Linear(40, 24),
    "odd": lambda: nn.Linear(21, 15),
    "square": lambda: nn.Linear(16, 16),
    "pointwise": lambda: nn.Conv2d(40, 24, 1),
    "conv": lambda: nn.Conv2d(12, 20, 3, padding=1),
    "square conv": lambda: nn.Conv2d(12, 12, 3, padding=1),
}


def relative(ours, theirs):
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def wrapped(host, config):
    """Their model of one layer with random numbers, the layer, and its tensors as saved, less the prefix."""
    module = HOSTS[host]()
    model = peft.get_peft_model(nn.Sequential(module), config)
    g = torch.Generator().manual_seed(11)
    for name, p in model.named_parameters():
        if "base_layer" not in name:
            noise = torch.randn(p.shape, generator=g)
            p.data = p.data + 0.3 * noise.abs() if "magnitude" in name else 0.4 * noise
    saved = {
        k.removeprefix("base_model.model.0."): v.detach() for k, v in peft.get_peft_model_state_dict(model).items()
    }
    return model.eval(), model.base_model.model[0], saved


def ours_of(saved, shape, scale, **more):
    names = {
        "lora_A.weight": "lora_down.weight",
        "lora_B.weight": "lora_up.weight",
        "lora_B.bias": "lora_up.bias",
        "lora_magnitude_vector.weight": "lora_magnitude_vector",
    }
    tensors = {names.get(k, k): v for k, v in saved.items()} | {"scale": torch.tensor(scale)} | more
    weight, bias = split_bias(tensors)
    return adapter_for(weight, shape), bias


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("rank", [1, 7])
def test_loha(host, effective, rank):
    config = peft.LoHaConfig(r=rank, alpha=6, target_modules=["0"], use_effective_conv2d=effective)
    _, layer, saved = wrapped(host, config)
    assert ("hada_t1" in saved) == (effective and "conv" in host)
    shape = tuple(layer.weight.shape)
    ours, _ = ours_of(saved, shape, 6 / rank)
    assert relative(ours.delta(layer.weight), layer.get_delta_weight("default")) <= BOUND


@pytest.mark.parametrize("host", ["odd", "pointwise", "conv"])
@pytest.mark.parametrize(
    "options",
    [{}, {"decompose_both": True}, {"decompose_factor": 2}, {"decompose_factor": 8}, {"use_effective_conv2d": True}],
    ids=str,
)
@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_lokr(host, options, rank):
    """peft scales two whole sides too, and before 0.14 nothing at all; the tensors cannot tell, who reads the config
    must."""
    _, layer, saved = wrapped(host, peft.LoKrConfig(r=rank, alpha=6, target_modules=["0"], **options))
    scales = tuple(map(int, peft.__version__.split(".")[:2])) >= (0, 14)
    shape = tuple(layer.weight.shape)
    ours, _ = ours_of(saved, shape, 6 / rank if scales else 1.0)
    assert relative(ours.delta(layer.weight), layer.get_delta_weight("default")) <= BOUND


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("rslora", [False, True])
def test_dora_is_per_output(host, rslora):
    """The magnitude of a convolution stands as [1, out, 1, 1], which elsewhere would mean the inputs."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], use_dora=True, use_rslora=rslora)
    model, layer, saved = wrapped(host, config)
    shape = tuple(layer.weight.shape)
    base = layer.base_layer.weight.detach().clone()
    ours, _ = ours_of(saved, shape, 6 / (2 if rslora else 4))
    model.merge_adapter()
    theirs = layer.base_layer.weight.detach() - base
    assert theirs.norm() > 0.1
    assert relative(ours.delta(base), theirs) <= BOUND


def test_bias_of_the_factors():
    if "lora_bias" not in inspect.signature(peft.LoraConfig).parameters:
        pytest.skip(f"peft {peft.__version__} has no lora_bias yet: its bias is not compared")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], lora_bias=True)
    model, layer, saved = wrapped("linear", config)
    base, before = layer.base_layer.weight.detach().clone(), layer.base_layer.bias.detach().clone()
    ours, bias = ours_of(saved, tuple(base.shape), 6 / 4)
    model.merge_adapter()
    assert relative(ours.delta(base), layer.base_layer.weight - base) <= BOUND
    assert relative(adapter_for(bias, (24,)).delta(before), layer.base_layer.bias - before) <= BOUND


def test_embedding():
    module = nn.Embedding(30, 8)
    model = peft.get_peft_model(nn.Sequential(module), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"]))
    layer = model.base_model.model[0]
    for p in (*layer.lora_embedding_A.values(), *layer.lora_embedding_B.values()):
        p.data.normal_(generator=torch.Generator().manual_seed(5))
    saved = {k.rsplit(".", 1)[-1]: v for k, v in peft.get_peft_model_state_dict(model).items() if "embedding_" in k}
    assert set(saved) == {"lora_embedding_A", "lora_embedding_B"}
    ours = adapter_for(saved | {"alpha": torch.tensor(6.0)}, (30, 8))
    assert relative(ours.delta(layer.weight), layer.get_delta_weight("default")) <= BOUND
    again = adapter_for(ours.to_tensors(), (30, 8))
    assert torch.equal(again.delta(layer.weight), ours.delta(layer.weight))
