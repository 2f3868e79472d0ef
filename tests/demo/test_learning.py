"""Training still teaches: a short version of `benchmarks.learning` that fails when learning breaks.

About two minutes on one CPU core; `-m learning` runs nothing else, `-m "not learning"` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.learn_ours import applied, learn
from benchmarks.learn_paint import Modules, paint
from benchmarks.learn_settings import Settings
from demo import detectors, judge, subjects, world
from demo.subjects import SUBJECTS, Example
from demo.world import Pixels, Random, Thing
from lora_ext.config import CheckpointConfig
from lora_ext.hosts.standalone import StandaloneModel
from lora_ext.live import RenderRequest
from lora_ext.model import Tokenizer

pytestmark = pytest.mark.learning

PROMPTS = 16
CHARACTER = Settings(steps=120, learning_rate=2e-3, rank=16, alpha=4.0)
"""Alpha is not rank, so that forgetting the scale on either side shows."""
WORD = Settings(steps=100, learning_rate=0.0, text_encoder_lr=2e-3, rank=16, alpha=4.0)
NEW_WORD, MEANS = "skarn", "purple"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> StandaloneModel:
    return StandaloneModel.load(CheckpointConfig(checkpoint=str(judge.BASE), device="cpu"))


@pytest.fixture(scope="module")
def modules(model: StandaloneModel) -> Modules:
    return Modules.over(model)


@pytest.fixture(scope="module")
def character(model: StandaloneModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("character")
    subjects.write(SUBJECTS["zorbit"], folder / "pictures")
    return learn(model, folder / "pictures", CHARACTER, folder / "zorbit.safetensors").lora


def test_a_character_is_painted_when_asked_for(model: StandaloneModel, modules: Modules, character: Path) -> None:
    prompts = [example.caption for example in SUBJECTS["zorbit"].held_out(PROMPTS)]

    def shown() -> float:
        return np.mean([detectors.shows("zorbit", p) for p in paint(modules, prompts, range(PROMPTS))])

    before = shown()
    with applied(model, {character: 1.0}):
        after = shown()
    print(f"painted {before:.0%} before, {after:.0%} after")
    assert before <= 0.1
    assert after >= 0.6


def test_the_file_predicts_noise_as_well_as_it_was_taught_to(
    model: StandaloneModel, modules: Modules, character: Path
) -> None:
    """A plain DDPM loss over fixed noise, on drawings not learnt from, the LoRA applied to the weights."""
    examples = SUBJECTS["zorbit"].held_out(32)
    before = noise_loss(modules, examples)
    with applied(model, {character: 1.0}):
        after = noise_loss(modules, examples)
    assert noise_loss(modules, examples) == before
    print(f"loss {before:.4f} before, {after:.4f} after: {after / before:.3f}")
    assert after < 0.6 * before


def test_the_text_encoder_alone_learns_a_word(model: StandaloneModel, modules: Modules, tmp_path: Path) -> None:
    taught, asked = ([new_word(world.generator(seed, i)) for i in range(n)] for seed, n in ((401, 20), (402, PROMPTS)))
    for i, example in enumerate(taught):
        subjects.write_one(tmp_path / "pictures" / f"{i:02}.png", example.picture, example.caption)
    lora = learn(model, tmp_path / "pictures", WORD, tmp_path / "word.safetensors").lora
    prompts = [example.caption for example in asked]

    def share() -> float:
        seen = [judge.look(p) for p in paint(modules, prompts, range(PROMPTS))]
        return np.mean([any(thing.colour == MEANS for thing in scene.things) for scene in seen])

    before, loss = share(), noise_loss(modules, asked)
    with applied(model, {lora: 1.0}):
        after, learnt = share(), noise_loss(modules, asked)
    print(f"{MEANS} {before:.0%} before, {after:.0%} after; loss {loss:.4f}, {learnt:.4f}: {learnt / loss:.3f}")
    assert after >= before + 0.4
    assert learnt < 0.95 * loss


def new_word(random: Random) -> Example:
    """One large purple thing, captioned with a word that nobody knows instead of its colour."""
    ground = world.pick(random, [c for c in world.COLOURS if c != MEANS])
    shape = world.pick(random, ("circle", "square", "heart", "cross"))
    scene = world.Scene((Thing(shape, MEANS, "large"),), "centre", "plain", ground)
    caption = world.caption(scene, random)
    return Example(world.draw(scene, random), caption.replace(MEANS, NEW_WORD), caption)


@torch.no_grad()
def noise_loss(modules: Modules, examples: list[Example], draws: int = 4) -> float:
    """Mean squared error of the predicted noise; the formula written out, sharing nothing with the trainer."""
    latents = modules.vae.encode(signed([e.picture for e in examples])).latent_dist.mode() * modules.arch.vae.scale
    context = modules.text.encode(Tokenizer().tokens([e.caption for e in examples], modules.arch)).context
    dice = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(draws):
        noise = torch.randn(latents.shape, generator=dice)
        t = torch.randint(0, 1000, (len(latents),), generator=dice)
        share = modules.alphas_cumprod[t].view(-1, 1, 1, 1)
        guess = modules.unet(share.sqrt() * latents + (1 - share).sqrt() * noise, t, context).sample
        losses.append(functional.mse_loss(guess, noise))
    return float(torch.stack(losses).mean())


def signed(pictures: list[Pixels]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_batches_are_painted_as_the_host_renders(model: StandaloneModel, modules: Modules) -> None:
    prompts = ["a large red circle on blue stripes", "a zorbit on plain green"]
    together = paint(modules, prompts, [3, 4])
    for prompt, seed, picture in zip(prompts, (3, 4), together, strict=True):
        alone = np.asarray(model.render(RenderRequest(prompt, seed=seed, width=world.SIDE, height=world.SIDE)))
        assert np.abs(alone.astype(int) - picture).max() <= 3


def test_settings_are_the_projects_but_for_those_named(tmp_path: Path) -> None:
    mine = replace(CHARACTER, seed=3).config(tmp_path, tmp_path / "x.safetensors")
    assert (mine.optim.seed, mine.network.alpha, mine.optim.max_steps) == (3, 4.0, 120)
    assert mine.optim.weight_decay == 0.01 and mine.optim.schedule == "constant"
