"""The yaml beside a checkpoint."""

from __future__ import annotations

import pytest

from lora_ext.errors import BadInput
from lora_ext.model import Hints, hints_from_yaml

LDM = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    scale_factor: 0.18215
    {parameterization}
    unet_config: {{target: x, params: {{num_heads: 8, num_head_channels: {width}}}}}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder
      params: {{layer: "{layer}"}}
"""
SGM = """
model:
  params:
    denoiser_config: {{params: {{scaling_config: {{target: sgm.modules.diffusionmodules.denoiser_scaling.{name}}}}}}}
    network_config: {{params: {{num_head_channels: 64}}}}
"""


def hints(tmp_path, text):
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf8")
    return hints_from_yaml(path)


def test_ldm(tmp_path):
    plain = hints(tmp_path, LDM.format(parameterization="", width=-1, layer="last"))
    assert plain == Hints(prediction_type="epsilon", unet_heads=8, scale_factor=0.18215, clip_skip=1)
    v = hints(tmp_path, LDM.format(parameterization='parameterization: "v"', width=32, layer="penultimate"))
    assert v == Hints(prediction_type="v_prediction", unet_head_dim=32, scale_factor=0.18215, clip_skip=2)


@pytest.mark.parametrize("name, kind", [("EpsScaling", "epsilon"), ("VScaling", "v_prediction"), ("Other", None)])
def test_sgm(tmp_path, name, kind):
    assert hints(tmp_path, SGM.format(name=name)) == Hints(prediction_type=kind, unet_head_dim=64)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{{{", "not valid YAML"),
        ("just text", "not a model config"),
        ("", "not a model config"),
        ("model: {params: []}", "not a model config"),
        (LDM.format(parameterization="parameterization: x0", width=-1, layer="last"), "eps or v; got 'x0'"),
        (LDM.format(parameterization="", width="many", layer="last"), "num_head_channels in the yaml.*got 'many'"),
        (LDM.format(parameterization="", width=0, layer="last"), "num_head_channels in the yaml.*got 0"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path, text, words):
    with pytest.raises(BadInput, match=words) as caught:
        hints(tmp_path, text)
    assert "model.yaml" in caught.value.problems[0].field
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        hints_from_yaml(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not valid YAML"):
        hints_from_yaml(tmp_path / "x.yaml")


OWN_TEXT = """
model:
  params:
    unet_config: {{params: {{num_heads: 8}}}}
    cond_stage_config: {{target: ldm.modules.encoders.modules.FrozenCLIPEmbedder, params: {{version: {version}}}}}
"""


@pytest.mark.parametrize("version", ["clip", "models/Stable-diffusion/clip", "'models\\Stable-diffusion\\clip'"])
def test_heads_of_a_text_encoder_of_its_own(tmp_path, version):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"num_attention_heads": 3}', encoding="utf8")
    assert hints(tmp_path, OWN_TEXT.format(version=version)).te_heads == (3,)


@pytest.mark.parametrize("config", ["", "[]", '{"num_attention_heads": true}', '{"num_attention_heads": -1}'])
def test_a_folder_that_does_not_tell(tmp_path, config):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(config, encoding="utf8")
    assert hints(tmp_path, OWN_TEXT.format(version="clip")).te_heads == ()


def test_a_name_on_a_hub_is_no_folder(tmp_path):
    assert hints(tmp_path, OWN_TEXT.format(version="openai/clip-vit-large-patch14")).te_heads == ()
