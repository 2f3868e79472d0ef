"""Settings about memory: where it is bounded, the result is the same."""

from __future__ import annotations

import os
import time

from settings_table import about
from training_runs import contents, model, pictures, run, same

from lora_ext.data.store_size import DAY
from lora_ext.training import Notice, Stage

SHUFFLED = {"shuffle_tags": True, "caption_dropout": 0.2, "repeats": 2, "epochs": 3, "max_steps": 0}


def tagged(folder):
    """Pictures with captions that have an order to lose."""
    there = pictures(folder)
    for n, path in enumerate(sorted(there.glob("*.txt"))):
        path.write_text(f"cat {n}, red, big, on a sofa, at night", encoding="utf8")
    return str(there)


def watched(monkeypatch):
    """How many captions are held encoded whenever a batch is put together."""
    from lora_ext.training.material import Material

    held, batch = [], Material.batch
    monkeypatch.setattr(
        Material, "batch", lambda self, s, d: held.append(len(self.supply.conditioning)) or batch(self, s, d)
    )
    return held


def encodings(result):
    """After how many steps captions were encoded."""
    steps, found = 0, []
    for event in result.events:
        if isinstance(event, Stage) and event.name == "Caching captions" and event.done == 0:
            found.append(steps)
        steps += hasattr(event, "learning_rate")
    return found


@about("caption_memory")
def test_captions_that_would_fill_the_memory_are_encoded_by_epoch(tmp_path, monkeypatch):
    images, held = tagged(tmp_path / "pictures"), watched(monkeypatch)
    whole = run(tmp_path / "a", images=images, **SHUFFLED)
    most = max(held)
    held.clear()
    bounded = run(tmp_path / "b", images=images, caption_memory=0.0, **SHUFFLED)
    assert encodings(whole) == [0]
    assert encodings(bounded) == [0, 0, 6, 12]
    assert max(held) < most
    assert same(bounded.tensors, whole.tensors)


def test_what_varies_is_the_same_after_a_resume(tmp_path):
    images = tagged(tmp_path / "pictures")
    values = {**SHUFFLED, "images": images, "caption_memory": 0.0, "state_every": 1}
    whole = run(tmp_path / "a", **values)
    run(tmp_path / "b", **{**values, "max_steps": 8})
    resumed = run(tmp_path / "b", **values, resume=True)
    assert encodings(resumed) == [0, 0, 4], "epochs that are over are passed by"
    assert same(resumed.tensors, whole.tensors)


def test_long_captions_and_a_learning_text_encoder_by_epoch(tmp_path):
    images = tagged(tmp_path / "pictures")
    values = {**SHUFFLED, "images": images, "epochs": 2, "caption_tokens": "150"}
    run(tmp_path / "a", caption_memory=0.0, **values)
    learnt = [
        run(tmp_path / name, caption_memory=memory, text_encoder_lr=1e-3, **values)
        for name, memory in (("b", 0.0), ("c", 1.0))
    ]
    assert encodings(learnt[0]) == []
    assert same(learnt[0].tensors, learnt[1].tensors)


def test_stopping_while_captions_are_encoded_keeps_what_was_learnt(tmp_path):
    from training_runs import config, fingerprint

    from lora_ext.training import Finished, Stop, train

    images, before = tagged(tmp_path / "pictures"), fingerprint(model())
    work = train(
        model(), config(tmp_path, images=images, caption_memory=0.0, **SHUFFLED), output=tmp_path / "x.safetensors"
    )
    seen = 0
    for event in work:
        seen += hasattr(event, "learning_rate")
        if seen == 6 and isinstance(event, Stage) and event.name == "Caching captions":
            break
    rest = [work.throw(Stop()), *work]
    assert rest[-1] == Finished(6, "stopped")
    assert contents(tmp_path / "x.safetensors")[0]
    assert fingerprint(model()) == before


@about("cache_limit")
def test_the_cache_folder_keeps_its_size(tmp_path):
    def left(**values):
        run(tmp_path, cache="disk", max_steps=1, overwrite=True, **values)
        return {p.name for p in (tmp_path / "pictures" / ".lora-ext-cache").iterdir()}

    first = left()
    then = time.time() - 2 * DAY
    for name in first:
        os.utime(tmp_path / "pictures" / ".lora-ext-cache" / name, (then, then))
    assert len(left(resolution=128)) > len(first), "20 GB are not full"
    for name in first:
        os.utime(tmp_path / "pictures" / ".lora-ext-cache" / name, (then, then))
    after = left(resolution=128, cache_limit=1e-6)
    assert after
    assert len(first - after) == 3, "the latents of the smaller pictures; captions are in use"


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    from lora_ext.data import Store

    def full(self, key, tensors):
        self.problem = "No space left on device"
        return False

    monkeypatch.setattr(Store, "put", full)
    result = run(tmp_path, cache="disk", max_steps=1)
    told = [n.text for n in result.of(Notice) if "No space left" in n.text]
    assert len(told) == 2, "pictures and captions"
    assert result.path.is_file()
