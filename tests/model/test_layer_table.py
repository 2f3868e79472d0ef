"""Every layer, and kohya's choice of them."""

from __future__ import annotations

from collections import Counter

import full_size
import pytest
from checkpoints import tensors

from lora_ext.layers import LayerName
from lora_ext.model import build_text, build_unet, default_targets, detect, layer_table, module_of


@pytest.mark.parametrize("family, unet, text", [("sd1", 192, 72), ("sd2", 192, 144), ("sdxl", 722, 264)])
def test_kohyas_choice(family, unet, text):
    table = layer_table(detect(full_size.tensors(family)))
    found = Counter(layer.name.component[:2] for layer in default_targets(table, conv=False))
    assert found == {"un": unet, "te": text}


@pytest.mark.parametrize("family, unet", [("sd1", 278), ("sdxl", 788)])
def test_locon_adds_resnets_and_samplers(family, unet):
    """SD1.5: 22 resnets of conv1, conv2, time_emb_proj, 14 of them with a shortcut, 3 downsamplers, 3 upsamplers = 86.
    SDXL: 17 resnets, 11 with a shortcut, 2 + 2 samplers = 66."""
    table = layer_table(detect(full_size.tensors(family)))
    assert len([x for x in default_targets(table, conv=True) if x.name.component == "unet"]) == unet


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_table_covers_every_weight_and_bias_once(family):
    known = full_size.tensors(family)
    table = layer_table(detect(known))
    claimed: Counter[str] = Counter()
    for layer in table.layers.values():
        view = layer.view(known[layer.key])
        assert tuple(view.shape) == layer.shape
        claimed[layer.key] += view.numel()
    leftover = [
        key
        for key, tensor in known.items()
        if claimed[key] != tensor.numel() and not key.startswith("first_stage_model.")
    ]
    # SD 2.x never uses its text encoder's projection
    expected = {"position_ids", "logit_scale"} | ({"text_projection"} if family == "sd2" else set())
    assert {key.rsplit(".", 1)[-1] for key in leftover} <= expected


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_names_and_modules_are_unique(family):
    layers = list(layer_table(detect(full_size.tensors(family))).layers.values())
    assert len({(x.name.component, x.module) for x in layers}) == len(layers)
    assert len({(x.key, x.rows) for x in layers}) == len(layers)


def test_some_layers_by_hand():
    table = layer_table(detect(full_size.tensors("sdxl")))
    layer = table.layers[LayerName("unet", "output_blocks.2.1.transformer_blocks.9.attn2.to_k")]
    assert (layer.shape, layer.op) == ((1280, 2048), "linear")
    assert layer.module == "up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_k"
    upsampler = table.layers[LayerName("unet", "output_blocks.2.2.conv")]
    assert (upsampler.module, upsampler.op) == ("up_blocks.0.upsamplers.0.conv", "conv")
    fused = table.layers[LayerName("te2", "text_model.encoder.layers.3.self_attn.v_proj")]
    assert fused.key == "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    assert fused.rows == (2560, 3840) and fused.shape == (1280, 1280)
    sd1 = layer_table(detect(full_size.tensors("sd1")))
    assert sd1.layers[LayerName("unet", "input_blocks.1.1.proj_in")].op == "conv"
    assert sd1.layers[LayerName("unet", "output_blocks.2.1.conv")].module == "up_blocks.0.upsamplers.0.conv"


def test_a_bias_is_a_layer_that_follows_its_weight():
    layers = list(layer_table(detect(full_size.tensors("sdxl"))).layers.values())
    biases = [i for i, layer in enumerate(layers) if layer.op == "bias"]
    assert len(biases) > len(layers) // 3
    for i in biases:
        owner, bias = layers[i - 1], layers[i]
        assert bias.name == owner.name.bias and bias.name.owner == owner.name == owner.name.owner
        assert (bias.shape, bias.rows, bias.module) == (owner.shape[:1], owner.rows, owner.module + ".bias")
    table = {layer.name: layer for layer in layers}
    assert table[LayerName("unet", "out.0").bias].key == "model.diffusion_model.out.0.bias"
    fused = table[LayerName("te2", "text_model.encoder.layers.3.self_attn.v_proj").bias]
    assert fused.key.endswith("resblocks.3.attn.in_proj_bias") and fused.rows == (2560, 3840)
    assert LayerName("unet", "input_blocks.4.1.transformer_blocks.0.attn1.to_q").bias not in table


def test_forward_order():
    names = [x.name for x in layer_table(detect(full_size.tensors("sdxl"))).layers.values()]
    assert [n.component for n in names] == sorted((n.component for n in names), key=["unet", "te1", "te2"].index)
    paths = [n.path.split(".")[0] for n in names if n.component == "unet"]
    order = ["time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out"]
    assert list(dict.fromkeys(paths)) == order


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_module_of_finds_every_layer(family):
    known = tensors(family)
    arch = detect(known)
    unet, text = build_unet(arch, known), build_text(arch, known)
    roots = {"unet": unet, "te1": text.encoders[0], "te2": text.encoders[-1]}
    for layer in layer_table(arch).layers.values():
        module = module_of(roots[layer.name.component], layer)
        own = module.bias if layer.op == "bias" else module.weight
        assert tuple(own.shape) == layer.shape
        assert own.data_ptr() == layer.view(known[layer.key]).data_ptr()
    with pytest.raises(AttributeError):
        module_of(text, next(iter(layer_table(arch).layers.values())))
