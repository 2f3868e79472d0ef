"""SSD-1B, a pruned SDXL: files made for it and files made for the whole SDXL, on either model; and it runs."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel

from demo import random_base
from lora_ext.formats import NameTable, read_network
from lora_ext.model import added_conditioning, build_unet, default_targets, detect, layer_table
from lora_ext.patching import Strengths, WeightPatcher

SEGMIND = {
    # what config.json of segmind/SSD-1B says where it differs from SDXL's
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, 2, 4],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}


@functools.cache
def plan(pruned):
    made = random_base.plan("sdxl", tiny_text=True)
    size = dataclasses.replace(made.unet, base=32, multipliers=(1, 1, 1), depth=(0, 2, 10), pruned=pruned)
    return dataclasses.replace(made, unet=size)


@functools.cache
def whole(pruned):
    tensors = random_base.random_tensors("sdxl", plan(pruned), 0)
    arch = detect(tensors)
    return arch, tensors, layer_table(arch)


def spelled(layer, how, names):
    if layer.name.component != "unet" or how == "kohya":
        return names.kohya(layer.name)
    return "lora_unet_" + layer.module.replace(".", "_") if how == "diffusers" else "unet." + layer.module


def file_for(pruned, how, path):
    """A LoRA of rank 1 on every target; ΔW by layer."""
    _, _, table = whole(pruned)
    names, g = NameTable(table), torch.Generator().manual_seed(1)
    tensors, deltas = {}, {}
    for layer in default_targets(table, conv=True):
        down = torch.randn(1, *layer.shape[1:], generator=g) * 0.1
        up = torch.randn(layer.shape[0], 1, *(1 for _ in layer.shape[2:]), generator=g) * 0.1
        prefix = spelled(layer, how, names)
        tensors |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
        deltas[layer.name] = (up.flatten(1) @ down.flatten(1)).reshape(layer.shape)
    safetensors.torch.save_file(tensors, path)
    return deltas


@pytest.mark.parametrize(
    ("made_for", "loaded", "how"), [(True, True, "diffusers"), (False, True, "kohya"), (True, False, "dots")]
)
def test_every_layer_that_is_there_and_no_other(tmp_path, made_for, loaded, how):
    deltas = file_for(made_for, how, tmp_path / "a.safetensors")
    _, tensors, table = whole(loaded)
    before = {layer.key: tensors[layer.key].clone() for layer in table.layers.values() if layer.op != "embedding"}
    result = read_network(tmp_path / "a.safetensors", NameTable(table))
    gone = [name for name in deltas if name not in table.layers]
    assert len(result.unmatched) == 2 * len(gone)
    assert (len(gone) > 100) == (loaded and not made_for)
    patcher = WeightPatcher(lambda: tensors, table)
    patcher.apply({result.network: Strengths()})
    for name, layer in table.layers.items():
        if layer.op == "embedding":
            continue
        want = layer.view(before[layer.key]) + deltas.get(name, torch.zeros(()))
        torch.testing.assert_close(layer.view(tensors[layer.key]), want, rtol=1e-5, atol=1e-6)
    patcher.clear()
    assert all(torch.equal(tensors[key], tensor) for key, tensor in before.items())


def test_its_unet_is_segminds():
    arch, tensors, _ = whole(True)
    ours = build_unet(arch, tensors)
    config = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    theirs = UNet2DConditionModel(**{**config, **SEGMIND}).eval()
    theirs.load_state_dict(ours.state_dict())
    g = torch.Generator().manual_seed(2)
    latents, context = torch.randn(1, 4, 8, 8, generator=g), torch.randn(1, 77, arch.unet.context_dim, generator=g)
    pooled = torch.randn(1, arch.text[-1].projection, generator=g)
    added = added_conditioning(arch, pooled, torch.tensor([[64, 64, 0, 0, 64, 64]]))
    with torch.no_grad():
        one, other = (
            unet(latents, torch.tensor([9]), context, added_cond_kwargs=added).sample for unet in (ours, theirs)
        )
    assert torch.equal(one, other) and one.isfinite().all()
