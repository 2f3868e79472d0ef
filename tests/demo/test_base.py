"""The base model that ships: small, loadable by its own yaml, and it paints what is asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from demo import judge, world
from demo.base_model import TEXT, UNET
from demo.world import SIDE
from lora_ext.config import CheckpointConfig
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.live import RenderRequest
from lora_ext.model import build_vae

BASE = Path(judge.BASE)


@pytest.fixture(scope="module")
def model() -> StandaloneModel:
    return StandaloneModel.load(CheckpointConfig(checkpoint=str(BASE), device="cpu"))


def test_it_is_small() -> None:
    assert BASE.stat().st_size <= 30_000_000


def test_it_is_an_sd1_checkpoint_whose_facts_are_known(model: StandaloneModel) -> None:
    arch = model.architecture
    assert arch.family == "sd1" and arch.prediction_type == "epsilon" and arch.text[0].heads == TEXT.heads
    assert arch.unet.channels == tuple(UNET.base * m for m in UNET.multipliers)
    assert (arch.text[0].width, arch.text[0].vocabulary) == (TEXT.width, 49408)
    assert arch.vae.factor == 8 and arch.vae.scale == 0.18215


def test_latents_have_unit_spread(model: StandaloneModel) -> None:
    pictures = np.stack(
        [world.draw(world.random_scene(world.generator(3, i)), world.generator(4, i)) for i in range(32)]
    )
    vae = build_vae(model.architecture, model.tensors)
    with torch.no_grad():
        signed = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(signed).latent_dist.mean * model.architecture.vae.scale
    assert 0.8 < latents.std() < 1.2 and latents.mean().abs() < 0.2


def test_the_prompt_decides_the_picture(model: StandaloneModel) -> None:
    def ground(prompt: str) -> np.ndarray:
        request = RenderRequest(prompt, seed=1, steps=10, cfg=7.0, width=SIDE, height=SIDE)
        picture = np.asarray(model.render(request)).astype(float)
        return np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3)]).mean(0)

    red, blue = ground("a white star on a plain red background"), ground("a white star on a plain blue background")
    assert red[0] > red[2] + 60 and blue[2] > blue[0] + 60
