"""Whole runs on tiny models: what they write, what they leave alone, how they end."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from training_runs import config, contents, fingerprint, model, pictures, run, same

from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable, read_network
from lora_ext.live import RenderRequest
from lora_ext.patching import Strengths
from lora_ext.training import Finished, Notice, Preview, Saved, Stage, Step, Stop, train
from lora_ext.training.check import check

FAMILIES = ["sd1", "sd2", "sdxl"]


@pytest.fixture
def folder(tmp_path):
    pictures(tmp_path / "pictures")
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_in_a_lora_out(folder, family):
    live = model(family)
    before = fingerprint(live)
    result = run(folder, live, text_encoder_lr=1e-3, conv_rank=2)
    assert [e.step for e in result.steps] == [1, 2]
    assert all(np.isfinite(e.loss) for e in result.steps)
    assert result.events[-1] == Finished(2, "done")
    assert fingerprint(live) == before

    read = read_network(result.path, NameTable(live.table))
    assert not read.unmatched
    assert {n.component for n in read.network.adapters} >= {"unet", "te1"}
    moved = [n for n, a in read.network.adapters.items() if a.up.abs().sum() > 0]
    assert len(moved) > 0.9 * len(read.network.adapters), "nearly every layer learnt"

    request = RenderRequest("a red cat", steps=2, width=64, height=64)
    plain = live.render(request)
    live.patcher.apply({read.network: Strengths()})
    try:
        assert np.any(np.asarray(live.render(request)) != np.asarray(plain)), "the file changes the picture"
    finally:
        live.patcher.clear()


def test_stages_come_in_order_and_count_up(folder):
    stages = run(folder).of(Stage)
    names = list(dict.fromkeys(s.name for s in stages))
    assert names == ["Caching latents", "Caching captions", "Building the model", "Training"]
    for name in names[:2]:
        assert [s.done for s in stages if s.name == name][-1] == next(s.total for s in stages if s.name == name) == 3


def test_same_seed_same_tensors_other_seed_others(folder):
    one = run(folder / "1", seed=5, flip=True)
    two = run(folder / "2", seed=5, flip=True)
    other = run(folder / "3", seed=6, flip=True)
    assert same(one.tensors, two.tensors)
    assert one.metadata["sshs_model_hash"] == two.metadata["sshs_model_hash"]
    assert [e.loss for e in one.steps] == [e.loss for e in two.steps]
    assert not same(one.tensors, other.tensors)


def test_global_random_sources_are_left_alone(folder):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    one = run(folder / "1", checkpointing=True, text_encoder_lr=1e-3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    torch.manual_seed(99)
    assert same(one.tensors, run(folder / "2", checkpointing=True, text_encoder_lr=1e-3).tensors)


def test_a_callers_no_grad_does_not_stop_learning(folder):
    with torch.no_grad():
        blind = run(folder / "1", text_encoder_lr=1e-3)
    assert same(blind.tensors, run(folder / "2", text_encoder_lr=1e-3).tensors)


def events_of(folder, live=None, **values):
    return train(live or model(), config(folder, **values), output=folder / "x.safetensors")


def drain_to(events, kind, count=1):
    for event in events:
        if isinstance(event, kind):
            count -= 1
            if not count:
                return event
    raise AssertionError(f"no {kind.__name__} came")


def test_stop_keeps_what_was_learnt(folder):
    before = fingerprint(model())
    events = events_of(folder, max_steps=50)
    drain_to(events, Step, 2)
    rest = [events.throw(Stop()), *events]
    assert rest == [Saved(2, folder / "x.safetensors", final=True), Finished(2, "stopped")]
    assert fingerprint(model()) == before
    (folder / "short").mkdir()
    assert same(contents(folder / "x.safetensors")[0], run(folder / "short", max_steps=2).tensors)


def test_closing_keeps_what_was_learnt(folder):
    before = fingerprint(model())
    events = events_of(folder, max_steps=50)
    drain_to(events, Step)
    events.close()
    assert fingerprint(model()) == before
    assert contents(folder / "x.safetensors")[1]["ss_steps"] == "1"


def test_a_keyboard_interrupt_keeps_it_too_and_goes_on_up(folder):
    events = events_of(folder, max_steps=50)
    drain_to(events, Step)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert (folder / "x.safetensors").is_file()


@pytest.mark.parametrize("when", ["Caching latents", "Caching captions", "Training"])
def test_stopping_before_the_first_step_writes_nothing(folder, when):
    before = fingerprint(model())
    events = events_of(folder)
    next(e for e in events if isinstance(e, Stage) and e.name == when)
    assert [events.throw(Stop()), *events] == [Finished(0, "stopped")]
    assert fingerprint(model()) == before
    assert [p.name for p in folder.iterdir()] == ["pictures"]


def test_a_stop_that_comes_too_late_changes_nothing(folder):
    events = events_of(folder)
    assert drain_to(events, Saved).final
    assert events.throw(Stop()) == Finished(2, "done")
    assert list(events) == []


def test_a_stop_inside_an_accumulated_step_is_heard_at_once(folder):
    events = events_of(folder, accumulate=3, max_steps=50)
    drain_to(events, Step)
    assert isinstance(next(events), Stage)
    assert [events.throw(Stop()), *events][-1] == Finished(1, "stopped")


class Boom(Exception):
    pass


@pytest.mark.parametrize("when", [Stage, Step, Preview])
def test_an_exception_gives_everything_back(folder, when):
    live = model("sdxl")
    before = fingerprint(live)
    events = events_of(folder, live, preview_prompt="a cat", preview_every=1, text_encoder_lr=1e-3)
    drain_to(events, when)
    with pytest.raises(Boom):
        events.throw(Boom())
    assert fingerprint(live) == before


def test_what_was_applied_before_is_applied_again(folder):
    live = model()
    network = read_network(run(folder / "first").path, NameTable(live.table)).network
    live.patcher.apply({network: Strengths(0.5, 0.5)})
    try:
        before = fingerprint(live)
        with_it = run(folder / "second")
        assert fingerprint(live)[0] == before[0]
        assert dict(live.patcher.state) == {network: Strengths(0.5, 0.5)}
    finally:
        live.patcher.clear()
    assert same(with_it.tensors, run(folder / "third").tensors), "it was off while training"


def test_previews_show_what_was_learnt_and_disturb_nothing(folder):
    plain = run(folder / "1", max_steps=4)
    shown = run(folder / "2", max_steps=4, preview_prompt="a red cat", preview_every=2)
    assert same(plain.tensors, shown.tensors)
    previews = shown.of(Preview)
    assert [p.step for p in previews] == [2, 4]

    live = model()
    network = read_network(shown.path, NameTable(live.table)).network
    live.patcher.apply({network: Strengths()})
    try:
        later = live.render(RenderRequest("a red cat", seed=1, steps=1, cfg=7.0, width=64, height=64))
    finally:
        live.patcher.clear()
    assert np.array_equal(np.asarray(previews[-1].image), np.asarray(later)), "the last preview is what the file gives"


def test_a_host_that_moves_its_tensors_for_a_preview(folder, monkeypatch):
    plain = run(folder / "1", max_steps=3, text_encoder_lr=1e-3)
    live = model()
    render, kept = live.render, dict(live.tensors)

    def moving(request):
        picture = render(request)
        for key, tensor in kept.items():
            live.tensors[key] = tensor.clone()
            tensor.data.fill_(
                float("nan") if tensor.is_floating_point() else -1
            )  # whoever still looks at the old storage will notice
        return picture

    originals = {key: t.clone() for key, t in kept.items()}
    monkeypatch.setattr(live, "render", moving)
    try:
        moved = run(folder / "2", max_steps=3, text_encoder_lr=1e-3, preview_prompt="x", preview_every=2)
    finally:
        for key, tensor in kept.items():
            tensor.data.copy_(originals[key])
            live.tensors[key] = tensor
    assert same(plain.tensors, moved.tensors)


def test_nothing_that_is_not_finite_is_saved(folder, monkeypatch):
    from lora_ext.training.learner import Learner

    loss, seen = Learner.loss, []

    def sick(self, *given):
        seen.append(1)
        value = loss(self, *given)
        return value * float("nan") if len(seen) > 3 else value

    monkeypatch.setattr(Learner, "loss", sick)
    before = fingerprint(model())
    events = events_of(folder, max_steps=99, bad_steps=4)
    told = []
    with pytest.raises(BadInput) as caught:
        told.extend(iter(lambda: next(events), None))
    monkeypatch.undo()
    assert caught.value.problems[0].field == "learning_rate"
    assert len(seen) == 3 + 4
    assert fingerprint(model()) == before
    assert not (folder / "x.safetensors").exists()
    rescued = next(folder.glob("x-step*.safetensors"))
    (folder / "three").mkdir()
    assert same(contents(rescued)[0], run(folder / "three", max_steps=3).tensors)


def test_a_run_whose_steps_were_all_refused_fails_and_saves_nothing(folder, monkeypatch):
    from lora_ext.training.learner import Learner

    loss = Learner.loss
    monkeypatch.setattr(Learner, "loss", lambda self, *given: loss(self, *given) * float("nan"))
    before = fingerprint(model())
    with pytest.raises(BadInput, match="nothing was learnt"):
        run(folder, max_steps=2)
    assert fingerprint(model()) == before
    assert not list(folder.rglob("*.safetensors"))


def test_a_disk_too_small_is_told_before_the_start(folder, monkeypatch):
    import shutil

    full = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(BadInput, match="too full") as caught:
        run(folder)
    assert caught.value.problems[0].field == "output"


def test_a_disk_just_too_small_for_the_file_is_told(folder, monkeypatch):
    import shutil

    wish = {"conv_rank": 3, "text_encoder_lr": 1e-3, "save_precision": "fp16"}
    written = run(folder, **wish).path.stat().st_size
    usage = shutil.disk_usage(folder)
    for free, fits in ((int(written * 0.97), False), (int(written * 1.03), True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        values, output = config(folder, **wish), folder / "other.safetensors"
        with nullcontext() if fits else pytest.raises(BadInput, match="too full"):
            check(model(), values, output)


def test_a_preview_that_overflows_is_told_and_left_out(folder, monkeypatch):
    def refuse(wanted):
        raise BadInput(Problem("preview", "leaves the range"))

    before = fingerprint(model())
    live = model()
    monkeypatch.setattr(live.patcher, "apply", lambda wanted: refuse(wanted) if wanted else None)
    result = run(folder, preview_prompt="x", preview_every=1)
    monkeypatch.undo()
    assert any("leaves the range" in n.text for n in result.of(Notice))
    assert result.events[-1] == Finished(2, "done")
    assert fingerprint(model()) == before


def test_a_few_bad_steps_are_left_out_and_told(folder, monkeypatch):
    from lora_ext.training.learner import Learner

    loss, seen = Learner.loss, []

    def hiccup(self, *given):
        seen.append(1)
        return loss(self, *given) * (float("inf") if len(seen) == 2 else 1.0)

    monkeypatch.setattr(Learner, "loss", hiccup)
    result = run(folder, max_steps=3)
    assert [e.loss is None for e in result.steps] == [False, True, False]
    assert any("1 step(s)" in n.text for n in result.of(Notice))
    assert all(torch.isfinite(t).all() for t in result.tensors.values())


def test_running_out_of_memory_says_what_to_do_and_keeps_what_was_learnt(folder, monkeypatch):
    from lora_ext.training.learner import Learner

    loss, seen = Learner.loss, []

    def full(self, *given):
        seen.append(1)
        if len(seen) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss(self, *given)

    monkeypatch.setattr(Learner, "loss", full)
    before = fingerprint(model())
    with pytest.raises(BadInput) as caught:
        run(folder, max_steps=9)
    assert caught.value.problems[0].field == "batch_size"
    assert "checkpointing" in str(caught.value)
    assert fingerprint(model()) == before
    assert (folder / "out" / "x-step000002.safetensors").is_file()


def test_a_preview_that_does_not_fit_is_left_out(folder, monkeypatch):
    def full(request):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model(), "render", full)
    before = fingerprint(model())
    result = run(folder, preview_prompt="x", preview_every=1)
    assert any("preview" in n.text for n in result.of(Notice))
    assert result.events[-1] == Finished(2, "done")
    assert fingerprint(model()) == before


def test_a_damaged_picture_is_named_and_the_rest_is_used(folder):
    path = folder / "pictures" / "1.png"
    path.write_bytes(path.read_bytes()[:120])
    result = run(folder)
    assert any("1.png" in n.text for n in result.of(Notice))
    assert result.metadata["ss_num_train_images"] == "2"


def test_long_captions_are_told(folder):
    (folder / "pictures" / "1.txt").write_text("word " * 76, encoding="utf8")
    (folder / "pictures" / "2.txt").write_text("word " * 75, encoding="utf8")
    texts = [n.text for n in run(folder).of(Notice)]
    assert any(t.startswith("1 caption(s) are longer than 75 tokens") and "word word" in t for t in texts)


def test_a_file_on_the_way_that_cannot_be_written_does_not_end_the_run(folder):
    (folder / "out" / "x-step000001.safetensors").mkdir(parents=True)
    result = run(folder, save_every_steps=1, overwrite=True)
    assert any("not saved" in n.text for n in result.of(Notice))
    assert result.path.is_file()


def test_the_vae_of_a_half_model_is_used_in_float32(folder, monkeypatch):
    from lora_ext.training import material

    live, build, seen = model(), material.build_vae, []

    def building(arch, tensors):
        seen.extend(t.dtype for t in tensors.values() if t.is_floating_point())
        return build(arch, tensors)

    monkeypatch.setattr(material, "build_vae", building)
    vae = {k: t for k, t in live.tensors.items() if k.startswith(material.VAE_PREFIX)}
    live.tensors.update({k: t.half() for k, t in vae.items()})
    try:
        run(folder, max_steps=1)
    finally:
        live.tensors.update(vae)
    assert set(seen) == {torch.float32}


def test_every_picture_of_an_accumulated_step_counts_alike(folder, monkeypatch):
    from lora_ext.training.learner import Learner

    def known(self, batch, draw):
        anything = next(iter(self.adapters.values())).up.sum() * 0
        return anything + {2: 2.0, 1: 5.0}[len(batch.latents)]

    monkeypatch.setattr(Learner, "loss", known)
    result = run(folder, batch_size=2, accumulate=2, max_steps=2)
    assert [e.loss for e in result.steps] == pytest.approx([(2 * 2.0 + 5.0) / 3] * 2)


@pytest.mark.parametrize("held", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_arithmetic_over_any_storage(folder, held, precision):
    """On one step the losses agree to the rounding of the coarser of the two types."""
    exact = run(folder / "exact", max_steps=1).steps[0].loss
    live = model("sd1", held)
    before = fingerprint(live)
    result = run(folder / "other", live, precision=precision, max_steps=1, text_encoder_lr=1e-3)
    assert result.steps[0].loss == pytest.approx(exact, rel=1e-6 if held == precision == "fp32" else 5e-2)
    assert all(t.dtype == torch.float32 for k, t in result.tensors.items())
    assert fingerprint(live) == before
