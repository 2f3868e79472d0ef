"""Every name round-trips, and the spellings that real files use are found."""

# ruff: noqa: E501 (names are as long as they are)

from __future__ import annotations

import families
import pytest
import tiny_table

from lora_ext.formats import NameTable
from lora_ext.layers import LayerName
from lora_ext.model import default_targets

FAMILIES = ("sd1", "sd2", "sdxl")


def weights(family):
    return [layer for layer in families.table(family).layers.values() if layer.op != "bias"]


def test_a_bias_is_named_by_its_owner():
    names, table = families.names("sd1"), families.table("sd1")
    biases = [layer for layer in table.layers.values() if layer.op == "bias"]
    assert len(biases) > 300
    for layer in biases:
        assert list(names.spellings(layer)) == []
        assert names.kohya(layer.name) == names.kohya(layer.name.owner)
        assert names.find(names.kohya(layer.name)) is table.layers[layer.name.owner]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_of_every_layer_comes_back(family):
    names = families.names(family)
    for layer in weights(family):
        spellings = list(names.spellings(layer))
        assert len(set(spellings)) >= 6
        for spelling in spellings:
            assert names.find(spelling) is layer, spelling
            assert names.split(f"{spelling}.lora_up.weight") == (layer, "lora_up.weight")
            assert names.split(f"{spelling}.alpha") == (layer, "alpha")


@pytest.mark.parametrize("family", FAMILIES)
def test_written_names_come_back_and_are_distinct(family):
    names = families.names(family)
    written = {names.kohya(layer.name): layer for layer in weights(family)}
    assert len(written) == len(weights(family))
    assert all(names.find(prefix) is layer and "." not in prefix for prefix, layer in written.items())


@pytest.mark.parametrize(("family", "unet", "text"), [("sd1", 192, 72), ("sdxl", 722, 264), ("sd2", 192, 144)])
def test_kohya_counts(family, unet, text):
    names = families.names(family)
    written = [names.kohya(layer.name) for layer in default_targets(families.table(family), conv=False)]
    assert sum(w.startswith("lora_unet_") for w in written) == unet
    assert sum(w.startswith("lora_te") for w in written) == text


