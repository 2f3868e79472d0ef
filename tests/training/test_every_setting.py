"""No setting is ignored: each has a run that comes out differently because of it."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from settings_table import SEEN, about
from training_runs import contents, model, pictures, run, same

from lora_ext.config import TrainConfig, settings
from lora_ext.errors import BadInput
from lora_ext.training import Notice, Preview, Saved


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run that all others differ from."""
    return run(tmp_path_factory.mktemp("plain"))


def recorded(monkeypatch):
    """Render requests and the strengths applied, instead of pictures."""
    live, requests, strengths = model(), [], []
    render, apply = live.render, live.patcher.apply

    def rendering(request):
        requests.append(request)
        return render(request)

    def applying(wanted):
        strengths.extend(wanted.values())
        return apply(wanted)

    monkeypatch.setattr(live, "render", rendering)
    monkeypatch.setattr(live.patcher, "apply", applying)
    return requests, strengths


@about("images")
def test_images(tmp_path, plain):
    pictures(tmp_path / "other", count=1)
    result = run(tmp_path, images=str(tmp_path / "other"))
    assert result.metadata["ss_num_train_images"] == "1"
    assert "other" in json.loads(result.metadata["ss_dataset_dirs"])
    assert str(tmp_path) not in json.dumps(result.metadata), "a file that is shared does not tell where it was made"


@about("concept")
def test_concept(tmp_path):
    folder = pictures(tmp_path / "pictures")
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(BadInput) as caught:
        run(tmp_path)
    assert [p.field for p in caught.value.problems] == ["concept"]
    tags = json.loads(run(tmp_path, concept="sks").metadata["ss_tag_frequency"])
    assert tags == {"pictures": {"sks": 3}}


@about("resolution", "buckets")
def test_resolution_and_buckets(tmp_path):
    pictures(tmp_path / "pictures", count=1, size=(256, 64))
    wide = run(tmp_path / "a", images=str(tmp_path / "pictures"), resolution=128, max_steps=1)
    square = run(tmp_path / "b", images=str(tmp_path / "pictures"), resolution=128, max_steps=1, buckets=False)
    sizes = [json.loads(r.metadata["ss_bucket_info"])["buckets"]["0"]["resolution"] for r in (wide, square)]
    assert sizes == [[256, 64], [128, 128]]
    assert wide.metadata["ss_resolution"] == "(128, 128)"
    assert not same(wide.tensors, square.tensors)


@about("repeats", "epochs", "batch_size", "max_steps", "accumulate")
@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"epochs": 2}, 6),
        ({"epochs": 1}, 3),
        ({"epochs": 1, "repeats": 2}, 6),
        ({"epochs": 1, "batch_size": 2}, 2),
        ({"epochs": 1, "accumulate": 2}, 2),
        ({"epochs": 1, "max_steps": 4}, 4),
    ],
)
def test_how_long_a_run_is(tmp_path, values, steps):
    result = run(tmp_path, **{"max_steps": 0, **values})
    assert len(result.steps) == steps == result.steps[0].total
    assert result.metadata["ss_steps"] == str(steps)
    assert result.steps[-1].epoch == result.steps[-1].epochs


def test_an_accumulated_step_learns_from_all_its_batches(tmp_path, plain):
    assert not same(run(tmp_path, accumulate=2).tensors, plain.tensors)


@about("flip")
def test_flip(tmp_path, monkeypatch):
    from lora_ext.training.material import Material

    seen = set()
    batch = Material.batch
    monkeypatch.setattr(Material, "batch", lambda self, s, d: seen.update(x.flipped for x in s) or batch(self, s, d))
    run(tmp_path, flip=True, max_steps=9)
    assert seen == {True, False}
    seen.clear()
    run(tmp_path, overwrite=True)
    assert seen == {False}


@about("rank", "alpha", "conv_rank", "conv_alpha")
def test_the_adapters_shape(tmp_path, plain):
    result = run(tmp_path, rank=3, alpha=1.5, conv_rank=5, conv_alpha=2.5)
    found = {}
    for key, down in result.tensors.items():
        if key.endswith("lora_down.weight"):
            alpha = result.tensors[key.replace("lora_down.weight", "alpha")].item()
            found.setdefault(down.shape[2:] not in ((), (1, 1)), set()).add((down.shape[0], alpha))
    assert found == {False: {(3, 1.5)}, True: {(5, 2.5)}}
    assert not any(t.dim() == 4 and t.shape[-1] == 3 for t in plain.tensors.values())
    assert (result.metadata["ss_network_dim"], result.metadata["ss_network_alpha"]) == ("3", "1.5")


