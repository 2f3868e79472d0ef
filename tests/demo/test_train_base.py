"""The recipe: stages resume exactly, latents are rescaled without changing pictures, the loss sees what matters."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from demo import judge, train_base, train_text, train_vae, world
from demo.base_model import BaseModel
from demo.base_state import Progress, rate


@pytest.fixture(scope="module")
def model() -> BaseModel:
    return BaseModel(3)


def steps(folder: Path, total: int, stop_after: int) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    progress = Progress(folder, "small", total, seed=5, save_every=0.0)
    for step in progress.run({"layer": layer}, optimizer, peak=0.1):
        if step == stop_after:
            break
        optimizer.zero_grad()
        layer(torch.randn(4, 3, generator=progress.generator(step))).square().mean().backward()
        optimizer.step()
        progress.note(loss=0.0)
    return layer


def test_a_stopped_stage_goes_on_as_if_it_never_had(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    straight = steps(tmp_path / "a", 8, 99)
    steps(tmp_path / "b", 8, 3)
    resumed = steps(tmp_path / "b", 8, 99)
    assert torch.equal(straight.weight, resumed.weight)
    assert not torch.equal(straight.weight, steps(tmp_path / "c", 8, 0).weight)


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[400] == 1 and 0 < rates[-1] < 0.01
    assert all(later <= earlier for earlier, later in pairwise(rates[700:]))


def test_rescaling_gives_unit_latents_and_the_same_pictures(model: BaseModel) -> None:
    pictures = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        signed = train_vae.signed(pictures)
        raw = model.encode(signed)
        before = model.vae.decode(raw).sample
        spread = model.vae.encode(signed).latent_dist.std
        mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
        model.rescale_latents(mean, std)
        after = model.encode(signed)
        seen = after * model.arch.vae.scale
        torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(model.vae.decode(after).sample, before, atol=1e-4, rtol=1e-3)
        scaled = model.vae.encode(signed).latent_dist.std * (std * model.arch.vae.scale)[:, None, None]
        torch.testing.assert_close(scaled, spread, atol=1e-4, rtol=1e-3)


def test_the_modules_are_the_tensors(model: BaseModel) -> None:
    key = "model.diffusion_model.out.2.bias"
    with torch.no_grad():
        model.unet.conv_out.bias.fill_(7.0)
    assert (model.tensors[key] == 7).all()


def test_answers_tell_scenes_apart() -> None:
    random = world.generator(1, 1)
    scenes = [world.random_scene(random) for _ in range(200)]
    told = {tuple(train_text.answers(scene)) for scene in scenes}
    assert len(told) == len(set(scenes))
    for scene in scenes:
        assert all(0 <= a < n for a, n in zip(train_text.answers(scene), train_text.QUESTIONS, strict=True))


def test_the_whole_recipe_runs_and_writes_a_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "tiny.safetensors"
    arguments = ["--fast", "--folder", str(tmp_path / "state"), "--output", str(output)]
    assert train_base.main(arguments) == 0
    assert output.stat().st_size <= 30_000_000
    assert output.with_suffix(".yaml").is_file()
    assert train_base.main(arguments) == 0  # nothing left to do: resumes and writes the same
    picture = judge._renderer(output, 2, 7.0)("a red circle", 0)
    assert picture.shape == (64, 64, 3)