KNOWN = {
    # as in files by kohya, A1111, diffusers, PEFT, LyCORIS and HCP-Diffusion
    "sd1": {
        "lora_unet_down_blocks_0_attentions_0_proj_in": "input_blocks.1.1.proj_in",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": "middle_block.1.transformer_blocks.0.ff.net.0.proj",
        "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_out_0": "output_blocks.5.1.transformer_blocks.0.attn2.to_out.0",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "lora_unet_down_blocks_0_resnets_1_conv1": "input_blocks.2.0.in_layers.2",
        "lora_unet_down_blocks_1_resnets_0_conv_shortcut": "input_blocks.4.0.skip_connection",
        "lora_unet_down_blocks_0_downsamplers_0_conv": "input_blocks.3.0.op",
        "lora_unet_up_blocks_0_upsamplers_0_conv": "output_blocks.2.1.conv",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora": "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora": "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "base_model.model.mid_block.attentions.0.proj_out": "middle_block.1.proj_out",
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_v": "input_blocks.1.1.transformer_blocks.0.attn1.to_v",
        "lycoris.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v": "input_blocks.1.1.transformer_blocks.0.attn1.to_v",
        "lycoris_mid_block_attentions_0_transformer_blocks_0_norm1": "middle_block.1.transformer_blocks.0.norm1",
        "oft_unet_down_blocks_0_attentions_0_proj_in": "input_blocks.1.1.proj_in",
        "denoiser.down_blocks.0.attentions.0.proj_in": "input_blocks.1.1.proj_in",
        "model.diffusion_model.input_blocks.1.1.proj_in": "input_blocks.1.1.proj_in",
        "lora_unet_conv_in": "input_blocks.0.0",
        "lora_unet_time_embedding_linear_2": "time_embed.2",
        "TE.text_model.encoder.layers.3.mlp.fc2": "text_model.encoder.layers.3.mlp.fc2",
        "lora_te1_text_model_encoder_layers_0_layer_norm1": "text_model.encoder.layers.0.layer_norm1",
        "lora_te_text_model_encoder_layers_11_self_attn_out_proj": "text_model.encoder.layers.11.self_attn.out_proj",
        "text_encoder.text_model.encoder.layers.3.mlp.fc2": "text_model.encoder.layers.3.mlp.fc2",
        "text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora": "text_model.encoder.layers.3.self_attn.out_proj",
        "text_model.encoder.layers.3.mlp.fc2": "text_model.encoder.layers.3.mlp.fc2",
    },
    "sd2": {
        "lora_te_text_model_encoder_layers_22_mlp_fc2": "text_model.encoder.layers.22.mlp.fc2",
        "lora_te_transformer_resblocks_0_attn_q_proj": "text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.5.layer_norm2": "text_model.encoder.layers.5.layer_norm2",
        "cond_stage_model.model.transformer.resblocks.7.mlp.c_fc": "text_model.encoder.layers.7.mlp.fc1",
    },
    "sdxl": {
        "lora_unet_label_emb_0_2": "label_emb.0.2",
        "lora_unet_add_embedding_linear_1": "label_emb.0.0",
        "clip_g.transformer.resblocks.3.mlp.c_proj": "text_model.encoder.layers.3.mlp.fc2",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc2": "text_model.encoder.layers.3.mlp.fc2",
        "lora_unet_input_blocks_4_1_transformer_blocks_1_ff_net_2": "input_blocks.4.1.transformer_blocks.1.ff.net.2",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_ff_net_2": "input_blocks.4.1.transformer_blocks.1.ff.net.2",
        "lora_unet_output_blocks_2_1_transformer_blocks_9_attn2_to_v": "output_blocks.2.1.transformer_blocks.9.attn2.to_v",
        "lora_unet_input_blocks_1_0_emb_layers_1": "input_blocks.1.0.emb_layers.1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": "text_model.encoder.layers.0.mlp.fc1",
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj": "text_model.encoder.layers.31.self_attn.q_proj",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj": "text_model.encoder.layers.31.self_attn.q_proj",
        "clip_bigG.text_model.encoder.layers.31.mlp.fc1": "text_model.encoder.layers.31.mlp.fc1",
    },
}  # fmt: skip


@pytest.mark.parametrize(("family", "prefix"), [(f, p) for f, spelled in KNOWN.items() for p in spelled])
def test_known_spellings(family, prefix):
    layer = families.names(family).find(prefix)
    assert layer is not None
    assert layer.name.path == KNOWN[family][prefix]
    second = any(sign in prefix for sign in ("te2", "encoder_2", "bigG", "clip_g"))
    text = "text_model" in prefix or "resblocks" in prefix
    assert layer.name.component == ("te2" if second else "te1" if text else "unet")


@pytest.mark.parametrize(
    "prefix", ["lora_te_text_model_encoder_layers_0_mlp_fc1", "text_model.encoder.layers.0.mlp.fc1"]
)
def test_a_name_that_could_mean_two_encoders_means_none(prefix):
    assert families.names("sdxl").find(prefix) is None


@pytest.mark.parametrize("key", ["", ".", "alpha", "lora_unet_nowhere.alpha", ".lora_up.weight", "a.b.c.d", "unet."])
def test_strangers_are_no_layer(key):
    assert families.names("sd1").split(key) is None


def test_text_encoder_without_the_level_that_transformers_5_dropped():
    layer = families.names("sd1").find("text_encoder.encoder.layers.0.mlp.fc1")
    assert layer is not None
    assert layer.name == LayerName("te1", "text_model.encoder.layers.0.mlp.fc1")


def test_spelling_of_two_layers_is_dropped():
    table = tiny_table.table()
    twin = next(iter(table.layers.values()))
    clash = type(twin)(LayerName("unet", "input.blocks.1.1.proj.in"), "k", None, (1, 1), "linear", "x.y")
    names = NameTable(type(table)(table.family, {**table.layers, clash.name: clash}))
    assert names.find("lora_unet_input_blocks_1_1_proj_in") is None
    assert names.find("lora_unet_down_blocks_0_attentions_0_proj_in") is twin
