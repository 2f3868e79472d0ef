"""A shrunken Stable Diffusion checkpoint with random weights, for tests and for trying things out.

    python -m demo.random_base --family sd1 --output base.safetensors

It has the tensors of a real checkpoint under their real names, a few channels wide, and a `.yaml` beside it with which
unmodified WebUIs load it. Its pictures show nothing, but they are finite, they follow the prompt, and a LoRA changes
them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from demo import checkpoint_keys as keys
from demo import checkpoint_yaml as config
from lora_ext.layers import Family
from lora_ext.model import vocabulary

UNET = "model.diffusion_model."
VAE = "first_stage_model."

CLIP = keys.TextSize(width=128, layers=4, heads=2)
OPEN_CLIP = keys.TextSize(width=256, layers=10, heads=4, projection=256)
"""The text tower of open_clip's smallest CLIP, so that a host can build it by this name: ViT-S-32-alt."""
OPEN_CLIP_ARCH = "ViT-S-32-alt"
OPEN_CLIP_TINY = keys.TextSize(width=64, layers=3, heads=1, projection=64)
VAE_SIZE = keys.VaeSize(base=32, multipliers=(1, 2, 2, 2), res_blocks=1)
HEAD_WIDTH = 16


@dataclass(frozen=True)
class Plan:
    """What one checkpoint is made of. `clip` and `open_clip` are None where the family has none."""

    unet: keys.UNetSize
    clip: keys.TextSize | None
    open_clip: keys.TextSize | None
    prefixes: tuple[str, ...]  # of the text encoders, in order


def plan(family: Family, *, inpainting: bool = False, tiny_text: bool = False) -> Plan:
    """Sizes for a family. With `tiny_text` the OpenCLIP tower is one that no WebUI knows by name."""
    channels = 9 if inpainting else 4
    tower = OPEN_CLIP_TINY if tiny_text else OPEN_CLIP
    if family == "sd1":
        unet = keys.UNetSize(channels, 32, (1, 2, 2, 2), 2, (1, 1, 1, 0), CLIP.width, linear=False, vector=0)
        return Plan(unet, CLIP, None, ("cond_stage_model.transformer.",))
    if family == "sd2":
        unet = keys.UNetSize(channels, 32, (1, 2, 2, 2), 2, (1, 1, 1, 0), tower.width, linear=True, vector=0)
        return Plan(unet, None, tower, ("cond_stage_model.model.",))
    vector = tower.projection + 6 * 256
    context = CLIP.width + tower.width
    unet = keys.UNetSize(channels, 32, (1, 2, 2), 2, (0, 1, 2), context, linear=True, vector=vector)
    return Plan(unet, CLIP, tower, ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."))


def make(
    family: Family,
    path: str | Path,
    seed: int = 0,
    inpainting: bool = False,
    dtype: torch.dtype = torch.float16,
    *,
    tiny_text: bool = False,
    made: Plan | None = None,
) -> Path:
    """Write the checkpoint, `<stem>.yaml` and (where the family has a CLIP of Hugging Face's) `<stem>.clip/`.

    Same arguments, same bytes. SD2 is a v-prediction model, as 2.1 is. `made`: other sizes than the shrunken ones.
    Returns the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = made or plan(family, inpainting=inpainting, tiny_text=tiny_text)
    tensors = random_tensors(family, made, seed)
    save_file({key: _stored(key, tensor, dtype) for key, tensor in tensors.items()}, path)
    folder = path.with_suffix(".clip").absolute()
    if made.clip is not None:
        _write_clip_folder(folder, made.clip)
    text = _yaml(family, made, folder, OPEN_CLIP_ARCH)
    path.with_suffix(".yaml").write_text(text, encoding="utf8")
    return path


def random_tensors(family: Family, made: Plan, seed: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint, float32 (position ids int64)."""
    shapes: keys.Shapes = {}
    shapes.update(keys.below(UNET, keys.unet(made.unet)))
    shapes.update(keys.below(VAE, keys.vae(VAE_SIZE)))
    sizes = [(keys.clip, made.clip), (keys.open_clip, made.open_clip)]
    towers = [build(size) for build, size in sizes if size is not None]
    for prefix, tower in zip(made.prefixes, towers, strict=True):
        shapes.update(keys.below(prefix, tower))
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: _random(key, shape, generator) for key, shape in shapes.items()}
    _calm_posterior(tensors)
    if family != "sd2":
        _follow_the_noise(tensors)
    return tensors | _schedule(family)


