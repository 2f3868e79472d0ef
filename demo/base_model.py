"""The base model's size, its tensors in the original key format, and the files that go beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo import checkpoint_keys as keys
from demo import checkpoint_yaml, random_base
from lora_ext.model import Architecture, Hints, TextEncoders, build_text, build_unet, build_vae, detect

UNET = keys.UNetSize(4, 64, (1, 2, 2), 1, (1, 1, 1), 96, linear=False, vector=0)
TEXT = keys.TextSize(width=96, layers=2, heads=3)
VAE = keys.VaeSize(base=64, multipliers=(1, 1, 1, 1), res_blocks=1)
HEADS = 4
TEXT_PREFIX = "cond_stage_model.transformer."
CLIP_FOLDER = "models/Stable-diffusion/base.clip"
"""Where a WebUI finds the text encoder's configuration, seen from its own folder."""


class BaseModel:
    """All tensors by checkpoint key, float32, and the three modules over the same storage, trainable."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        shapes: keys.Shapes = {}
        shapes.update(keys.below(random_base.UNET, keys.unet(UNET)))
        shapes.update(keys.below(random_base.VAE, keys.vae(VAE)))
        shapes.update(keys.below(TEXT_PREFIX, keys.clip(TEXT)))
        self.tensors: dict[str, Tensor] = {key: torch.zeros(shape, device=device) for key, shape in shapes.items()}
        self.tensors[f"{TEXT_PREFIX}text_model.embeddings.position_ids"] = torch.arange(77, device=device)[None]
        self.arch: Architecture = detect(self.tensors, Hints(unet_heads=HEADS, te_heads=(TEXT.heads,)))
        self.unet = build_unet(self.arch, self.tensors)
        self.vae = build_vae(self.arch, self.tensors)
        self.text: TextEncoders = build_text(self.arch, self.tensors)
        torch.manual_seed(seed)
        _begin(self.unet, type(self.unet).from_config(self.unet.config))
        _begin(self.vae, type(self.vae).from_config(self.vae.config))
        for encoder in self.text.encoders:
            _begin(encoder, type(encoder)(encoder.config))
        self._choose_first_weights()

    def _choose_first_weights(self) -> None:
        generator = torch.Generator().manual_seed(77)
        words = self.tensors[f"{TEXT_PREFIX}text_model.embeddings.token_embedding.weight"]
        words.copy_(torch.randn(words.shape, generator=generator) * 0.2)
        self.tensors[f"{random_base.VAE}quant_conv.bias"][4:] = -6.0  # encoding starts out nearly exact

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Means of the posterior [B, 4, h, w], before any scaling, for pictures [B, 3, H, W] in -1..1."""
        mean: Tensor = self.vae.encode(pixels.to(self.vae.device)).latent_dist.mean
        return mean

    def rescale_latents(self, mean: Tensor, std: Tensor) -> None:
        """Fold latents' [4] mean and spread into the VAE, so that hosts' fixed factor 0.18215 gives unit variance."""
        mean, std = (x.to(self.tensors[f"{random_base.VAE}quant_conv.weight"]) for x in (mean, std))
        scale = self.arch.vae.scale * std
        weight, bias = (self.tensors[f"{random_base.VAE}quant_conv.{part}"] for part in ("weight", "bias"))
        bias[:4] = (bias[:4] - mean) / scale
        weight[:4] /= scale[:, None, None, None]
        bias[4:] -= 2 * scale.log()
        weight, bias = (self.tensors[f"{random_base.VAE}post_quant_conv.{part}"] for part in ("weight", "bias"))
        bias += weight[:, :, 0, 0] @ mean
        weight *= scale[None, :, None, None]

    def read(self, path: Path) -> None:
        """Go on from a checkpoint that `write` wrote."""
        found = load_file(path)
        for key, tensor in self.tensors.items():
            tensor.copy_(found[key])

    def write(self, path: Path, dtype: torch.dtype = torch.float16) -> None:
        """The checkpoint, its yaml and its text encoder's configuration."""
        stored = {k: (t.to(dtype) if t.is_floating_point() else t).cpu().contiguous() for k, t in self.tensors.items()}
        save_file(stored, path)
        text = checkpoint_yaml.latent_diffusion(
            UNET, VAE, {"num_heads": HEADS}, clip_folder=Path(CLIP_FOLDER), open_clip_arch="", v=False
        )
        path.with_suffix(".yaml").write_text(text, encoding="utf8")
        random_base._write_clip_folder(path.with_suffix(".clip"), TEXT)


def _begin(module: nn.Module, fresh: nn.Module) -> None:
    """Give a module over zeros the weights its library would have begun with, and let it learn."""
    begun = dict(fresh.named_parameters())  # not the state dict: transformers 4.30 has position numbers in it
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(begun[name])
    module.requires_grad_(True)
