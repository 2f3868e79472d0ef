"""What a checkpoint's own yaml says beyond its weights."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from lora_ext.errors import BadInput, Problem
from lora_ext.model.architecture import Hints, PredictionType


def hints_from_yaml(path: str | Path) -> Hints:
    """Read an ldm or sgm model config (the `NAME.yaml` beside a checkpoint).

    What it leaves out that the classes have a default for (`parameterization`) is that default. Raises `BadInput` when
    the file is no such config.
    """
    params = _params(Path(path))
    sgm = "network_config" in params
    unet = _inner(params, "network_config" if sgm else "unet_config")
    heads, width = _count(unet, "num_heads", path), _count(unet, "num_head_channels", path)
    return Hints(
        prediction_type=_sgm_prediction(params) if sgm else _ldm_prediction(params, path),
        unet_heads=None if width else heads,
        unet_head_dim=width,
        te_heads=() if sgm else _text_heads(params, Path(path)),
        clip_skip=None if sgm else _clip_skip(params),
        scale_factor=_number(params.get("scale_factor")),
    )


def _params(path: Path) -> dict[str, object]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf8"))
    except OSError as e:
        raise BadInput(Problem(str(path), f"the model's yaml cannot be read ({e.strerror or e})")) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadInput(
            Problem(str(path), "the model's yaml is not valid YAML", got=" ".join(str(e).split())[:200])
        ) from e
    params = _inner({"model": config.get("model")} if isinstance(config, dict) else {}, "model")
    if not {"unet_config", "network_config"} & set(params):
        raise BadInput(
            Problem(
                str(path),
                "the yaml beside the checkpoint is not a model config",
                "model: params: unet_config (SD 1.x, 2.x) or network_config (SDXL)",
                fix="Move it away if it belongs to something else.",
            )
        )
    return params


def _inner(config: dict[str, object], name: str) -> dict[str, object]:
    """`config[name]["params"]`, empty when it is not there."""
    outer = config.get(name)
    inner = outer.get("params") if isinstance(outer, dict) else None
    return {str(key): value for key, value in inner.items()} if isinstance(inner, dict) else {}


def _ldm_prediction(params: dict[str, object], path: str | Path) -> PredictionType:
    kinds: dict[object, PredictionType] = {"eps": "epsilon", "v": "v_prediction"}
    kind = params.get("parameterization", "eps")
    if kind not in kinds:
        what = "the yaml asks for a kind of prediction that is not supported"
        raise BadInput(Problem(str(path), what, "parameterization: eps or v", repr(kind)))
    return kinds[kind]


def _sgm_prediction(params: dict[str, object]) -> PredictionType | None:
    scaling = _inner(params, "denoiser_config").get("scaling_config")
    target = str(scaling.get("target", "")) if isinstance(scaling, dict) else ""
    if target.endswith(".EpsScaling"):
        return "epsilon"
    return "v_prediction" if target.endswith(".VScaling") else None


def _clip_skip(params: dict[str, object]) -> int | None:
    """OpenCLIP's `layer`; Hugging Face's encoder of SD1 has none that hosts heed."""
    layer = _inner(params, "cond_stage_config").get("layer")
    target = params.get("cond_stage_config")
    if not isinstance(target, dict) or not str(target.get("target", "")).endswith(".FrozenOpenCLIPEmbedder"):
        return None
    return 2 if layer == "penultimate" else 1


def _text_heads(params: dict[str, object], path: Path) -> tuple[int, ...]:
    """Heads of SD1's text encoder, where the yaml names a folder of its own for it; else (): the published one.

    Hosts seek that folder from where they were started. A checkpoint that has moved has it beside itself.
    """
    version = _inner(params, "cond_stage_config").get("version")
    if not isinstance(version, str) or not version:
        return ()
    for folder in (path.parent / version, path.parent / Path(version.replace("\\", "/")).name):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf8"))
        except (OSError, ValueError):  # a name on a hub, or no settings: the width tells
            continue
        heads = config.get("num_attention_heads") if isinstance(config, dict) else None
        if isinstance(heads, int) and not isinstance(heads, bool) and heads > 0:
            return (heads,)
    return ()


def _count(unet: dict[str, object], name: str, path: str | Path) -> int | None:
    """A positive number; ldm writes -1 (or nothing) where the other of the two settings counts."""
    value = unet.get(name, -1)
    if value is None or value == -1:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise BadInput(Problem(str(path), f"{name} in the yaml cannot be used", "a whole number above 0", repr(value)[:80]))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