@about("clip_skip")
def test_clip_skip(tmp_path, plain):
    assert not same(run(tmp_path / "a", clip_skip=2).tensors, plain.tensors)
    trained = [run(tmp_path / f"te{skip}", clip_skip=skip, text_encoder_lr=1e-3) for skip in (0, 2)]
    assert trained[0].steps[0].loss != trained[1].steps[0].loss
    with pytest.raises(BadInput) as caught:
        run(tmp_path / "b", clip_skip=12)
    assert [p.field for p in caught.value.problems] == ["clip_skip"]


def test_clip_skip_of_sdxl_is_its_own_and_that_is_said(tmp_path):
    live = model("sdxl")
    skipped = run(tmp_path / "a", live, clip_skip=2, max_steps=1)
    assert any("Clip skip 2" in n.text for n in skipped.of(Notice))
    assert same(skipped.tensors, run(tmp_path / "b", live, max_steps=1).tensors)


@about("learning_rate", "text_encoder_lr")
def test_learning_rates(tmp_path, plain):
    kinds = {"unet": False, "te": False}

    def trained(**values):
        result = run(tmp_path / str(len(list(tmp_path.iterdir()))), **values)
        return {kind: any(k.startswith(f"lora_{kind}_") for k in result.tensors) for kind in kinds}, result

    assert trained()[0] == {"unet": True, "te": False}
    assert trained(text_encoder_lr=1e-3)[0] == {"unet": True, "te": True}
    only, result = trained(text_encoder_lr=1e-3, learning_rate=0)
    assert only == {"unet": False, "te": True}
    assert result.steps[0].learning_rate == 1e-3
    assert trained(learning_rate=1e-4)[1].steps[0].learning_rate == 1e-4
    moved = [up_norm(trained(learning_rate=rate, max_steps=1)[1]) for rate in (1e-4, 1e-3)]
    assert moved[1] == pytest.approx(10 * moved[0], rel=1e-3), "Adam's first step is as long as the learning rate"
    te = [up_norm(trained(text_encoder_lr=rate, max_steps=1)[1], "lora_te_") for rate in (1e-4, 1e-3)]
    assert te[1] == pytest.approx(10 * te[0], rel=1e-3)
    with pytest.raises(BadInput) as caught:
        trained(learning_rate=0)
    assert [p.field for p in caught.value.problems] == ["learning_rate"]


def up_norm(result, start="lora_unet_"):
    ups = [t.flatten() for k, t in result.tensors.items() if k.startswith(start) and k.endswith("lora_up.weight")]
    return torch.cat(ups).norm().item()


@about("schedule", "warmup")
def test_schedule(tmp_path):
    def rates(name, **values):
        return [s.learning_rate for s in run(tmp_path / name, max_steps=4, learning_rate=1e-3, **values).steps]

    assert rates("a") == [1e-3] * 4
    assert rates("b", warmup=3) == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    cosine = rates("c", schedule="cosine")
    assert cosine == pytest.approx([1e-3, 0.8535533e-3, 0.5e-3, 0.1464466e-3])


@about("weight_decay", "max_grad_norm", "seed")
@pytest.mark.parametrize(
    "values", [{"weight_decay": 0.5}, {"max_grad_norm": 1e-9}, {"seed": 1}], ids=lambda v: next(iter(v))
)
def test_it_changes_what_is_learnt(tmp_path, plain, values):
    assert not same(run(tmp_path, **values).tensors, plain.tensors)


@about("precision")
def test_precision(tmp_path, plain):
    assert same(run(tmp_path / "a", precision="fp32").tensors, plain.tensors), "auto is fp32 on a CPU"
    assert not same(run(tmp_path / "b", precision="bf16").tensors, plain.tensors)
    with pytest.raises(BadInput) as caught:
        run(tmp_path / "c", precision="fp16")
    assert [p.field for p in caught.value.problems] == ["precision"]


