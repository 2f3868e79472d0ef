"""What A1111's builtin extension makes of what we save: its own module classes, with stand-ins for the host.

Needs WEBUI_DIR, as the tests in tests/hosts do. Strength 1, and only layers that the builtin reads rightly.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

import adapter_samples
import pytest
import torch
from test_create import CASES, CONV, ODD, POINT, fresh, learn
from torch import nn

from lora_ext.adapters import adapter_for

WEBUI = os.environ.get("WEBUI_DIR", "")
pytestmark = pytest.mark.skipif(not WEBUI, reason="WEBUI_DIR is not set: A1111's builtin reads nothing of ours here")

STAND_INS = (
    "modules.sd_models",
    "modules.cache",
    "modules.errors",
    "modules.hashes",
    "modules.shared",
    "modules.devices",
    "modules.models",
    "modules.models.sd3",
    "modules.models.sd3.mmdit",
)


@pytest.fixture
def builtin(monkeypatch):
    """The builtin's `ModuleType…` objects in its own order."""
    root = types.ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", root)
    for name in STAND_INS:
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, leaf = name.rpartition(".")
        setattr(sys.modules[parent], leaf, module)
    sys.modules["modules.models.sd3.mmdit"].QkvLinear = type("QkvLinear", (nn.Linear,), {})
    sys.modules["modules.devices"].cpu = torch.device("cpu")
    sys.modules["modules.devices"].dtype = torch.float32
    monkeypatch.syspath_prepend(str(Path(WEBUI) / "extensions-builtin" / "Lora"))
    kinds = ("lora", "hada", "ia3", "lokr", "full", "norm", "glora", "oft")
    before = set(sys.modules)
    try:
        found = [importlib.import_module(f"network_{kind}") for kind in kinds]
        types_of = [getattr(m, n) for m in found for n in dir(m) if n.startswith("ModuleType") and n != "ModuleType"]
        yield [kind() for kind in types_of]
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


def read(builtin, module, tensors):
    network = sys.modules["network"]
    net = types.SimpleNamespace(te_multiplier=1.0, unet_multiplier=1.0, dyn_dim=None)
    weights = network.NetworkWeights("key", "diffusion_model_x", dict(tensors), module)
    made = next(m for m in (kind.create_module(net, weights) for kind in builtin) if m is not None)
    return made.calc_updown(module.weight.detach())


@pytest.mark.parametrize("shape", [POINT, CONV, ODD])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_builtin_reads_the_same_delta(builtin, kind, options, shape):
    if kind == "ia3" and options.get("ia3_on_input") is False and len(shape) == 4:
        return  # it lays a factor per output along the inputs of convolutions, which is why ours default to the inputs
    adapter, base = fresh(kind, options, shape)
    learn(adapter, base)
    out, width, *kernel = shape
    module = nn.Conv2d(width, out, tuple(kernel)) if kernel else nn.Linear(width, out)
    module.weight.data.copy_(base)
    updown, bias = read(builtin, module, adapter.to_tensors())
    assert bias is None
    want = adapter.delta(base).detach()
    assert (updown.reshape(shape) - want).norm() <= 1e-5 * want.norm() + 1e-6 * base.norm()


@pytest.mark.parametrize("module", [nn.LayerNorm(12), nn.GroupNorm(3, 12)], ids=["layer", "group"])
def test_the_builtin_reads_norms_with_their_bias(builtin, module):
    updown, bias = read(builtin, module, {"w_norm": torch.full((12,), 0.25), "b_norm": torch.full((12,), 0.5)})
    assert torch.equal(updown, torch.full((12,), 0.25)) and torch.equal(bias, torch.full((12,), 0.5))


BESIDE = {
    "LoRA": adapter_samples.lora,
    "LoHa": adapter_samples.loha,
    "LoKr": adapter_samples.lokr,
    "IA3": lambda shape, rand: adapter_samples.ia3(shape, rand, True),
    "OFT": lambda shape, rand: adapter_samples.oft(shape, rand, rescale=False),
    "full": adapter_samples.full,
}


@pytest.mark.parametrize("inner", BESIDE)
def test_a_magnitude_beside_any_kind_means_what_it_means_to_the_builtin(builtin, inner):
    """Per input: the axis that the builtin computes rightly."""
    shape, rand = (12, 8), adapter_samples.draw(1)
    tensors = adapter_samples.dora(BESIDE[inner], 1)(shape, rand)
    module = nn.Linear(8, 12)
    module.weight.data.copy_(rand(*shape))
    updown, _ = read(builtin, module, tensors)
    want = adapter_for(tensors, shape).delta(module.weight.detach()).detach()
    assert (updown.reshape(shape) - want).norm() <= 1e-4 * want.norm()
