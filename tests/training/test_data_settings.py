"""No setting of the data is ignored: each makes other pictures, other words or another cache."""

from __future__ import annotations

import pytest
from PIL import Image
from settings_table import about
from training_runs import config, model, pictures, run

from lora_ext.data import Batches, LatentCache, scan

TAGS = "a, b, c, d, e, f"


def folder(tmp_path, caption=TAGS, size=(128, 64), **others):
    """One picture with a caption."""
    there = tmp_path / "pictures"
    there.mkdir(exist_ok=True)
    Image.linear_gradient("L").resize(size).save(there / "0.png")
    (there / "0.txt").write_text(caption, encoding="utf8")
    return there


def scanned(tmp_path, **values):
    return scan(config(tmp_path, **values).data)


def said(tmp_path, epoch=0, **values):
    """Every caption of an epoch, as often as it comes."""
    batches = Batches(scanned(tmp_path, repeats=40, **values), 4, seed=0)
    return [sample.caption for batch in batches.epoch(epoch) for sample in batch]


@pytest.mark.parametrize(
    ("values", "caption", "wanted"),
    [
        ({"trigger_words": "sks"}, TAGS, f"sks, {TAGS}"),
        ({"caption_template": "photo of [name], [filewords]", "concept": "it"}, "red", "photo of it, red"),
        ({"caption_extension": ".tags"}, "text", "from tags"),
        ({"keep_separator": "|||"}, "a ||| b", "a, b"),
        ({"joint_separator": ";;"}, "a;;b, c", "a,b, c"),
        ({"keep_separator": "|||", "tag_separator": "."}, "a ||| b", "a. b"),
        ({"wildcards": True}, "a {red|blue} cat", "a red cat"),
    ],
    ids=lambda v: "+".join(v) if isinstance(v, dict) else None,
)
@about("trigger_words", "caption_template", "caption_extension", "keep_separator", "joint_separator", "tag_separator")
@about("wildcards")
def test_what_is_said(tmp_path, values, caption, wanted):
    (folder(tmp_path, caption) / "0.tags").write_text("from tags")
    assert scanned(tmp_path).captions == (caption,)
    assert scanned(tmp_path, **values).captions == (wanted,)


@about("caption_file")
def test_a_caption_list(tmp_path):
    folder(tmp_path)
    (tmp_path / "list.json").write_text('{"0": "listed"}')
    assert scanned(tmp_path, caption_file=str(tmp_path / "list.json")).captions == ("listed",)


@about("shuffle_tags", "keep_tokens", "tag_dropout", "caption_dropout", "caption_dropout_epochs")
def test_what_chance_does_to_captions(tmp_path):
    folder(tmp_path)
    assert set(said(tmp_path)) == {TAGS}
    assert len(set(said(tmp_path, shuffle_tags=True))) > 20
    assert {text[:4] for text in said(tmp_path, shuffle_tags=True, keep_tokens=2)} == {"a, b"}
    assert len({len(text) for text in said(tmp_path, tag_dropout=0.5)}) > 3
    assert set(said(tmp_path, caption_dropout=0.5)) == {TAGS, ""}
    assert [set(said(tmp_path, epoch, caption_dropout_epochs=2)) for epoch in (0, 1)] == [{TAGS}, {""}]


@about("crop", "upscale_limit", "colour_jitter", "variations")
def test_views(tmp_path):
    folder(tmp_path, size=(200, 70))

    def views(**values):
        return [(v.resized, v.crop, v.tint) for v in scanned(tmp_path, buckets=False, **values).views()]

    assert views() == [((183, 64), (59, 0), None)]
    assert views(crop="none") == [((64, 64), (0, 0), None)]
    assert len({crop for _, crop, _ in views(crop="random")}) == 4
    assert len(views(crop="random", variations=7)) == 7
    assert len({tint for *_, tint in views(colour_jitter=0.2)}) == 4
    folder(tmp_path, size=(70, 70))
    assert [scanned(tmp_path, resolution=128, upscale_limit=n).pictures[0].bucket for n in (0, 1)] == [
        (128, 128),
        (64, 64),
    ]


@about("mask_folder", "alpha_mask")
def test_masks(tmp_path):
    there = folder(tmp_path)
    Image.new("RGBA", (64, 64)).save(there / "0.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (64, 64)).save(tmp_path / "masks" / "0.png")
    assert scanned(tmp_path).pictures[0].mask == there / "0.png"
    assert scanned(tmp_path, alpha_mask=False).pictures[0].mask is None
    assert scanned(tmp_path, mask_folder=str(tmp_path / "masks")).pictures[0].mask == tmp_path / "masks" / "0.png"


@about("regularisation", "regularisation_images", "datasets")
def test_further_data_sets(tmp_path):
    folder(tmp_path)
    pictures(tmp_path / "others", count=2)
    assert scanned(tmp_path, regularisation=True).pictures[0].regularisation
    more = scanned(tmp_path, regularisation_images=str(tmp_path / "others"), repeats=4)
    assert [(p.regularisation, p.repeats) for p in more.pictures] == [(False, 4), (True, 2), (True, 2)]
    more = scanned(tmp_path, datasets=f"images = '{tmp_path / 'others'}', repeats = 9")
    assert [p.repeats for p in more.pictures] == [1, 9, 9]


@about("picture_weight")
def test_pictures_without_weight_teach_nothing(tmp_path):
    folder(tmp_path)
    assert run(tmp_path, max_steps=1, picture_weight=0).steps[0].loss == 0


@about("cache", "cache_folder", "decode_threads")
def test_caches(tmp_path, monkeypatch):
    from lora_ext.training import material

    made = []

    class Watched(LatentCache):
        def __init__(self, store=None, threads=1):
            made.append((store is not None, threads))
            super().__init__(store, threads)

    monkeypatch.setattr(material, "LatentCache", Watched)
    folder(tmp_path)
    values = {"max_steps": 1, "overwrite": True}
    run(tmp_path, model(), decode_threads=3, **values)
    assert made == [(False, 3)]
    assert not (tmp_path / "kept").exists()
    first = run(tmp_path, cache="disk", cache_folder=str(tmp_path / "kept"), **values)
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert len(kept) == 2, "a picture and a caption"
    again = run(tmp_path, cache="disk", cache_folder=str(tmp_path / "kept"), **values)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == kept
    assert first.steps[0].loss == again.steps[0].loss


def test_words_that_vary_reach_the_model(tmp_path, monkeypatch):
    from lora_ext.training.material import Material

    seen = []
    batch = Material.batch
    monkeypatch.setattr(Material, "batch", lambda self, s, d: seen.extend(x.caption for x in s) or batch(self, s, d))
    folder(tmp_path)
    run(tmp_path, shuffle_tags=True, max_steps=4)
    assert len(seen) == 4
    assert len(set(seen)) > 1
    assert all(sorted(text.split(", ")) == TAGS.split(", ") for text in seen)