@about("checkpointing")
def test_checkpointing(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("lora_ext.training.arranged.checkpoint_gradients", called.append)
    run(tmp_path / "a", max_steps=1)
    assert not called
    run(tmp_path / "b", max_steps=1, checkpointing=True)
    assert len(called) == 1


@about("output", "overwrite")
def test_output_and_overwrite(tmp_path):
    """`output` is turned into a path by the caller; here it is only written down."""
    first = run(tmp_path)
    assert json.loads(first.metadata["lora_ext.settings"])["output"] == "x"
    before = first.path.read_bytes()
    with pytest.raises(BadInput) as caught:
        run(tmp_path, seed=1)
    assert [p.field for p in caught.value.problems] == ["output"]
    assert first.path.read_bytes() == before
    assert run(tmp_path, seed=1, overwrite=True).path.read_bytes() != before


@about("save_every_steps", "save_every_epochs")
def test_saves_on_the_way(tmp_path):
    result = run(tmp_path, max_steps=0, epochs=3, save_every_steps=2, save_every_epochs=1)
    names = [(e.step, Path(e.path).stem, e.final) for e in result.of(Saved)]
    assert names == [
        (2, "x-step000002", False),
        (3, "x-epoch0001", False),
        (4, "x-step000004", False),
        (6, "x-step000006", False),
        (6, "x-epoch0002", False),
        (8, "x-step000008", False),
        (9, "x", True),
    ]
    middle, facts = contents(result.of(Saved)[3].path)
    assert facts["ss_steps"] == "6"
    assert facts["ss_output_name"] == "x-step000006"
    assert not same(middle, result.tensors)
    again = run(tmp_path / "six", images=str(tmp_path / "pictures"), max_steps=6)
    assert same(middle, again.tensors), "a file on the way is what a shorter run would give"
    result.path.unlink()
    with pytest.raises(BadInput, match="x-step000002"):
        run(tmp_path, save_every_steps=2)


@about("save_precision")
@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_save_precision(tmp_path, name, dtype):
    result = run(tmp_path, save_precision=name, max_steps=1)
    assert {t.dtype for k, t in result.tensors.items() if "lora_" in k.rpartition(".lora")[1] + k and t.dim()} == {
        dtype
    }


@about(
    "preview_prompt",
    "preview_negative",
    "preview_every",
    "preview_strength",
    "preview_seed",
    "preview_steps",
    "preview_cfg",
    "preview_width",
    "preview_height",
)
def test_previews(tmp_path, monkeypatch):
    requests, strengths = recorded(monkeypatch)
    result = run(
        tmp_path,
        max_steps=4,
        preview_prompt="a cat",
        preview_negative="dogs",
        preview_every=3,
        preview_strength=0.5,
        preview_seed=42,
        preview_steps=2,
        preview_cfg=3.0,
        preview_width=128,
        preview_height=64,
    )
    (request,) = requests
    wanted = {"prompt": "a cat", "negative": "dogs", "seed": 42, "steps": 2, "cfg": 3.0, "width": 128, "height": 64}
    assert vars(request) == wanted
    assert {(s.unet, s.text) for s in strengths} == {(0.5, 0.5)}
    (preview,) = result.of(Preview)
    assert (preview.step, preview.prompt, preview.image.size) == (3, "a cat", (128, 64))
    assert np.asarray(preview.image).std() > 0


def test_without_a_prompt_there_are_no_previews(plain):
    assert not plain.of(Preview)


def test_every_setting_is_written_into_the_file(plain):
    assert set(json.loads(plain.metadata["lora_ext.settings"])) == set(settings(TrainConfig))


@cache
def known():
    return set(settings(TrainConfig))


def test_no_setting_was_forgotten_here():
    for path in Path(__file__).parent.glob("test_*_settings.py"):
        importlib.import_module(path.stem)
    assert known() - SEEN == set(), "settings without a test that fails when they are ignored"
    assert SEEN - known() == set()


def test_all_problems_at_once(tmp_path):
    with pytest.raises(BadInput) as caught:
        run(
            tmp_path,
            images=str(tmp_path / "nowhere"),
            learning_rate=0,
            precision="fp16",
            clip_skip=12,
        )
    assert {p.field for p in caught.value.problems} == {"images", "learning_rate", "precision", "clip_skip"}


def test_inpainting_is_refused_by_name(tmp_path):
    from checkpoints import checkpoint

    from lora_ext.config import CheckpointConfig
    from lora_ext.hosts.standalone import StandaloneModel

    live = StandaloneModel.load(CheckpointConfig(checkpoint=str(checkpoint("sd1", inpainting=True))))
    with pytest.raises(BadInput, match="inpainting") as caught:
        run(tmp_path, live)
    assert [p.field for p in caught.value.problems] == ["checkpoint"]


@pytest.mark.parametrize("name", ["x.ckpt", "a:b.safetensors", " .safetensors"])
def test_names_that_cannot_be_used(tmp_path, name):
    from training_runs import config

    from lora_ext.training import train

    pictures(tmp_path / "pictures")
    with pytest.raises(BadInput) as caught:
        train(model(), config(tmp_path), output=tmp_path / name)
    assert {p.field for p in caught.value.problems} == {"output"}
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]
