"""Files of other trainers: every key accounted for, and the values where they belong.

The files are made for these tests. Real files, where there are any at hand, can be named in LORA_EXT_FOREIGN_CONFIGS.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from foreign import FILES, imported, keys, why

from lora_ext.config import DataConfig, TrainConfig, read, settings
from lora_ext.config_import import read_foreign
from lora_ext.config_import.outcome import Everything
from lora_ext.data import data_sets
from lora_ext.training.layer_rules import rules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KOHYA_FORM = 51
"""Keys that the kohya_ss form of early 2023 saves."""


def test_every_key_of_the_form_is_in_exactly_one_list() -> None:
    raw = json.loads((FILES / "kohya_form.json").read_text())
    out = imported("kohya_form.json")
    assert len(raw) == KOHYA_FORM
    assert sorted(keys(out.mapped) + keys(out.refused) + keys(out.meaningless)) == sorted(raw)


@pytest.mark.parametrize("key", sorted(json.loads((FILES / "kohya_form.json").read_text())))
def test_no_key_of_the_form_is_unknown_when_alone(key: str) -> None:
    from lora_ext.config_import.recognise import read_tree

    raw = json.loads((FILES / "kohya_form.json").read_text())
    out = read_tree({key: raw[key], "train_batch_size": 1}, ".json", FILES)
    assert out is not None
    assert key in out.keys()  # noqa: SIM118
    assert not any("nobody told" in e.what for e in out.refused)


NAMED = [Path(p) for p in os.environ.get("LORA_EXT_FOREIGN_CONFIGS", "").split(os.pathsep) if p]


@pytest.mark.skipif(not NAMED, reason="LORA_EXT_FOREIGN_CONFIGS names no real settings files to try")
def test_real_files() -> None:
    for path in NAMED:
        out = read_foreign(path)
        assert out is not None
        assert not any("nobody told" in e.what for e in out.refused)
        if path.suffix == ".json":
            assert set(json.loads(path.read_text())) == out.keys()


def test_the_forms_values() -> None:
    out = imported("kohya_form.json")
    assert out.origin == "kohya_ss"
    assert not out.refused
    assert out.settings == {
        "checkpoint": "models/base.safetensors",
        "images": "pictures/cat",
        "output": "loras/cat.safetensors",
        "resolution": 512,
        "learning_rate": 1e-4,
        "text_encoder_lr": 5e-5,
        "schedule": "cosine",
        "warmup_percent": 10.0,
        "batch_size": 3,
        "epochs": 4,
        "save_every_epochs": 2,
        "precision": "bf16",
        "save_precision": "fp16",
        "seed": 7,
        "caption_extension": ".txt",
        "buckets": False,
        "checkpointing": True,
        "optimizer": "adamw8bit",
        "shuffle_tags": True,
        "prior_weight": 0.5,
        "rank": 24,
        "alpha": 12.0,
        "flip": True,
        "clip_skip": 2,
        "accumulate": 2,
        "caption_tokens": "150",
        "decode_threads": 1,
        "keep_tokens": 1,
    }
    read(Everything, out.settings)


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"full_fp16": True}, "full_fp16", "float32"),
        ({"save_model_as": "ckpt"}, "save_model_as", "always .safetensors"),
        ({"stop_text_encoder_training": 20}, "stop_text_encoder_training", "percent"),
        ({"pretrained_model_name_or_path": "someone/model"}, "pretrained_model_name_or_path", "no checkpoint file"),
        ({"lr_scheduler": "adafactor"}, "lr_scheduler", "is not one of"),
        ({"resume": "state"}, "resume", "start_from"),
        ({"max_resolution": "500,500"}, "max_resolution", "multiple of 64"),
        ({"max_resolution": "wide"}, "max_resolution", "cannot be read"),
        ({"network_dim": 0}, "network_dim", "out of range"),
        ({"LoRA_type": "LyCORIS/DyLoRA"}, "LoRA_type", "cannot be trained"),
        ({"brand_new_option": 1}, "brand_new_option", "nobody told"),
        ({"optimizer": "Lion8bit"}, "optimizer", "optimizer_class"),
    ],
)
def test_what_is_refused_is_refused_by_name(tmp_path: Path, change: dict, key: str, said: str) -> None:
    raw = json.loads((FILES / "kohya_form.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(raw | change))
    out = read_foreign(tmp_path / "a.json")
    assert key in keys(out.refused)
    assert said in why(out, key)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"color_aug": True}, {"colour_jitter": 0.1}),
        ({"max_train_epochs": "9"}, {"epochs": 9}),
        ({"unet_lr": "", "text_encoder_lr": ""}, {"learning_rate": 2e-4, "text_encoder_lr": 2e-4}),
        ({"unet_lr": "0"}, {"learning_rate": 0.0, "text_encoder_lr": 5e-5}),
        ({"max_resolution": "512,768"}, {"resolution": 576}),
        ({"lora_network_weights": "old.safetensors"}, {"start_from": "old.safetensors"}),
        ({"reg_data_dir": "cats"}, {"regularisation_images": "cats"}),
        ({"lr_scheduler": "polynomial"}, {"schedule": "polynomial", "schedule_power": 1.0}),
        ({"LoRA_type": "LyCORIS/LoKr", "factor": 8, "conv_dim": 4}, {"kind": "lokr", "lokr_factor": 8, "conv_rank": 4}),
        (
            {"LoRA_type": "Standard", "factor": 8, "conv_dim": 4},
            {"kind": "lora", "lokr_factor": None, "conv_rank": None},
        ),
        (
            {"optimizer": "pytorch_optimizer.CAME", "use_8bit_adam": False},
            {"optimizer_class": "pytorch_optimizer.CAME"},
        ),
        ({"optimizer_args": "d_coef=2 betas=.9,.999"}, {"optimizer_args": "d_coef=2 betas=(.9,.999)"}),
        ({"bucket_no_upscale": True, "enable_bucket": True}, {"upscale_limit": 1.0}),
        ({"bucket_no_upscale": True}, {"upscale_limit": None}),
    ],
)
def test_keys_that_hang_together(tmp_path: Path, change: dict, wanted: dict) -> None:
    raw = json.loads((FILES / "kohya_form.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(raw | change))
    out = read_foreign(tmp_path / "a.json")
    assert {name: out.settings.get(name) for name in wanted} == wanted
    assert set(raw | change) == out.keys()


TWELVE = "1,1,1,1,0.5,1,1,1,1,1,1,0.2"
SD = " ".join([*(f"IN{n:02d}={n}" for n in range(12)), "MID=12", *(f"OUT{n:02d}={n + 13}" for n in range(12))])
NINE = range(9)
XL = " ".join(["BASE=0", *(f"IN{n:02d}={n + 1}" for n in NINE), "MID=5", *(f"OUT{n:02d}={n + 1}" for n in NINE)])
BLOCKS = [
    (
        {"network_args": [f"down_lr_weight={TWELVE}", "mid_lr_weight=2", f"up_lr_weight={TWELVE}"]},
        "block_lr",
        "IN04=0.5 IN11=0.2 MID=2 OUT04=0.5 OUT11=0.2",
    ),
    ({"down_lr_weight": TWELVE, "block_lr_zero_threshold": "0.3", "mid_lr_weight": ""}, "block_lr", "IN04=0.5 IN11=0"),
    ({"network_args": [f"up_lr_weight={','.join(['1'] * 12)}"]}, "block_lr", None),
    ({"network_args": ["down_lr_weight=sine+.1"]}, "block_lr", None),
    ({"network_args": [f"block_dims={','.join(map(str, range(25)))}"]}, "block_rank", SD),
    ({"block_dims": ",".join(["0", *"123456789", "5", "5", "5", *"123456789", "0"])}, "block_rank", XL),
    ({"block_dims": "4,4"}, "block_rank", None),
    ({"network_args": [f"block_alphas={','.join(['4'] * 3)}"]}, "layer_rules", None),
    ({"save_state": True, "save_every_n_steps": 50}, "state_every", 50),
    ({"save_state": True, "save_every_n_steps": 0}, "state_every", None),
]


@pytest.mark.parametrize(("change", "name", "wanted"), BLOCKS)
def test_numbers_by_block(tmp_path: Path, change: dict, name: str, wanted: str | None) -> None:
    raw = json.loads((FILES / "kohya_form.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(raw | change))
    out = read_foreign(tmp_path / "a.json")
    assert out.settings.get(name) == wanted
    assert set(raw | change) <= out.keys()
    assert not any("nobody told" in e.what for e in out.refused)


def test_alphas_by_block_reach_their_layers(tmp_path: Path) -> None:
    raw = json.loads((FILES / "kohya_form.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(raw | {"block_alphas": ",".join(map(str, range(1, 26)))}))
    text = str(read_foreign(tmp_path / "a.json").settings["layer_rules"])
    found = {}
    for layer in (
        "input_blocks.1.1.proj_in",
        "input_blocks.1.0.in_layers.2",
        "input_blocks.11.0.emb_layers.1",
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "middle_block.1.proj_out",
        "output_blocks.3.1.transformer_blocks.0.ff.net.2",
    ):
        rule = next((rule for rule in rules("layer_rules", text) if rule.pattern.search(f"unet:{layer}")), None)
        found[layer.split(".transformer")[0]] = rule and rule.alpha
    assert found == {
        "input_blocks.1.1.proj_in": 2.0,
        "input_blocks.1.0.in_layers.2": None,
        "input_blocks.11.0.emb_layers.1": None,
        "input_blocks.4.1": 5.0,
        "middle_block.1.proj_out": 13.0,
        "output_blocks.3.1": 17.0,
    }


def test_sd_scripts_with_its_data_sets() -> None:
    out = imported("sd_scripts.toml")
    assert out.origin == "sd-scripts"
    lines = out.settings.pop("datasets")
    assert out.settings == {
        "checkpoint": "models/base.safetensors",
        "output": "fox",
        "learning_rate": 1e-3,
        "text_encoder_lr": 1e-5,
        "text_encoder_2_lr": 2e-5,
        "schedule": "cosine_with_restarts",
        "schedule_cycles": 3,
        "warmup_percent": 5.0,
        "epochs": 8,
        "optimizer": "prodigy",
        "optimizer_args": "betas=(0.9,0.99) decouple=True",
        "weight_decay": 0.1,
        "min_snr_gamma": 5.0,
        "noise_offset": 0.05,
        "loss_type": "mse",
        "precision": "fp32",
        "kind": "loha",
        "rank": 8,
        "alpha": 1.0,
        "conv_rank": 4,
        "conv_alpha": 2.0,
        "layers": "attention_ff",
        "preview_prompt": "a fox --n blurry --w 640 --h 448 --d 5 --l 6.5 --s 12\na second fox",
        "images": "D:\\foxes",
        "concept": "sks fox",
        "repeats": 10,
        "resolution": 640,
        "batch_size": 4,
        "buckets": True,
        "upscale_limit": 1.0,
        "shuffle_tags": True,
        "caption_extension": ".caption",
        "keep_tokens": 2,
    }
    assert [(e.key, e.what) for e in out.assumed] == [("alpha", "1.0")]
    assert set(keys(out.refused)) == {
        "network_args.magic",
        "save_last_n_epochs",
        "sample_prompts --x",
        "datasets.1.subsets.0.face_crop_aug_range",
        "batch_size",
    }
    known = {name: value for name, value in out.settings.items() if name in settings(DataConfig)}
    _, reg, drawings = data_sets(read(DataConfig, {**known, "datasets": lines}))
    assert (reg.images, reg.regularisation, reg.concept, reg.repeats, reg.keep_tokens) == ("animals", True, "fox", 1, 1)
    assert (reg.resolution, reg.upscale_limit, reg.shuffle_tags) == (640, 1.0, True)
    assert (drawings.images, drawings.resolution, drawings.buckets, drawings.upscale_limit) == (
        "drawings",
        512,
        False,
        0,
    )
    assert (drawings.shuffle_tags, drawings.flip, drawings.caption_template) == (False, True, "drawing of [filewords]")
    assert (drawings.concept, drawings.repeats, drawings.keep_tokens) == ("", 1, 1)


def test_every_key_of_the_data_sets_is_accounted_for() -> None:
    out = imported("sd_scripts_data.toml")
    raw = tomllib.loads((FILES / "sd_scripts_data.toml").read_text())
    wanted = {f"general.{key}" for key in raw["general"]} - {"general.keep_tokens"} | {"general.keep_tokens"}
    for i, one in enumerate(raw["datasets"]):
        wanted |= {f"datasets.{i}.{key}" for key in one if key != "subsets"}
        wanted |= {f"datasets.{i}.subsets.{j}.{key}" for j, subset in enumerate(one["subsets"]) for key in subset}
    assert wanted <= out.keys()


def test_lora_scripts() -> None:
    out = imported("lora_scripts.toml")
    raw = tomllib.loads((FILES / "lora_scripts.toml").read_text())
    assert out.origin == "lora-scripts"
    assert set(raw) == out.keys()
    assert set(keys(out.refused)) == {"max_bucket_reso", "sample_sampler", "full_bf16"}
    some = {
        "resolution": 832,
        "learning_rate": 2e-4,
        "text_encoder_lr": 0.0,
        "optimizer": "prodigy",
        "optimizer_args": "d_coef=2.0",
        "schedule_power": 1.0,
        "warmup": 20,
        "cache": "disk",
        "preview_prompt": "an owl",
        "output": "output/owl.safetensors",
        "regularisation_images": "train/birds",
    }
    assert {name: out.settings[name] for name in some} == some
    read(Everything, out.settings)


def test_concepts() -> None:
    out = imported("concepts.json")
    lines = out.settings.pop("datasets")
    assert out.settings == {
        "images": "people/ada",
        "concept": "ada",
        "caption_template": "photo of ada, [filewords]",
        "preview_prompt": "ada on a horse",
        "preview_cfg": 6.0,
        "preview_steps": 30,
    }
    data = {k: v for k, v in out.settings.items() if "preview" not in k}
    _, others, lab = data_sets(read(DataConfig, {**data, "datasets": lines}))
    assert (others.images, others.regularisation, others.caption_template) == (
        "people/others",
        True,
        "photo of a person",
    )
    assert (lab.images, lab.caption_template, lab.regularisation) == ("places/lab", "the lab", False)
    assert set(keys(out.refused)) == {"0.num_class_images_per", "0.sample_seed"}
    raw = json.loads((FILES / "concepts.json").read_text())
    assert {f"{i}.{key}" for i, one in enumerate(raw) for key in one} == out.keys()


@pytest.mark.parametrize(
    "text",
    ['{"rank": 4, "learning_rate": 1e-4}', '{"network": {"rank": 4}}', '{"learning_rate": 1, "seed": 2}', "[]", "3"],
)
def test_files_of_our_own_are_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_foreign(tmp_path / "a.json") is None


def test_tables_name_settings_that_there_are() -> None:
    from lora_ext.config_import import concepts, hcp, kohya_keys, kohya_network, preview_prompts
    from lora_ext.config_import.rules import To, When

    tables = [kohya_keys.KEYS, kohya_network.ARGUMENTS, kohya_network.FORM, hcp.RUN, hcp.DATA, concepts.KEYS]
    named = {rule.setting for table in tables for rule in table.values() if isinstance(rule, (To, When))}
    assert named | set(preview_prompts.SIGNS.values()) <= set(settings(Everything))


def test_the_same_as_written_by_us(tmp_path: Path) -> None:
    """What `read` makes of an import is what was meant, for a whole run."""
    out = imported("lora_scripts.toml")
    known = {k: v for k, v in out.settings.items() if k in settings(TrainConfig)}
    assert read(TrainConfig, known).optim.learning_rate == 2e-4
