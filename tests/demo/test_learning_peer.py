"""The learning bench compares like with like: both sides see the same data, noise and first weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.learn_ours import applied, learn, write_pictures
from benchmarks.learn_paint import Modules
from benchmarks.learn_settings import SETTINGS
from demo import judge
from demo.subjects import SUBJECTS
from lora_ext.config import CheckpointConfig
from lora_ext.hosts.standalone import StandaloneModel

pytest.importorskip("peft", reason="peft, the peer, is only in the newest set of versions")

from benchmarks import learn_peer


@pytest.mark.parametrize(("text_encoder_lr", "lowest_strength"), [(0.0, 1.0), (1e-3, 1.0), (1e-3, 0.2)])
def test_both_sides_have_the_same_losses(text_encoder_lr: float, lowest_strength: float, tmp_path: Path) -> None:
    settings = replace(SETTINGS["gorp"], steps=4, text_encoder_lr=text_encoder_lr, class_pictures=4)
    settings = replace(settings, lowest_strength=lowest_strength)
    model = StandaloneModel.load(CheckpointConfig(checkpoint=str(judge.BASE), device="cpu"))
    images = write_pictures(SUBJECTS["gorp"], settings, tmp_path / "pictures")
    ours = learn(model, images, settings, tmp_path / "gorp.safetensors")
    peer = learn_peer.learn(judge.BASE, images, settings)
    assert len(set(ours.losses)) == 4
    assert ours.losses == pytest.approx(peer.losses, abs=1e-4)
    if lowest_strength < 1:  # one of them is enough
        assert_same_change(model, ours.lora, peer, strength=0.7)


def assert_same_change(model: StandaloneModel, lora: Path, peer: learn_peer.PeerResult, strength: float) -> None:
    """What both sides change in the weights at a strength, twice that for the peer's given twice."""
    before = parameters(Modules.over(model))
    with applied(model, {lora: strength}):
        mine = {name: after - before[name] for name, after in parameters(Modules.over(model)).items()}
    merged = parameters(learn_peer.together(judge.BASE, [peer, peer], strength))
    theirs = {name: after - before[name] for name, after in merged.items()}
    changed = {name for name, change in theirs.items() if change.any()}
    assert changed and changed == {name for name, change in mine.items() if change.any()}
    for name in changed:
        assert torch.dist(theirs[name], 2 * mine[name]) < 0.05 * torch.linalg.norm(theirs[name]), name


def parameters(modules: Modules) -> dict[str, torch.Tensor]:
    """Copies of all weights of the UNet and the text encoder."""
    parts = {"unet": modules.unet, "text": modules.text.encoders[0]}
    return {f"{part}.{name}": p.detach().clone() for part, root in parts.items() for name, p in root.named_parameters()}
