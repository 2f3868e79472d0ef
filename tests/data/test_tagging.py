"""Pictures described: taggers over tiny files of the real kinds, and what they say made into edits."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from tagger_files import TAGS, matrix, onnx_tagger, tag_list, timm_tagger

from lora_ext.captioner import Tag, Weights, fetch, reach
from lora_ext.config import DataSetConfig
from lora_ext.data.editing import EditSet, Thumbnails
from lora_ext.data.tagging import WdTagger, Wish, describe, wd, wd_taggers
from lora_ext.errors import BadInput

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture
def target(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (64, 64), color).save(root / f"{name}.png")
    (root / "red.txt").write_text("a wall, red")
    one = EditSet(DataSetConfig(images=str(root), resolution=64), Thumbnails(tmp_path / "cache"))
    one.wait(20)
    yield one
    one.close()


def captions(target):
    return {entry["name"].removesuffix(".png"): entry["text"] for entry in target.listing().entries}


class Fake:
    """Says the tags it was given, or a sentence."""

    name, label, kind = "fake", "Fake", "tags"

    def __init__(self, said, present=True):
        self.said, self.present, self.open = said, present, 0

    def weights(self):
        return Weights(self.present, "/models/fake", "", 0)

    @contextmanager
    def opened(self, stop):
        self.open += 1
        try:
            yield lambda image: self.said
        finally:
            self.open -= 1


def run(target, captioner, mode, stop=lambda: False, **more):
    told = []
    count = describe(target, captioner, Wish(None, mode, **more), lambda *p: told.append(p), stop)
    return count, told


def onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="NOT CHECKED: WD taggers by onnxruntime need onnxruntime")
    return WdTagger(onnx_tagger(tmp_path / "taggers" / "mine"))


def test_an_onnx_tagger_tells_colors(target, tmp_path):
    tagger = onnx(tmp_path)
    assert tagger.weights().present
    count, told = run(target, tagger, "overwrite")
    assert count == 3
    assert captions(target) == {"red": "red, ^_^", "green": "green", "blue": "blue sky, some body (of a story)"}
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert target.undo() == 3
    assert captions(target)["red"] == "a wall, red"


def test_its_scores_are_the_models_own(tmp_path):
    with onnx(tmp_path).opened(lambda: False) as say:
        found = {tag.name: tag.score for tag in say(Image.new("RGB", (40, 40), (200, 100, 50)))}
    weight, bias = matrix()
    wanted = 1 / (1 + np.exp(-(np.array([50, 100, 200]) @ weight + bias)))
    assert "general" not in found  # a rating
    for n, (name, _) in enumerate(TAGS[1:], 1):
        assert found[name] == pytest.approx(wanted[n], abs=1e-5), name


def test_characters_have_a_threshold_of_their_own(target, tmp_path):
    run(target, onnx(tmp_path), "overwrite", character_threshold=0.97)
    assert captions(target)["blue"] == "blue sky"


def test_timm_runs_the_same_files_as_timm_does(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm", reason="NOT CHECKED: WD taggers by timm need timm")
    import torch
    from safetensors.torch import load_file

    folder = timm_tagger(tmp_path / "vit")
    monkeypatch.setattr(wd, "ENGINES", ("timm",))
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    with WdTagger(folder).opened(lambda: False) as say:
        found = {tag.name: tag.score for tag in say(image)}
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(TAGS), **sizes).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    bgr = torch.tensor([50, 100, 200]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 127.5 - 1
    with torch.no_grad():
        wanted = torch.sigmoid(model(bgr))[0]
    for n, (name, _) in enumerate(TAGS[1:], 1):
        assert found[name] == pytest.approx(wanted[n].item(), abs=1e-5), name


@pytest.mark.parametrize(
    ("mode", "red", "green"),
    [
        ("overwrite", "new, red", "new, red"),
        ("append", "a wall, red, new", "new, red"),
        ("empty", "a wall, red", "new, red"),
    ],
)
def test_what_becomes_of_captions(target, mode, red, green):
    tags = [Tag("red", 0.8), Tag("new", 0.9), Tag("unsure", 0.1)]
    run(target, Fake(tags), mode)
    assert (captions(target)["red"], captions(target)["green"]) == (red, green)


@pytest.mark.parametrize(
    ("mode", "red"), [("overwrite", "a red wall"), ("append", "a wall, red, a red wall"), ("empty", "a wall, red")]
)
def test_sentences(target, mode, red):
    run(target, Fake("a red wall"), mode)
    assert captions(target)["red"] == red
    assert captions(target)["green"] == "a red wall"
    run(target, Fake("a red wall"), "append")
    assert captions(target)["green"] == "a red wall"


@pytest.mark.parametrize("said", [[], [Tag("unsure", 0.1)], " "])
def test_nothing_said_replaces_nothing(target, said):
    count, _ = run(target, Fake(said), "overwrite")
    assert count == 0
    assert captions(target)["red"] == "a wall, red"


def test_cancelling_keeps_what_was_said(target):
    fake, asked = Fake([Tag("new", 0.9)]), []

    def stop():
        asked.append(1)
        return len(asked) > 2

    count, _ = run(target, fake, "overwrite", stop)
    assert (count, fake.open) == (2, 0)
    target.undo()
    assert not target.unsaved


def test_what_was_said_before_a_failure_is_kept(target):
    fake, asked = Fake([]), []

    @contextmanager
    def opened(stop):
        def say(image):
            asked.append(image)
            if len(asked) == 3:
                raise RuntimeError("out of memory")
            return [Tag("new", 0.9)]

        yield say

    fake.opened = opened
    with pytest.raises(RuntimeError, match="out of memory"):
        run(target, fake, "overwrite")
    assert target.unsaved
    assert target.undo() == 2


def test_stopped_while_it_waited_for_its_turn(target):
    count, told = run(target, Fake(None), "overwrite")
    assert (count, told) == (0, [(0, 3)])
    assert not target.unsaved


def test_faces_keep_their_underscores(target):
    names = ["^_^", "(o)_(o)", "||_||", "<|>_<|>", "0_0", "long_hair", "no_1", "長_髪"]
    run(target, Fake([Tag(name, 0.9) for name in names]), "overwrite")
    assert captions(target)["red"] == "^_^, (o)_(o), ||_||, <|>_<|>, 0_0, long hair, no 1, 長_髪"


def test_a_package_that_is_missing_or_broken_is_named(target, tmp_path, monkeypatch):
    tagger = WdTagger(onnx_tagger(tmp_path / "taggers" / "mine"))
    monkeypatch.setattr(wd, "_engines", list)
    with pytest.raises(BadInput, match="pip install onnxruntime"):
        run(target, tagger, "overwrite")
    monkeypatch.setattr(wd, "_engines", lambda: ["onnxruntime"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    with pytest.raises(BadInput, match="onnxruntime is installed and cannot be used"):
        run(target, tagger, "overwrite")


def test_a_picture_that_cannot_be_read_is_passed_by(target):
    (target.root / "green.png").write_bytes((target.root / "green.png").read_bytes()[:60])
    count, _ = run(target, Fake([Tag("new", 0.9)]), "overwrite")
    assert count == 2
    assert captions(target)["green"] is None


def test_the_model_is_put_away_after_a_failure(target):
    fake = Fake([])

    def broken(image):
        raise RuntimeError("out of memory")

    @contextmanager
    def opened(stop):
        fake.open += 1
        try:
            yield broken
        finally:
            fake.open -= 1

    fake.opened = opened
    with pytest.raises(RuntimeError):
        run(target, fake, "overwrite")
    assert fake.open == 0
    assert not target.unsaved


def test_without_weights_nothing_is_fetched(target, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it asked the internet"))
    taggers = wd_taggers(tmp_path / "taggers")
    assert [t.name for t in taggers] == list(wd.KNOWN)
    for tagger in taggers:
        weights = tagger.weights()
        assert not weights.present
        assert weights.source.startswith("https://")
        assert weights.place == str(tmp_path / "taggers" / tagger.name)
        with pytest.raises(BadInput, match="not on disk"):
            run(target, tagger, "overwrite")
    assert not (tmp_path / "taggers").exists()


def test_own_taggers_are_found(tmp_path):
    onnx_tagger(tmp_path / "my tagger")
    found = wd_taggers(tmp_path)[-1]
    assert (found.name, found.weights().source) == ("my tagger", "")


@pytest.mark.parametrize("broken", ["model.onnx", "selected_tags.csv"])
def test_broken_files_are_named(target, tmp_path, broken):
    tagger = onnx(tmp_path)
    (tagger.folder / broken).write_bytes(b"<html>not found</html>")
    with pytest.raises(BadInput) as caught:
        run(target, tagger, "overwrite")
    assert caught.value.problems[0].field == "captioner"
    assert not target.unsaved


def test_a_list_of_other_tags(target, tmp_path):
    tagger = onnx(tmp_path)
    text = (tagger.folder / "selected_tags.csv").read_text()
    (tagger.folder / "selected_tags.csv").write_text(text + "9,more,0,1\n")
    with pytest.raises(BadInput, match="7"):
        run(target, tagger, "overwrite")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server that has the files of one tagger."""
    served = onnx_tagger(tmp_path / "served")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = served / self.path.rpartition("/")[2]
            if "/resolve/main/" not in self.path or not path.is_file():
                return self.send_error(404)
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return None

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_when_asked_for(site, tmp_path, monkeypatch):
    monkeypatch.setattr(wd, "_engines", lambda: ["onnxruntime"])
    tagger = wd_taggers(tmp_path / "taggers")[0]
    told = []
    tagger.fetch(lambda *p: told.append(p), lambda: False)
    assert tagger.weights().present
    assert (tagger.folder / "model.onnx").read_bytes() == (site / "model.onnx").read_bytes()
    assert sorted(p.name for p in tagger.folder.iterdir()) == ["model.onnx", "selected_tags.csv"]
    size = sum((site / name).stat().st_size for name in ("model.onnx", "selected_tags.csv"))
    assert told[-1] == (size, size)


