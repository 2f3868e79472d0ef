"""Remakes `demo/base.safetensors`: a small Stable Diffusion 1 trained from nothing on drawings.

    python -m demo.train_base            every stage that is not done yet
    python -m demo.train_base --fast     a few steps of everything, to see that it runs

Draws a picture folder with captions, then trains the autoencoder, the text encoder and the UNet on it. It may be
stopped at any moment; the same command goes on where it was. State, log and pictures lie in demo/out/base.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demo import judge, train_text, train_unet, train_vae, world
from demo.base_model import BaseModel
from lora_ext.config import DataConfig
from lora_ext.data import LatentCache, Picture, load_picture, scan

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """All numbers of a run."""

    pictures: int = 16000
    vae_steps: int = 2400
    text_steps: int = 800
    decoder_steps: int = 0
    unet_steps: int = 7000
    unet_batch: int = 32
    seed: int = 1
    vae_bf16: bool = True


FAST = Recipe(pictures=64, vae_steps=2, text_steps=2, decoder_steps=2, unet_steps=2, unet_batch=4)


def make(recipe: Recipe, folder: Path, output: Path, start: Path | None = None, device: str = "cpu") -> None:
    """Run the stages that are not done and write the checkpoint. `start`: a base to go on from instead of nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    model = BaseModel(recipe.seed, device)
    if start is not None:
        model.read(start)
    scenes, found = drawings(recipe, folder)
    pictures = pixels(found)
    train_vae.train(model.vae, pictures, recipe.vae_steps, recipe.seed, folder, recipe.vae_bf16)
    train_text.train(model.text, recipe.text_steps, recipe.seed, folder)
    model.vae.eval().requires_grad_(False)
    model.text.eval().requires_grad_(False)
    raw = raw_latents(model, found, folder)
    model.vae.decoder.requires_grad_(True)
    model.vae.post_quant_conv.requires_grad_(True)
    train_vae.polish(model.vae, raw, pictures, recipe.decoder_steps, recipe.seed, folder)
    model.vae.requires_grad_(False)
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    model.rescale_latents(mean, std)
    latents = (raw - mean[:, None, None]) / std[:, None, None]
    model.unet.train()
    train_unet.train(model.unet, model.text, latents, scenes, recipe.unet_steps, recipe.unet_batch, recipe.seed, folder)
    model.write(output)
    size, psnr = output.stat().st_size / 1e6, held_out_psnr(model, min(200, recipe.pictures))
    print(f"{output}: {size:.1f} MB; VAE round trip {psnr:.2f} dB on held-out pictures")


def drawings(recipe: Recipe, folder: Path) -> tuple[list[world.Scene], tuple[Picture, ...]]:
    """The training set: scenes, and their pictures in a folder like a user's, drawn once."""
    where = folder / "pictures"
    where.mkdir(exist_ok=True)
    randoms = [world.generator(recipe.seed, i) for i in range(recipe.pictures)]
    scenes = [world.random_scene(random) for random in randoms]
    for i, (scene, random) in enumerate(zip(scenes, randoms, strict=True)):
        caption = where / f"{i:05}.txt"
        if not caption.is_file():  # written last, so its picture is whole
            Image.fromarray(world.draw(scene, random)).save(caption.with_suffix(".png"))
            caption.write_text(world.caption(scene, random), encoding="utf8")
    found = scan(DataConfig(images=str(where), resolution=world.SIDE)).pictures
    if len(found) != len(scenes):
        sys.exit(f"{where} holds {len(found)} pictures, not {len(scenes)}: another recipe's. Remove the folder.")
    return scenes, found


def pixels(pictures: Sequence[Picture]) -> Tensor:
    """All pictures as uint8 [N, side, side, 3]."""
    return torch.stack([((load_picture(p) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0) for p in pictures])


def raw_latents(model: BaseModel, pictures: Sequence[Picture], folder: Path) -> Tensor:
    """Latents of all pictures, [N, 4, h, w], in whatever size and place the autoencoder gave them; encoded once."""
    path = folder / "latents.pt"
    if not path.is_file():
        cache = LatentCache()
        for done in cache.build(pictures, model.encode, flip=False, chunk=32):
            if done % 1600 == 0:
                print(f"encoded {done}/{len(pictures)} pictures", flush=True)
        beside = path.with_suffix(".new")
        torch.save(cache.batch([(picture, False) for picture in pictures]), beside)
        os.replace(beside, path)
    raw: Tensor = torch.load(path, weights_only=True)
    return raw


def held_out_psnr(model: BaseModel, count: int) -> float:
    """Mean round-trip PSNR in dB on held-out drawings."""
    drawn = []
    for i in range(count):
        random = world.generator(judge.EVALUATION_SEED, i)
        drawn.append(world.draw(world.random_scene(random, held_out=True), random))
    return train_vae.psnr(model.vae, torch.from_numpy(np.stack(drawn)))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.train_base", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=HERE / "base.safetensors")
    parser.add_argument("--folder", type=Path, default=HERE / "out" / "base", help="state, log and pictures")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--device", default="cpu", help="where to train: cpu or cuda (default cpu)")
    parser.add_argument("--fast", action="store_true", help="a few steps of everything")
    for name in ("vae_steps", "text_steps", "decoder_steps", "unet_steps", "unet_batch"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, help=f"default {getattr(Recipe, name)}; may change when resuming")
    parser.add_argument("--start", type=Path, help="a base model to go on from, in an empty folder")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    changed = {n: v for n, v in vars(given).items() if n.endswith(("_steps", "_batch")) and v is not None}
    make(replace(FAST if given.fast else Recipe(), **changed), given.folder, given.output, given.start, given.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
