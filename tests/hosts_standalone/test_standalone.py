"""The standalone host: exact, repeatable, its session gives everything back."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from demo import random_base
from lora_ext.adapters import LoraAdapter, Network
from lora_ext.config import CheckpointConfig
from lora_ext.errors import BadInput
from lora_ext.hosts.sampler import Guidance, euler
from lora_ext.hosts.standalone import StandaloneModel, scaled_linear
from lora_ext.layers import Family
from lora_ext.live import RenderRequest
from lora_ext.model import default_targets
from lora_ext.patching import Strengths

REQUEST = RenderRequest("a cat", steps=3, width=64, height=64, seed=3)


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family: Family = request.param
    return random_base.make(family, tmp_path_factory.mktemp("base") / f"{family}.safetensors")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_base.make("sd1", tmp_path_factory.mktemp("sd1") / "sd1.safetensors")


@pytest.fixture(scope="module")
def model(base: Path) -> StandaloneModel:
    return load(base)


def load(path: Path, precision: str = "auto") -> StandaloneModel:
    return StandaloneModel.load(CheckpointConfig(str(path), "cpu", precision))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def fingerprint(model: StandaloneModel) -> str:
    digest = hashlib.sha256()
    for key in sorted(model.tensors):
        tensor = model.tensors[key]
        digest.update(f"{key} {tensor.dtype} {tensor.device} {tensor.requires_grad}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def random_network(model: StandaloneModel) -> Network:
    adapters = {}
    for i, layer in enumerate(default_targets(model.table, conv=False)):
        generator = torch.Generator().manual_seed(i)
        adapter = LoraAdapter.create(layer.shape, 4, 4.0, generator)
        with torch.no_grad():
            adapter.up.normal_(0, 0.3, generator=generator)
        adapters[layer.name] = adapter
    return Network("x", adapters, identity="x")


def test_same_seed_same_picture_other_seed_another(model: StandaloneModel) -> None:
    first, again = model.render(REQUEST), model.render(REQUEST)
    assert first.size == (64, 64)
    assert first.tobytes() == again.tobytes()
    other = model.render(RenderRequest("a cat", steps=3, width=64, height=64, seed=4))
    assert np.abs(pixels(first) - pixels(other)).mean() > 1


def test_the_prompt_and_its_negative_matter(model: StandaloneModel) -> None:
    plain = pixels(model.render(REQUEST))
    for changed in (
        RenderRequest("a dog in the snow", steps=3, width=64, height=64, seed=3),
        RenderRequest("a cat", "blurry, dark", steps=3, width=64, height=64, seed=3),
        RenderRequest("a cat", steps=3, width=64, height=64, seed=3, cfg=2.0),
    ):
        assert np.abs(pixels(model.render(changed)) - plain).max() > 0


def test_the_global_generator_is_left_alone(model: StandaloneModel) -> None:
    before = torch.get_rng_state()
    model.render(REQUEST)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_size(model: StandaloneModel) -> None:
    assert model.render(RenderRequest("x", steps=1, width=96, height=64)).size == (96, 64)
    with pytest.raises(BadInput, match=r"size: .*multiples of 8"):
        model.render(RenderRequest("x", width=100, height=64))


def test_a_network_changes_the_picture_and_clearing_brings_it_back(model: StandaloneModel) -> None:
    before, weights = model.render(REQUEST), fingerprint(model)
    network = random_network(model)
    model.patcher.apply({network: Strengths(0.7, 0.7)})
    changed = model.render(REQUEST)
    model.patcher.clear()
    assert np.abs(pixels(before) - pixels(changed)).mean() > 0.5
    assert fingerprint(model) == weights
    assert model.render(REQUEST).tobytes() == before.tobytes()


def test_a_strength_may_change_between_steps(model: StandaloneModel) -> None:
    layers = default_targets(model.table, conv=False)[:20]
    generator = torch.Generator().manual_seed(0)
    adapters = {layer.name: LoraAdapter.create(layer.shape, 4, 4, generator) for layer in layers}
    for adapter in adapters.values():
        adapter.up.data.normal_(generator=generator)
    network = Network("x", adapters)
    before, plain = fingerprint(model), model.decoded(REQUEST)
    steps: list[int] = []

    def on_from(first: int) -> torch.Tensor:
        def before_step(step: int) -> None:
            steps.append(step)
            model.patcher.apply({network: Strengths(float(step >= first), 0.0)})

        try:
            return model.decoded(REQUEST, before_step)
        finally:
            model.patcher.clear()

    always, late, never = on_from(0), on_from(1), on_from(3)
    assert steps == [0, 1, 2] * 3
    assert torch.equal(never, plain)
    assert not torch.equal(always, plain) and not torch.equal(late, plain) and not torch.equal(always, late)
    assert fingerprint(model) == before


@pytest.mark.parametrize("failing", [False, True], ids=["done", "failing"])
def test_a_session_gives_everything_back(model: StandaloneModel, failing: bool) -> None:
    bare = fingerprint(model)
    network = random_network(model)
    model.patcher.apply({network: Strengths()})
    before = fingerprint(model)
    try:
        with model.session() as session:
            assert fingerprint(model) == bare  # inside, networks that were applied are off
            session.place("unet")
            model.patcher.apply({random_network(model): Strengths(0.5, 0.5)})
            model.render(REQUEST)  # in the middle of a run, with what is applied now
            if failing:
                raise RuntimeError("in mid-run")
    except RuntimeError:
        assert failing
    assert fingerprint(model) == before
    assert dict(model.patcher.state) == {network: Strengths()}
    model.patcher.clear()
    assert fingerprint(model) == bare


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED: moving parts between CPU and card needs a card")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_parts_move_on_a_card_and_come_back(base: Path, precision: str) -> None:
    model = StandaloneModel.load(CheckpointConfig(str(base), "cuda", precision))
    assert model.dtype == (torch.float16 if precision == "auto" else torch.float32)
    before, picture = fingerprint(model), model.render(REQUEST).tobytes()
    with model.session() as session:
        session.place("te")
        places = {key: tensor.device.type for key, tensor in model.tensors.items()}
        assert {places[k] for k in places if k.startswith(("model.diffusion_model.", "first_stage_model."))} == {"cpu"}
        assert model.render(REQUEST).tobytes() == picture
        assert {key: tensor.device.type for key, tensor in model.tensors.items()} == places
    assert fingerprint(model) == before


def test_a_session_keeps_others_out(model: StandaloneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    first = StandaloneModel._guidance  # what a render does first, once it has the model

    def guidance(self: StandaloneModel, request: RenderRequest) -> Guidance:
        begun.set()
        return first(self, request)

    monkeypatch.setattr(StandaloneModel, "_guidance", guidance)
    other = threading.Thread(target=model.render, args=(REQUEST,))
    with model.session():
        other.start()
        assert not begun.wait(1)
    other.join(60)
    assert begun.is_set()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="NOT TESTED: only Linux tells what is mapped")
def test_the_file_is_let_go_of(tmp_path: Path) -> None:
    """Also by weights that are in the file as they are wanted: else it could not be replaced while it is in use."""
    path = random_base.make("sd1", tmp_path / "sd1.safetensors", dtype=torch.float32)
    model = load(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    model.tensors["model.diffusion_model.out.2.weight"].zero_()
    assert load(path).tensors["model.diffusion_model.out.2.weight"].abs().max() > 0


def test_a_written_tensor_is_what_is_rendered(sd1: Path) -> None:
    model = load(sd1)
    before = pixels(model.render(REQUEST))
    model.tensors["model.diffusion_model.out.2.weight"].mul_(-1)
    assert np.abs(pixels(model.render(REQUEST)) - before).mean() > 1


def test_a_ckpt_is_the_same_model(sd1: Path, tmp_path: Path) -> None:
    ckpt = tmp_path / "sd1.ckpt"
    torch.save({"state_dict": load_file(sd1)}, ckpt)
    ckpt.with_suffix(".yaml").write_bytes(sd1.with_suffix(".yaml").read_bytes())
    assert load(ckpt).render(REQUEST).tobytes() == load(sd1).render(REQUEST).tobytes()


def test_bf16_renders(sd1: Path) -> None:
    model = load(sd1, "bf16")
    assert model.dtype == torch.bfloat16
    assert model.tensors["first_stage_model.decoder.conv_in.weight"].dtype == torch.float32
    assert pixels(model.render(REQUEST)).std() > 1


def test_inpainting_renders(tmp_path: Path) -> None:
    model = load(random_base.make("sd1", tmp_path / "inpainting.safetensors", inpainting=True))
    assert model.architecture.inpainting
    assert pixels(model.render(REQUEST)).std() > 1


def test_the_checkpoint_is_named_and_hashed(sd1: Path) -> None:
    info = load(sd1).checkpoint
    assert (info.name, info.filename) == ("sd1", "sd1.safetensors")
    assert info.sha256 == hashlib.sha256(sd1.read_bytes()).hexdigest()


def test_the_schedule_is_stable_diffusions() -> None:
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(scaled_linear(), peer.alphas_cumprod, rtol=1e-5, atol=0)


def test_the_sampler_uses_the_models_schedule() -> None:
    from diffusers import EulerDiscreteScheduler

    peer = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    peer.set_timesteps(7)
    ours = euler(scaled_linear(), "epsilon", 7)
    torch.testing.assert_close(ours.sigmas, peer.sigmas, rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.timesteps, peer.timesteps)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CheckpointConfig("nowhere.safetensors"), "checkpoint: there is no such file"),
        (CheckpointConfig("."), "checkpoint: is a folder"),
        (CheckpointConfig("x", device="cuda:99"), "device: this card is not there"),
        (CheckpointConfig("x", device="toaster"), "device: there is no such device"),
        (CheckpointConfig("x", device="cpu", model_precision="fp16"), "model_precision: a CPU cannot"),
    ],
)
def test_bad_settings_are_said(config: CheckpointConfig, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        StandaloneModel.load(config)


def test_a_file_that_is_no_model_is_said(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput):
        load(tmp_path / "a.safetensors")