def _random(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights that keep the size of what flows through: variance 1 / fan-in, norms near the identity."""
    if key.endswith("position_ids"):
        return torch.arange(shape[1])[None]
    if key.endswith("logit_scale"):
        return torch.tensor(4.6052)
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1 and not key.endswith("bias"):
        return 1 + noise * 0.02
    return noise * _spread(key, shape)


def _spread(key: str, shape: tuple[int, ...]) -> float:
    if key.endswith("bias"):
        return 0.02
    if key.endswith(("positional_embedding", "position_embedding.weight")):
        return 0.1
    if key.endswith("embedding.weight"):
        return 0.5
    fan_in = shape[0] if key.endswith("text_projection") else math.prod(shape[1:])
    return _gain(key) / math.sqrt(fan_in)


def _gain(key: str) -> float:
    """Residual branches are damped so that deep stacks stay finite in float16; cross attention is not."""
    damped = (
        "out_layers.3.weight",
        "conv2.weight",
        "proj_out.weight",
        "ff.net.2.weight",
        "fc2.weight",
        "c_proj.weight",
    )
    if key.endswith(("attn2.to_q.weight", "attn2.to_k.weight", "attn2.to_v.weight", "attn2.to_out.0.weight")):
        return 2.0
    if key == f"{UNET}out.2.weight":
        return 0.5
    return 0.6 if key.endswith(damped) else 1.0


def _calm_posterior(tensors: dict[str, Tensor]) -> None:
    """Give the VAE's posterior a small variance (about e^-8), as a trained one has: encoding is almost a function."""
    tensors[f"{VAE}quant_conv.weight"][4:] *= 0.1
    tensors[f"{VAE}quant_conv.bias"][4:] = -8.0


def _follow_the_noise(tensors: dict[str, Tensor]) -> None:
    """Let the UNet's output hold its (normalised) input, as that of a trained eps model does.

    Without it sampling adds random pictures to the noise instead of removing the noise. The path: the first
    convolution copies the latents into channels 0-3 and, negated, 4-7; the last skip connection hands them to the last
    resnet, whose shortcut passes them on; behind the last norm silu(x) - silu(-x) = x.
    """
    first, last = tensors[f"{UNET}input_blocks.0.0.weight"], tensors[f"{UNET}out.2.weight"]
    end = max(int(key.split(".")[3]) for key in tensors if key.startswith(f"{UNET}output_blocks."))
    resnet = f"{UNET}output_blocks.{end}.0"
    shortcut = tensors[f"{resnet}.skip_connection.weight"]
    width = first.shape[0]
    for weight in (first, shortcut):
        weight[:8] = 0
    for bias in ("input_blocks.0.0.bias", f"output_blocks.{end}.0.skip_connection.bias"):
        tensors[UNET + bias][:8] = 0
    tensors[f"{resnet}.out_layers.3.weight"][:8] *= 0.1
    last[:, :8] *= 0.1
    for i in range(4):
        first[i, i, 1, 1], first[4 + i, i, 1, 1] = 1, -1
        shortcut[i, shortcut.shape[1] - width + i] = 1
        shortcut[4 + i, shortcut.shape[1] - width + 4 + i] = 1
        last[i, i, 1, 1], last[i, 4 + i, 1, 1] = 0.9, -0.9
    for key, tensor in tensors.items():
        if key.startswith(f"{UNET}output_blocks.{end}.1.proj_out."):
            tensor[:8] *= 0.1


def _schedule(family: Family) -> dict[str, Tensor]:
    """The noise schedule as checkpoints carry it: ldm's buffers, or sgm's sigmas."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    product = torch.cumprod(1 - betas, 0)
    if family == "sdxl":
        return {"denoiser.sigmas": ((1 - product) / product).sqrt().float()}
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    variance = betas * (1 - before) / (1 - product)
    buffers = {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": product.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - product).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - product).log(),
        "sqrt_recip_alphas_cumprod": (1 / product).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / product - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - product),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - product),
    }
    return {key: tensor.float() for key, tensor in buffers.items()}


def _stored(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    in_model = key.startswith((UNET, VAE, "cond_stage_model.", "conditioner."))
    return tensor.to(dtype).contiguous() if in_model and tensor.is_floating_point() else tensor


def _yaml(family: Family, made: Plan, folder: Path, arch: str) -> str:
    heads: config.Yaml = {"num_heads": 8} if family == "sd1" else {"num_head_channels": HEAD_WIDTH}
    if family == "sdxl":
        assert made.clip is not None
        return config.diffusion_engine(made.unet, made.clip, VAE_SIZE, heads, clip_folder=folder, open_clip_arch=arch)
    return config.latent_diffusion(
        made.unet, VAE_SIZE, heads, clip_folder=folder if made.clip else None, open_clip_arch=arch, v=family == "sd2"
    )


def _write_clip_folder(folder: Path, size: keys.TextSize) -> None:
    """What `CLIPTextModel.from_pretrained` and `CLIPTokenizer.from_pretrained` want, without weights."""
    vocabulary.write_files(folder)
    model = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary.SIZE,
        "hidden_size": size.width,
        "intermediate_size": size.width * 4,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": size.width,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }
    tokenizer = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "bos_token": vocabulary.START,
        "eos_token": vocabulary.END,
        "pad_token": vocabulary.END,
        "unk_token": vocabulary.END,
    }
    for name, content in {"config": model, "tokenizer_config": tokenizer}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf8")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.random_base", description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=("sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--output", required=True, type=Path, help=".safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inpainting", action="store_true", help="a UNet with 9 input channels")
    parser.add_argument("--fp32", action="store_true", help="write float32 instead of float16")
    given = parser.parse_args(arguments)
    dtype = torch.float32 if given.fp32 else torch.float16
    path = make(given.family, given.output, given.seed, given.inpainting, dtype)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
