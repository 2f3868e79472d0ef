"""The learning bench compares like with like: both sides see the same data, noise and first weights."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.learn_ours import learn, write_pictures
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
