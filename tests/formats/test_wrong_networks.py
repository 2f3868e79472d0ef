"""Whole files whose tensors are wrong for the loaded model: the message names file, tensor, and what to do."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import tiny_table
import torch

from lora_ext.errors import BadInput
from lora_ext.formats import read_network
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import WantedLora
from lora_ext.patching import Strengths

NAMES = tiny_table.names()
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def good(family="sd1", context=12):
    names = tiny_table.names(family, context)
    return tiny_table.tensors_of(tiny_table.network(tiny_table.table(family, context)), names.kohya)


def refused(tmp_path, tensors, names=NAMES, metadata=None):
    path = tmp_path / "bad.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    with pytest.raises(BadInput) as caught:
        read_network(path, names)
    assert str(path) in str(caught.value)
    return str(caught.value)


def without(key):
    tensors = good()
    del tensors[key]
    return tensors


CHANGES = {
    "up without down": (lambda t: t.pop(f"{Q}.lora_down.weight"), f"{Q}.lora_down.weight"),
    "down without up": (lambda t: t.pop(f"{Q}.lora_up.weight"), f"{Q}.lora_up.weight"),
    "alpha 0": (lambda t: t.update({f"{Q}.alpha": torch.tensor(0.0)}), f"{Q}.alpha"),
    "alpha NaN": (lambda t: t.update({f"{Q}.alpha": torch.tensor(math.nan)}), f"{Q}.alpha"),
    "alpha of two": (lambda t: t.update({f"{Q}.alpha": torch.ones(2)}), f"{Q}.alpha"),
    "ranks disagree": (lambda t: t.update({f"{Q}.lora_up.weight": torch.ones(8, 3)}), f"{Q}.lora_up.weight"),
    "rank 0": (
        lambda t: t.update({f"{Q}.lora_up.weight": torch.ones(8, 0), f"{Q}.lora_down.weight": torch.ones(0, 8)}),
        f"{Q}.lora_down.weight",
    ),
    "up [1, r]": (lambda t: t.update({f"{Q}.lora_up.weight": torch.ones(1, 2)}), f"{Q}.lora_up.weight"),
    "transposed": (
        lambda t: t.update({f"{Q}.lora_up.weight": torch.ones(2, 8), f"{Q}.lora_down.weight": torch.ones(8, 2)}),
        "transposed",
    ),
    "NaN": (lambda t: t[f"{TEXT}.lora_up.weight"].fill_(math.nan), f"{TEXT}.lora_up.weight"),
    "inf": (lambda t: t[f"{TEXT}.lora_down.weight"].fill_(math.inf), f"{TEXT}.lora_down.weight"),
    "integers": (lambda t: t.update({f"{Q}.lora_up.weight": torch.ones(8, 2).long()}), f"{Q}.lora_up.weight"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_broken_tensors_are_named_as_in_the_file(tmp_path, change):
    """One broken layer refuses the file, its sound ones too, and says so; `read_network` tells why."""
    tensors = good()
    CHANGES[change][0](tensors)
    message = refused(tmp_path, tensors)
    assert CHANGES[change][1] in message
    assert "\n" not in message
    assert message.endswith(f"Nothing of the file is used, as 1 of its {len(NAMES.table.layers)} layers is broken.")


@pytest.mark.parametrize("change", CHANGES)
def test_beside_a_file_with_one_broken_layer_others_apply_exactly(tmp_path, change):
    tensors = good()
    safetensors.torch.save_file(tensors, tmp_path / "whole.safetensors")
    CHANGES[change][0](tensors)
    safetensors.torch.save_file(tensors, tmp_path / "half.safetensors")
    library = Library([tmp_path])
    wanted = [WantedLora("half", Strengths()), WantedLora("whole", Strengths(0.7, 0.4))]
    both, problems = library.resolve(wanted, NAMES)
    alone, none = library.resolve(wanted[1:], NAMES)
    assert len(problems) == 1 and "half.safetensors" in str(problems[0]) and not none
    assert both == alone and [network.name for network in both] == ["whole"]


def test_every_problem_is_reported_but_not_a_thousand(tmp_path):
    tensors = good()
    for key in tensors:
        if key.endswith("alpha"):
            tensors[key] = torch.tensor(0.0)
    assert refused(tmp_path, tensors).count("\n") == len(NAMES.table.layers) - 1
    many = {**tensors, **{k.replace(".alpha", ".lora_up.weight"): torch.ones(3, 3) for k in tensors if "alpha" in k}}
    lines = refused(tmp_path, many).splitlines()
    assert len(lines) <= 9


@pytest.mark.parametrize(
    ("file_family", "context", "model_family", "file_title", "model_title"),
    [
        ("sdxl", 2048, "sd1", "SDXL", "SD 1.x"),
        ("sd1", 768, "sdxl", "SD 1.x", "SDXL"),
        ("sd2", 1024, "sd1", "SD 2.x", "SD 1.x"),
        ("sd1", 768, "sd2", "SD 1.x", "SD 2.x"),
    ],
)
def test_another_family_is_named(tmp_path, file_family, context, model_family, file_title, model_title):
    real = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
    names = tiny_table.names(model_family, real[model_family])
    message = refused(tmp_path, good(file_family, context), names)
    assert f"for {file_title}" in message
    assert model_title in message


def test_shrunken_model_of_another_family_is_told_by_metadata(tmp_path):
    message = refused(tmp_path, good("sdxl"), NAMES, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert "for SDXL" in message


@pytest.mark.parametrize("start", ["base_model.model.", "lycoris_"])
@pytest.mark.parametrize(("width", "encoder"), [(12, "te1"), (10, "te2"), (7, None)])
def test_a_text_encoder_that_says_not_which(tmp_path, start, width, encoder):
    """By its size; unless the file says that it is for another family, whose text encoder may be as wide."""
    path, names = "text_model.encoder.layers.0.self_attn.q_proj", tiny_table.names("sdxl")
    prefix = start + (path.replace(".", "_") if start.endswith("_") else path)
    tensors = {f"{prefix}.lora_down.weight": torch.ones(2, width), f"{prefix}.lora_up.weight": torch.ones(width, 2)}
    if encoder is None:
        assert "no tensor fits" in refused(tmp_path, tensors, names)
        return
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    (layer,) = read_network(tmp_path / "a.safetensors", names).network.adapters
    assert layer.component == encoder
    assert "for SD 1.x" in refused(tmp_path, tensors, names, {"ss_base_model_version": "sd_v1"})


def test_wrong_metadata_alone_refuses_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(good(), path, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert read_network(path, NAMES).unmatched == ()


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "Flux"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "SD 3"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "SD 3"),
    ],
)
def test_networks_of_models_we_do_not_know(tmp_path, key, model):
    message = refused(
        tmp_path, {key: torch.ones(2, 2), key.replace("down", "up").replace("_A", "_B"): torch.ones(2, 2)}
    )
    assert f"for {model}" in message


def test_no_key_matches(tmp_path):
    message = refused(tmp_path, {"first": torch.ones(2), "second.thing": torch.ones(2)})
    assert "no tensor fits the loaded SD 1.x model" in message
    assert "first, second.thing" in message


def test_a_checkpoint_is_no_network(tmp_path):
    message = refused(tmp_path, {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)})
    assert "no tensor fits the loaded SD 1.x model; expected a LoRA or another network" in message


def test_kinds_that_nobody_reads_are_named(tmp_path):
    ends = ("q_layer.weight", "p_layer.weight", "lambda_layer", "alpha")
    message = refused(tmp_path, {f"{Q}.{end}": torch.ones(2, 2) for end in ends})
    assert "a T-LoRA of a kind that cannot be read" in message and "save a plain LoRA" in message


def test_a_tensor_named_twice(tmp_path):
    tensors = good()
    tensors["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"] = torch.ones(8, 2)
    assert "name the same tensor" in refused(tmp_path, tensors)


def test_lora_of_an_inpainting_input(tmp_path):
    tensors = good()
    tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"] = torch.ones(2, 9, 3, 3)
    assert "resnets_0_conv1.lora_down.weight: does not fit" in refused(tmp_path, tensors)
