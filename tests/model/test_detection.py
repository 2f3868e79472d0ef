"""What a checkpoint is, told by names and shapes alone."""

from __future__ import annotations

import full_size
import pytest
import torch
from checkpoints import checkpoint, tensors
from safetensors.torch import load_file

from lora_ext.errors import BadInput
from lora_ext.model import Hints, default_targets, detect, hints_from_yaml, layer_table

UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    "family, channels, depth, middle, heads, context, texts, clip_skip",
    [
        ("sd1", (320, 640, 1280, 1280), (1, 1, 1, 0), 1, (8, 8, 8, 8), 768, [(768, 12, 12, 0)], 1),
        ("sd2", (320, 640, 1280, 1280), (1, 1, 1, 0), 1, (5, 10, 20, 20), 1024, [(1024, 24, 16, 0)], 2),
        ("sdxl", (320, 640, 1280), (0, 2, 10), 10, (5, 10, 20), 2048, [(768, 12, 12, 0), (1280, 32, 20, 1280)], 2),
    ],
)
def test_published_models(family, channels, depth, middle, heads, context, texts, clip_skip):
    arch = detect(full_size.tensors(family), Hints(prediction_type="epsilon"))
    assert arch.family == family
    assert (arch.unet.channels, arch.unet.depth, arch.unet.middle_depth) == (channels, depth, middle)
    assert (arch.unet.heads, arch.unet.context_dim, arch.unet.res_blocks) == (heads, context, 2)
    assert arch.unet.linear_projection == (family != "sd1")
    assert arch.unet.added_dim == (2816 if family == "sdxl" else 0)
    assert [(t.width, t.layers, t.heads, t.projection) for t in arch.text] == texts
    assert arch.vae.channels == (128, 256, 512, 512) and arch.vae.factor == 8
    assert arch.vae.scale == (0.13025 if family == "sdxl" else 0.18215)
    assert arch.clip_skip == clip_skip
    assert not arch.inpainting
    assert arch.assumed == ()


def test_published_models_have_the_published_number_of_tensors():
    """v1-5-pruned-emaonly has 1131 tensors, sd_xl_base_1.0 has 2515 (+1 schedule)."""
    assert len(full_size.shapes("sd1")) == 1131
    assert len(full_size.shapes("sdxl")) == 2515


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_inpainting(family):
    arch = detect(full_size.tensors(family, in_channels=9))
    assert arch.inpainting and arch.unet.in_channels == 9
    assert arch.prediction_type == "epsilon"


