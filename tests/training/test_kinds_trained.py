"""Every kind of adapter, trained for real on the demo's base: it learns, and lycoris-lora and peft read the same ΔW."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from training_runs import contents, run

from demo import judge
from lora_ext.config import CheckpointConfig
from lora_ext.formats import NameTable, read_network
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.training import Validated

# torch 2.1's bfloat16 attention went beyond its memory with several threads only
pytestmark = pytest.mark.all_threads

STEPS = 8
BOUND = 1e-5
SOME = r"input_blocks\.[14]\.|middle_block\.1\.|output_blocks\.5\.|layers\.0\.self_attn"
"""Enough layers of every sort to learn something, few enough to be quick."""

KINDS = {
    "lora": {},
    "locon": {"conv_rank": 4, "conv_alpha": 2.0},
    "locon-tucker": {"conv_rank": 4, "tucker": True},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa", "learning_rate": 1e-3},
    "dora": {"dora": True},
    "loha": {"kind": "loha", "conv_rank": 4, "learning_rate": 3e-2},
    "lokr": {"kind": "lokr", "conv_rank": 4, "lokr_factor": 4, "learning_rate": 3e-2},
    "oft": {"kind": "oft", "learning_rate": 2e-2},
    "oft-rescaled": {"kind": "oft", "oft_rescale": True, "learning_rate": 2e-2},
    "ia3": {"kind": "ia3", "learning_rate": 1e-1},
    "full": {"kind": "full", "learning_rate": 2e-3},
    "norm": {"kind": "norm", "learning_rate": 3e-2},
    "text too": {"text_encoder_lr": 1e-3},
    "in bf16": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def base():
    return StandaloneModel.load(CheckpointConfig(checkpoint=str(judge.BASE), device="cpu"))


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """One pattern in several places: what holds for some of the pictures holds for all."""
    folder = tmp_path_factory.mktemp("plates")
    y, x = np.mgrid[:64, :64]
    for n in range(8):
        inside = (abs(x - 32 - n % 3) < 22) & (abs(y - 32 + n % 4) < 22)
        striped = np.where((x + y + n) % 16 < 8, 230, 20)
        plate = np.stack([np.where(inside, striped, 128), np.where(inside, 40, 128), np.where(inside, 200, 128)], -1)
        Image.fromarray(plate.astype(np.uint8)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text("a gorp plate", encoding="utf8")
    return folder


def trained(base, plates, folder, **values):
    """A run of few steps on most of the plates, and the losses on the others."""
    settings = {
        "images": str(plates),
        "max_steps": STEPS,
        "batch_size": 3,
        "rank": 4,
        "alpha": 4.0,
        "only_layers": SOME,
        "learning_rate": 1e-2,
        "validation_share": 25.0,
        "validation_every": STEPS,
    }
    result = run(folder, base, **{**settings, **values})
    return result, [e.loss for e in result.of(Validated)]


@pytest.fixture(scope="module")
def untaught(base, plates, tmp_path_factory):
    """The loss on the held-out plates of the model as it is."""
    _, losses = trained(base, plates, tmp_path_factory.mktemp("untaught"), learning_rate=1e-30, max_steps=1)
    return losses[-1]


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_and_others_read_the_same_delta(base, plates, untaught, tmp_path, name):
    values = KINDS[name]
    result, losses = trained(base, plates, tmp_path, **values)
    print(f"{name}: held-out loss {untaught:.4f} -> {losses[-1]:.4f}")
    assert losses[-1] < 0.97 * untaught
    tensors = contents(result.path)[0]
    read = read_network(result.path, NameTable(base.table))
    assert not read.unmatched
    assert any(n.component == "te1" for n in read.network.adapters) is ("text_encoder_lr" in values)
    alone = {key.removesuffix("_b") for key in tensors if key.endswith(".diff_b")} - tensors.keys()
    assert not alone, "no host reads the difference of a bias without that of its weight"
    assert_read_alike(base, read.network, tensors, name)


def assert_read_alike(base, network, tensors, name):
    lycoris = pytest.importorskip("lycoris.modules", reason="lycoris-lora is the peer of this check")
    names = NameTable(base.table)
    compared = 0
    for layer_name, adapter in network.adapters.items():
        layer = base.table.layers[layer_name]
        weight = layer.view(base.tensors[layer.key]).detach().float()
        if layer.op == "bias":
            continue  # goes with its owner
        prefix = names.kohya(layer_name)
        own = {key.removeprefix(f"{prefix}."): t for key, t in tensors.items() if key.startswith(f"{prefix}.")}
        want = adapter.delta(weight).detach()
        found = delta_of_lycoris(lycoris, layer, weight, own)
        assert want.norm() > 0, f"{layer_name} learnt nothing"
        assert (found - want).norm() <= BOUND * want.norm() + 1e-6 * weight.norm(), layer_name
        if set(own) == {"lora_up.weight", "lora_down.weight", "alpha"}:
            assert (delta_of_peft(layer, weight, own) - want).norm() <= BOUND * want.norm(), layer_name
        compared += 1
    assert compared > 10


def host(shape, weight):
    out, width, *kernel = shape
    made = nn.Conv2d(width, out, tuple(kernel), padding=kernel[0] // 2) if kernel else nn.Linear(width, out)
    made.weight.data.copy_(weight)
    made.bias.data.zero_()
    return made


@torch.no_grad()
def delta_of_lycoris(lycoris, layer, weight, own):
    """By what their module of these tensors does to its input."""
    rank = own["lora_down.weight"].shape[0] if "lora_down.weight" in own else 4
    alpha = float(own.get("alpha", torch.tensor(1.0)))
    if layer.op == "norm":
        made = lycoris.NormModule("x", nn.LayerNorm(layer.shape[0]))
        made.load_state_dict({key: own[key] for key in ("w_norm", "b_norm")})
        x = torch.randn(7, layer.shape[0], generator=torch.Generator().manual_seed(1))
        plain, moved = (made(x) for made in (made.org_module[0], made))
        return (moved - plain - own["b_norm"]).sum(0) / nn.functional.layer_norm(x, x.shape[1:]).sum(0)
    module = host(layer.shape, weight)
    if "diff" in own:
        made = lycoris.FullModule.make_module_from_state_dict("x", module, own["diff"], own.get("diff_b"))
        return made.get_diff_weight()[0].detach().reshape(layer.shape)
    if "on_input" in own:
        made = lycoris.IA3Module("x", module, train_on_input=bool(own["on_input"]))
    elif "oft_blocks" in own:
        made = lycoris.DiagOFTModule("x", module, lora_dim=4, rescaled="rescale" in own)
        assert made.oft_blocks.shape == own["oft_blocks"].shape
    else:
        kinds = {"lora": lycoris.LoConModule, "hada": lycoris.LohaModule, "lokr": lycoris.LokrModule}
        kind = next(kinds[start] for key in own if (start := key.partition("_")[0]) in kinds)
        dora = {"weight_decompose": True, "wd_on_out": False} if "dora_scale" in own else {}
        more = {"factor": 4} if kind is lycoris.LokrModule else {}
        made = kind("x", module, lora_dim=rank, alpha=alpha, use_tucker="lora_mid.weight" in own, **dora, **more)
    missing, unexpected = made.load_state_dict(own, strict=False)
    assert not unexpected
    assert not [key for key in missing if key not in ("scalar", "on_input")]
    return forward_weight(made.eval(), layer.shape) - weight


@torch.no_grad()
def forward_weight(module, shape):
    """A convolution answers a single lit point with its kernel, turned around."""
    _, width, *kernel = shape
    x = torch.zeros(width, width, *kernel)
    x[(range(width), range(width), *(k // 2 for k in kernel))] = 1
    y = module(x)
    return (y.flip(2, 3) if kernel else y).transpose(0, 1)


def delta_of_peft(layer, weight, own):
    peft = pytest.importorskip("peft", reason="peft is the peer of this check")
    rank = own["lora_down.weight"].shape[0]
    config = peft.LoraConfig(r=rank, lora_alpha=float(own["alpha"]), target_modules=["0"])
    made = peft.get_peft_model(nn.Sequential(host(layer.shape, weight)), config).base_model.model[0]
    made.lora_A["default"].weight.data.copy_(own["lora_down.weight"])
    made.lora_B["default"].weight.data.copy_(own["lora_up.weight"])
    return made.get_delta_weight("default").detach()
