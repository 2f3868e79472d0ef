"""Ours written for sd-scripts: read again it says the same, and what it has no words for is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lora_ext.config import DataConfig, TrainConfig, flat, read, settings
from lora_ext.config_import import read_foreign, to_sd_scripts
from lora_ext.config_import.export import GROUP, RUN, SET
from lora_ext.config_import.outcome import Everything
from lora_ext.data import data_sets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NEEDED = {"images": "D:\\it's", "output": "cat", "checkpoint": "m.safetensors"}


def again(folder: Path, values: dict) -> dict:
    """Written for sd-scripts and read back."""
    export = to_sd_scripts(values)
    (folder / "config.toml").write_text(export.run, encoding="utf8")
    (folder / "dataset.toml").write_text(export.datasets, encoding="utf8")
    out = read_foreign(folder / "config.toml")
    assert out is not None
    assert not [e for e in out.refused if "nobody told" in e.what]
    return out.settings


def test_defaults_come_back(tmp_path: Path) -> None:
    values = flat(read(Everything, NEEDED))
    found = again(tmp_path, values)
    differ = {name: (values[name], value) for name, value in found.items() if values[name] != value}
    assert differ.pop("caption_extension") == (".txt, .caption", ".txt")
    assert differ == {}
    assert to_sd_scripts(values).left_out == ()


CHANGED = {
    "rank": 7, "alpha": 3.5, "dropout": 0.25, "clip_skip": 2, "caption_tokens": "150", "epochs": 3,
    "learning_rate": 3e-4, "text_encoder_lr": 1e-5,
    "schedule": "cosine", "schedule_cycles": 4, "schedule_power": 3.0, "warmup": 9,
    "optimizer": "lion", "accumulate": 4, "max_grad_norm": 0.5, "precision": "bf16", "checkpointing": True, "seed": 99,
    "loss_type": "huber", "huber_schedule": "constant", "huber_c": 0.2, "huber_scale": 2.0, "min_snr_gamma": 5.0,
    "debiased": True, "scale_v_loss": True, "masked_loss": True, "prior_weight": 0.5, "noise_offset": 0.05,
    "noise_offset_random": True, "adaptive_noise_offset": 0.01, "pyramid_levels": 6, "pyramid_discount": 0.4,
    "input_perturbation": 0.1, "input_perturbation_random": True, "zero_terminal_snr": True, "timestep_min": 10,
    "timestep_max": 900, "save_every_steps": 50, "save_every_epochs": 2, "save_precision": "fp32", "preview_every": 30,
    "decode_threads": 5, "cache": "disk", "start_from": "old.safetensors", "resolution": 768, "buckets": False,
    "repeats": 4, "concept": "sks", "flip": True, "crop": "random", "shuffle_tags": True, "keep_tokens": 2,
    "keep_separator": "|||", "joint_separator": ";;;", "tag_separator": ".", "tag_dropout": 0.1, "caption_dropout": 0.2,
    "caption_dropout_epochs": 3, "wildcards": True, "mask_folder": "masks", "caption_extension": ".tags",
    "batch_size": 6, "weight_decay": 0.2, "optimizer_args": "betas=(0.8,0.9)", "conv_rank": 4, "conv_alpha": 2.0,
    "rank_dropout": 0.1, "module_dropout": 0.2, "dora": True, "kind": "loha", "rslora": True, "loraplus_ratio": 4.0,
    "v_pred_like_loss": 0.5, "preview_every_epochs": 2, "preview_first": True, "tensorboard": True,
    "validation_share": 12.5, "text_encoder_2_lr": 2e-5, "warmup_percent": 5.0, "block_lr": "IN04=0.5 MID=2 OUT11=0",
    "layers": "attention", "tucker": True, "train_norms": True, "lokr_factor": 8, "lokr_decompose_both": True,
    "lokr_full": True, "oft_constraint": 0.25, "oft_rescale": True, "ia3_side": "input",
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_comes_back(tmp_path: Path, name: str) -> None:
    also = {"conv_rank": 4} if name == "conv_alpha" else {}
    values = flat(read(Everything, {**NEEDED, **also, name: CHANGED[name]}))
    assert values[name] != settings(Everything)[name].default or name in NEEDED
    assert again(tmp_path, values)[name] == CHANGED[name]
    assert to_sd_scripts(values).left_out == ()


def test_every_setting_that_is_exported_was_tried() -> None:
    indirect = {"trigger_words", "colour_jitter", "upscale_limit", "regularisation", "max_steps"}
    assert {*RUN, *SET, *GROUP} - set(CHANGED) - set(NEEDED) == indirect


def test_indirect_ones(tmp_path: Path) -> None:
    values = flat(read(Everything, {**NEEDED, "trigger_words": "sks cat", "colour_jitter": 0.3, "max_steps": 70}))
    found = again(tmp_path, values)
    assert found["caption_template"] == "sks cat, [filewords]"
    assert (found["colour_jitter"], found["max_steps"], "epochs" in found) == (0.1, 70, False)
    values = flat(read(Everything, {**NEEDED, "upscale_limit": 1.0}))
    assert again(tmp_path, values)["upscale_limit"] == 1.0


def test_several_data_sets_come_back(tmp_path: Path) -> None:
    lines = "images = 'dogs', repeats = 2, resolution = 768\nimages = 'pets', regularisation = true, concept = 'pet'"
    values = flat(read(Everything, {**NEEDED, "datasets": lines, "regularisation_images": "animals", "flip": True}))
    found = again(tmp_path, values)
    known = {k: v for k, v in found.items() if k in settings(DataConfig)}
    sets = data_sets(read(DataConfig, known))
    assert [(s.images, s.repeats, s.resolution, s.regularisation, s.concept, s.flip) for s in sets] == [
        ("D:\\it's", 1, 512, False, "", True),
        ("animals", 1, 512, True, "", True),
        ("dogs", 2, 768, False, "", True),
        ("pets", 1, 512, True, "pet", True),
    ]


def test_what_it_has_no_words_for_is_named() -> None:
    values = flat(
        read(Everything, {**NEEDED, "upscale_limit": 1.5, "crop": "none", "schedule": "rex", "ema_decay": 0.9})
    )
    assert to_sd_scripts(values).left_out == ("crop", "ema_decay", "schedule", "upscale_limit")


def test_the_files_are_toml() -> None:
    export = to_sd_scripts(flat(read(TrainConfig, {"images": 'quote " and \\ and \n', "output": "x"})))
    assert tomllib.loads(export.datasets)["datasets"][0]["subsets"][0]["image_dir"] == 'quote " and \\ and'
    assert tomllib.loads(export.run)["output_name"] == "x"
