"""The metadata that hosts and trainers read, in both families of keys: `ss_*` (kohya) and `modelspec.*` (Stability)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone

from lora_ext.layers import Family

BASE_VERSIONS: Mapping[Family, str] = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES: Mapping[Family, str] = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}


def network_metadata(
    *,
    family: Family,
    name: str,
    rank: int,
    alpha: float,
    algorithm: Mapping[str, str] | None = None,
    conv_rank: int = 0,
    conv_alpha: float = 0.0,
    v_prediction: bool = False,
    checkpoint_name: str = "",
    checkpoint_sha256: str = "",
    resolution: tuple[int, int] | None = None,
    clip_skip: int = 0,
    seed: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    text_encoder_lr: float | None = None,
    pictures: int | None = None,
    folders: Mapping[str, tuple[int, int]] | None = None,
    tags: Mapping[str, Mapping[str, int]] | None = None,
    buckets: Mapping[tuple[int, int], int] | None = None,
    started: float | None = None,
    finished: float | None = None,
    settings: Mapping[str, bool | int | float | str] | None = None,
) -> dict[str, str]:
    """Metadata of a network file; every value is a string, facts not given are left out.

    `algorithm` are LyCORIS' arguments (`formats.algorithm.algorithm_of`), nothing for kohya's own LoRA and LoCon.
    `folders` is name -> (repeats, pictures), `tags` folder -> tag -> count, `buckets` (width, height) -> pictures,
    times in seconds since 1970, `resolution` (width, height) in pixels.
    """
    out = _kohya_core(family, name, rank, alpha, v_prediction) | _network(algorithm or {}, conv_rank, conv_alpha)
    facts: dict[str, object | None] = {
        "ss_sd_model_name": checkpoint_name or None,
        "ss_new_sd_model_hash": checkpoint_sha256 or None,
        "ss_resolution": f"({resolution[0]}, {resolution[1]})" if resolution else None,
        "ss_clip_skip": clip_skip or None,
        "ss_seed": seed,
        "ss_steps": steps,
        "ss_max_train_steps": steps,
        "ss_num_epochs": epochs,
        "ss_batch_size_per_device": batch_size,
        "ss_learning_rate": learning_rate,
        "ss_unet_lr": learning_rate,
        "ss_text_encoder_lr": text_encoder_lr,
        "ss_num_train_images": pictures,
        "ss_training_started_at": started,
        "ss_training_finished_at": finished,
        "ss_dataset_dirs": _folders(folders),
        "ss_tag_frequency": json.dumps(tags, ensure_ascii=False) if tags else None,
        "ss_bucket_info": _buckets(buckets),
        "lora_ext.settings": json.dumps(settings, ensure_ascii=False) if settings else None,
    }
    out |= {key: str(value) for key, value in facts.items() if value is not None}
    return out | _modelspec(family, name, v_prediction, resolution, clip_skip, finished)


def _network(algorithm: Mapping[str, str], conv_rank: int, conv_alpha: float) -> dict[str, str]:
    """Which network it is, and the arguments it was made with."""
    convs = {"conv_dim": str(conv_rank), "conv_alpha": f"{conv_alpha:g}"} if conv_rank else {}
    return {
        "ss_network_module": "lycoris.kohya" if algorithm else "networks.lora",
        "ss_network_args": json.dumps({**algorithm, **convs}),
    }


def _kohya_core(family: Family, name: str, rank: int, alpha: float, v_prediction: bool) -> dict[str, str]:
    version = BASE_VERSIONS[family] + ("_768_v" if family == "sd2" and v_prediction else "")
    return {
        "ss_output_name": name,
        "ss_base_model_version": version,
        "ss_v2": str(family == "sd2"),
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }


def _modelspec(
    family: Family,
    name: str,
    v_prediction: bool,
    resolution: tuple[int, int] | None,
    clip_skip: int,
    finished: float | None,
) -> dict[str, str]:
    """Stability's ModelSpec 1.0.0, the keys it calls required and those with a known value."""
    architecture = ARCHITECTURES[family]
    if family == "sd2" and v_prediction:
        architecture = "stable-diffusion-v2-768-v"
    out = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models"
        if family == "sdxl"
        else "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": name,
        "modelspec.prediction_type": "v" if v_prediction else "epsilon",
    }
    if resolution:
        out["modelspec.resolution"] = f"{resolution[0]}x{resolution[1]}"
    if clip_skip:
        out["modelspec.encoder_layer"] = str(clip_skip)
    if finished is not None:
        out["modelspec.date"] = datetime.fromtimestamp(finished, timezone.utc).isoformat(timespec="seconds")
    return out


def _folders(folders: Mapping[str, tuple[int, int]] | None) -> str | None:
    if not folders:
        return None
    return json.dumps({k: {"n_repeats": r, "img_count": n} for k, (r, n) in folders.items()}, ensure_ascii=False)


def _buckets(buckets: Mapping[tuple[int, int], int] | None) -> str | None:
    """kohya's shape: `{"buckets": {"0": {"resolution": [w, h], "count": n}}, "mean_img_ar_error": 0}`."""
    if not buckets:
        return None
    rows = {str(i): {"resolution": list(size), "count": n} for i, (size, n) in enumerate(sorted(buckets.items()))}
    return json.dumps({"buckets": rows})
