"""The config that goes beside a shrunken checkpoint, so that unmodified WebUIs build the right modules for it."""

from __future__ import annotations

from pathlib import Path

import yaml

from demo.checkpoint_keys import TextSize, UNetSize, VaeSize

Yaml = dict[str, "YamlValue"]
YamlValue = str | int | float | bool | None | Yaml | list["YamlValue"]


def latent_diffusion(
    unet: UNetSize, vae: VaeSize, heads: Yaml, *, clip_folder: Path | None, open_clip_arch: str, v: bool
) -> str:
    """An ldm `LatentDiffusion` config (SD1 when `clip_folder` is given, else SD2)."""
    inpainting = unet.in_channels == 9
    params: Yaml = {
        "parameterization": "v" if v else "eps",
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "hybrid" if inpainting else "crossattn",
        "scale_factor": 0.18215,
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {"image_size": 32, **_unet(unet, heads)},
        },
        "first_stage_config": _vae(vae, "ldm.models.autoencoder.AutoencoderKL"),
    }
    if clip_folder is not None:
        params["cond_stage_config"] = {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": clip_folder.as_posix()},
        }
    else:
        params["cond_stage_config"] = {
            "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
            "params": {"arch": open_clip_arch, "freeze": True, "layer": "penultimate"},
        }
    if inpainting:
        params["finetune_keys"] = None
    name = "LatentInpaintDiffusion" if inpainting else "LatentDiffusion"
    return _dump({"model": {"target": f"ldm.models.diffusion.ddpm.{name}", "params": params}})


def diffusion_engine(
    unet: UNetSize, clip: TextSize, vae: VaeSize, heads: Yaml, *, clip_folder: Path, open_clip_arch: str
) -> str:
    """An sgm `DiffusionEngine` config (SDXL)."""
    encoders = "sgm.modules.encoders.modules"
    diffusion = "sgm.modules.diffusionmodules"
    embedders: list[YamlValue] = [
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{encoders}.FrozenCLIPEmbedder",
            "params": {"version": clip_folder.as_posix(), "layer": "hidden", "layer_idx": clip.layers - 1},
        },
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{encoders}.FrozenOpenCLIPEmbedder2",
            "params": {
                "arch": open_clip_arch,
                "freeze": True,
                "layer": "penultimate",
                "always_return_pooled": True,
                "legacy": False,
            },
        },
    ]
    for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"):
        target = f"{encoders}.ConcatTimestepEmbedderND"
        embedders.append({"is_trainable": False, "input_key": key, "target": target, "params": {"outdim": 256}})
    denoiser: Yaml = {
        "num_idx": 1000,
        "weighting_config": {"target": f"{diffusion}.denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": f"{diffusion}.denoiser_scaling.EpsScaling"},
        "discretization_config": {"target": f"{diffusion}.discretizer.LegacyDDPMDiscretization"},
    }
    network: Yaml = {
        "adm_in_channels": unet.vector,
        "num_classes": "sequential",
        "spatial_transformer_attn_type": "softmax",
        **_unet(unet, heads),
        "transformer_depth": [max(depth, 1) for depth in unet.depth],
    }
    params: Yaml = {
        "scale_factor": 0.13025,
        "disable_first_stage_autocast": True,
        "denoiser_config": {"target": f"{diffusion}.denoiser.DiscreteDenoiser", "params": denoiser},
        "network_config": {"target": f"{diffusion}.openaimodel.UNetModel", "params": network},
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
        "first_stage_config": _vae(vae, "sgm.models.autoencoder.AutoencoderKLInferenceWrapper"),
    }
    return _dump({"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}})


def _unet(size: UNetSize, heads: Yaml) -> Yaml:
    return {
        "in_channels": size.in_channels,
        "out_channels": 4,
        "model_channels": size.base,
        "attention_resolutions": [2**level for level, depth in enumerate(size.depth) if depth],
        "num_res_blocks": size.res_blocks,
        "channel_mult": list(size.multipliers),
        **heads,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": size.linear,
        "transformer_depth": 1,
        "context_dim": size.context,
        "use_checkpoint": False,
        "legacy": False,
    }


def _vae(size: VaeSize, target: str) -> Yaml:
    shape: Yaml = {
        "double_z": True,
        "z_channels": size.latent,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": size.base,
        "ch_mult": list(size.multipliers),
        "num_res_blocks": size.res_blocks,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params: Yaml = {
        "embed_dim": size.latent,
        "monitor": "val/rec_loss",
        "ddconfig": shape,
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    return {"target": target, "params": params}


def _dump(config: Yaml) -> str:
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return text
