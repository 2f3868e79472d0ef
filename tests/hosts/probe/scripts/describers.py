"""Part of the tests' probe: the WebUI's describers of pictures, narrow and of random weights, in files it reads itself.

Their real sizes take minutes to make on a crowded processor. What is narrowed are numbers of channels and layers; the
classes, the files' formats and every call on the way are the WebUI's own.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from fastapi import FastAPI
from modules import deepbooru, deepbooru_model, paths, script_callbacks, shared

NARROW = 16
"""So many times fewer channels; the picture's three and the tags stay."""
TAGS = 9176
FILTERED = "filtered_tag"
"""What the test has the WebUI leave out."""
MED = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30524,
    "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 1.0, "pad_token_id": 0,
    "add_type_embeddings": False, "add_cross_attention": True, "encoder_width": 32,
}  # fmt: skip
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
SPOKEN = {1037: "a", 3861: "picture", 1997: "of"}
"""Numbers of words in bert-base-uncased."""


def narrow(place: str) -> dict[str, bool]:
    """From now on the WebUI makes small ones; `place` gets BLIP's settings."""
    usual = torch.nn.Conv2d

    def channels(n: int) -> int:
        return n if n in (3, TAGS) else n // NARROW

    class Narrow:
        """Of torch.nn, as DeepBooru's file uses it."""

        def __getattr__(self, name: str) -> object:
            return getattr(torch.nn, name)

        def Conv2d(self, in_channels: int, out_channels: int, **more: object) -> torch.nn.Conv2d:
            return usual(channels(in_channels), channels(out_channels), **more)

    deepbooru_model.nn = Narrow()
    shared.interrogator.create_fake_fairscale()
    import models.blip
    from models.vit import VisionTransformer

    models.blip.create_vit = lambda vit, size, *_: (VisionTransformer(size, 64, embed_dim=32, depth=1, num_heads=2), 32)
    paths.paths["BLIP"] = place
    configs = Path(place) / "configs"
    configs.mkdir(parents=True)
    (configs / "med_config.json").write_text(json.dumps(MED))
    return {"narrow": deepbooru_model.DeepDanbooruModel is not None}


def write() -> dict[str, str]:
    """Files where the WebUI looks for them, and BLIP's words in the cache of Hugging Face."""
    torch.manual_seed(0)
    places = Path(paths.models_path) / "torch_deepdanbooru", Path(paths.models_path) / "BLIP"
    for place in places:
        place.mkdir(exist_ok=True)
    torch.save(booru(), places[0] / "random.pt")
    speak()
    import models.blip

    config = Path(paths.paths["BLIP"]) / "configs" / "med_config.json"
    model = models.blip.blip_decoder(image_size=384, vit="base", med_config=str(config))
    torch.save({"model": model.state_dict()}, places[1] / "random.pth")
    return {"there": str(places)}


def booru() -> dict[str, object]:
    """Tags `tag_0` and so on, one that is filtered out, and a rating; scores that differ from picture to picture."""
    model = deepbooru_model.DeepDanbooruModel()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            last = module
            torch.nn.init.normal_(module.weight, std=0.8 * module.weight[0].numel() ** -0.5)
    with torch.no_grad():
        last.weight[-2:] = 1.0  # sure enough of those two
    names = [f"tag_{n}" for n in range(TAGS - 2)] + [FILTERED, "rating:safe"]
    return {**model.state_dict(), "tags": names}


def speak() -> None:
    """A vocabulary of made-up words where the tokenizer is looked for."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE) / "models--bert-base-uncased"
    (place / "snapshots" / "0").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0")
    words = {n: f"word{n}" for n in range(30522)} | SPECIAL | SPOKEN
    (place / "snapshots" / "0" / "vocab.txt").write_text("\n".join(words.values()))


def small_clip(folder: str) -> dict[str, bool]:
    """Interrogate CLIP without a CLIP of a gigabyte: BLIP's sentence, and no styles behind it."""
    clip = torch.nn.Linear(1, 1)
    clip.encode_image = lambda image: image
    host = shared.interrogator
    host.clip_model, host.clip_preprocess, host.content_dir = clip, lambda image: torch.ones(1), folder
    return {"blip": host.blip_model is not None}


def kept() -> dict[str, object]:
    """What the WebUI holds of its describers."""
    host = shared.interrogator
    return {"dtype": str(host.dtype), "blip": host.blip_model is not None,
            "deepbooru": deepbooru.model.model is not None, "job": shared.state.job}  # fmt: skip


def routes(_, app: FastAPI) -> None:
    app.add_api_route("/probe/describers/narrow", narrow, methods=["POST"])
    app.add_api_route("/probe/describers/write", write, methods=["POST"])
    app.add_api_route("/probe/describers/small-clip", small_clip, methods=["POST"])
    app.add_api_route("/probe/describers", kept, methods=["GET"])


script_callbacks.on_app_started(routes)