@pytest.mark.parametrize("family, width", [("sd1", None), ("sd2", 16), ("sdxl", 16)])
def test_shrunken_models_with_their_yaml(family, width):
    path = checkpoint(family)
    arch = detect(load_file(path), hints_from_yaml(path.with_suffix(".yaml")))
    assert arch.family == family
    expected = (8,) * 4 if width is None else tuple(c // width for c in arch.unet.channels)
    assert arch.unet.heads == expected
    assert arch.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    assert not [s for s in arch.assumed if "UNet" in s or "prediction" in s]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_nobody_tells_is_said_aloud(family):
    arch = detect(tensors(family))
    assert [s for s in arch.assumed if "heads this small UNet" in s]
    assert [s for s in arch.assumed if "prediction type" in s and arch.prediction_type in s]


def test_v_prediction_comes_from_yaml_live_modules_or_a_marker_tensor():
    assert detect(full_size.tensors("sd2"), Hints(prediction_type="epsilon")).prediction_type == "epsilon"
    silent = detect(full_size.tensors("sd2"))
    assert silent.prediction_type == "v_prediction" and "v_prediction" in " ".join(silent.assumed)
    marked = detect(full_size.tensors("sdxl") | {"v_pred": torch.zeros(0)})
    assert marked.prediction_type == "v_prediction" and marked.assumed == ()


def test_hints_override_the_family():
    hints = Hints(unet_heads=4, te_heads=(8, 16), scale_factor=0.5, prediction_type="v_prediction")
    arch = detect(tensors("sdxl"), hints)
    assert set(arch.unet.heads) == {4}
    assert [t.heads for t in arch.text] == [8, 16]
    assert arch.vae.scale == 0.5
    assert arch.assumed == ()


def test_heads_that_do_not_divide():
    with pytest.raises(BadInput, match="cannot be split among 3 attention heads"):
        detect(tensors("sd1"), Hints(unet_heads=3))
    with pytest.raises(BadInput, match="cannot be split"):
        detect(tensors("sd2"), Hints(unet_head_dim=48))


def test_spelling_variants_of_sd1():
    wanted = detect(full_size.tensors("sd1"))
    without = {k.replace(".transformer.text_model.", ".transformer."): v for k, v in full_size.tensors("sd1").items()}
    assert detect(without).text[0].prefix == "cond_stage_model.transformer."
    no_ids = {k: v for k, v in full_size.tensors("sd1").items() if "position_ids" not in k}
    assert detect(no_ids) == wanted
    ema = {f"model_ema.{k.replace('.', '')}": v for k, v in full_size.tensors("sd1").items() if k.startswith(UNET)}
    assert detect(full_size.tensors("sd1") | ema | {"alphas_cumprod": torch.zeros(1000)}) == wanted


@pytest.mark.parametrize(
    "names, words",
    [
        ((), "unknown kind"),
        (("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",), "a LoRA"),
        (("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",), "a LoRA"),
        (("double_blocks.0.img_attn.qkv.weight",), "Flux"),
        (("model.diffusion_model.double_blocks.0.img_attn.qkv.weight",), "Flux"),
        (("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",), "SD3"),
        (("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "diffusers layout"),
        (("control_model.input_blocks.0.0.weight", f"{UNET}input_blocks.0.0.weight"), "ControlNet"),
        (("conditioner.embedders.0.model.ln_final.weight", f"{UNET}input_blocks.0.0.weight"), "refiner"),
        (("encoder.down.0.block.0.conv1.weight",), "a VAE alone"),
        (("text_model.encoder.layers.0.mlp.fc1.weight",), "a text encoder alone"),
        (("emb_params",), "textual inversion"),
    ],
)
def test_others_are_refused_by_name(names, words):
    with pytest.raises(BadInput, match=words) as caught:
        detect({name: torch.zeros(1) for name in names})
    assert caught.value.problems[0].field == "checkpoint"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels, words", [(5, "depth"), (8, "InstructPix2Pix"), (7, "7 input channels")])
def test_other_inputs_are_refused(channels, words):
    with pytest.raises(BadInput, match=words):
        detect(full_size.tensors("sd1", in_channels=channels))


def test_a_pruned_sdxl():
    """SSD-1B, whose 34 transformer blocks have ten matrices each, and its ten attentions two more."""
    arch = detect(full_size.tensors("sdxl", pruned=True))
    assert (arch.family, arch.unet.depth, arch.unet.middle_depth) == ("sdxl", (0, 2, 4), 0)
    assert arch.unet.climb == ((0, 0, 0), (2, 1, 1), (4, 4, 10))
    targets = default_targets(layer_table(arch), conv=False)
    assert sum(layer.name.component == "unet" for layer in targets) == 360
    assert detect(full_size.tensors("sdxl")).unet.climb == ()


@pytest.mark.parametrize("gone", ["middle_block.1.", "middle_block.2.", "output_blocks.5.1.", "input_blocks.7.1."])
def test_a_file_with_holes_is_no_pruned_model(gone):
    holes = {k: v for k, v in full_size.tensors("sdxl").items() if not k.startswith(UNET + gone)}
    with pytest.raises(BadInput):
        detect(holes)


def test_incomplete_and_misshapen_files_name_every_tensor():
    broken = full_size.tensors("sd1")
    first, second = f"{UNET}output_blocks.3.1.proj_in.weight", "first_stage_model.decoder.conv_out.bias"
    del broken[first]
    broken[second] = broken[second].new_empty(7)
    with pytest.raises(BadInput) as caught:
        detect(broken)
    text = str(caught.value)
    assert first in text and second in text and "expected 3; got 7" in text
    none = {k: v for k, v in full_size.tensors("sd1").items() if not k.startswith("first_stage_model.")}
    with pytest.raises(BadInput, match="no VAE"):
        detect(none)
    no_text = {k: v for k, v in full_size.tensors("sd1").items() if not k.startswith("cond_stage_model.")}
    with pytest.raises(BadInput, match="no text encoder"):
        detect(no_text)


def test_many_problems_are_counted_not_listed():
    few = {k: v for k, v in full_size.tensors("sd1").items() if ".attn2.to_out" not in k}
    with pytest.raises(BadInput, match="24 more tensors"):
        detect(few)


def test_extra_unet_tensors_are_not_ignored():
    odd = full_size.tensors("sd1") | {f"{UNET}surprise.weight": torch.zeros(1)}
    with pytest.raises(BadInput, match="surprise"):
        detect(odd)


def test_text_encoder_must_fit():
    mixed = {k: v for k, v in full_size.tensors("sd1").items() if not k.startswith("cond_stage_model.")}
    mixed |= {k: v for k, v in full_size.tensors("sd2").items() if k.startswith("cond_stage_model.")}
    with pytest.raises(BadInput, match="do not fit the UNet's cross attention; expected 768 wide; got 1024 wide"):
        detect(mixed)