def test_what_is_not_given_is_told_and_leaves_nothing(site, tmp_path, monkeypatch):
    monkeypatch.setattr(wd, "_engines", lambda: ["timm"])
    tagger = wd_taggers(tmp_path / "taggers")[0]
    with pytest.raises(BadInput, match="404"):
        tagger.fetch(lambda *_: None, lambda: False)
    assert not tagger.weights().present
    assert not list(tmp_path.rglob("*.part"))


def test_offline_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="no connection") as caught:
        wd_taggers(tmp_path)[0].fetch(lambda *_: None, lambda: False)
    assert "by hand" in caught.value.problems[0].fix


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_ext.captioner.fetching.PATIENCE", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/model.onnx"
        with pytest.raises(BadInput, match="no connection") as caught:
            fetch({address: tmp_path / "model.onnx"}, lambda *_: None, lambda: False, "By hand.")
        assert caught.value.problems[0].fix == "By hand."
        with pytest.raises(BadInput, match=r"model.onnx cannot be fetched"):
            reach(address, "By hand.")
    assert not list(tmp_path.iterdir())


def test_stopping_a_fetch(site, tmp_path):
    place = tmp_path / "got" / "model.onnx"
    import os

    address = f"{os.environ['HF_ENDPOINT']}/resolve/main/model.onnx"
    take = partial(fetch, {address: place}, lambda *_: None)
    assert take(lambda: True, "by hand") is False
    assert not list(place.parent.iterdir())
    assert take(lambda: False, "by hand") is True


@pytest.mark.parametrize(
    ("mode", "threshold", "field"),
    [("replace", 0.3, "mode"), ("empty", 0, "threshold"), ("empty", 2, "threshold"), ("empty", "x", "threshold")],
)
def test_wishes_that_cannot_be(mode, threshold, field):
    with pytest.raises(BadInput) as caught:
        Wish.read(None, mode, threshold, 0.8)
    assert caught.value.problems[0].field == field


def test_a_tag_list_is_needed(tmp_path):
    tag_list(tmp_path / "x")
    assert not WdTagger(tmp_path / "x").weights().present
