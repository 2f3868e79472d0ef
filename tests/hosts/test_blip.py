"""BLIP through transformers, from tiny random files of the real kind."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from lora_ext.errors import BadInput
from lora_ext.hosts.blip import Blip

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "cat", "dog", "red", "sofa"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("blip")
    (place / "vocab.txt").write_text("\n".join(WORDS))
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 32,
            "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 80,
            "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.save_pretrained(str(place), safe_serialization=True)
    processor = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(processor, BertTokenizer(str(place / "vocab.txt"))).save_pretrained(str(place))
    return place


def test_it_says_what_transformers_says(folder):
    blip = Blip(folder)
    if not (folder / "preprocessor_config.json").is_file():  # newer ones write it into processor_config.json
        (folder / "preprocessor_config.json").write_text((folder / "processor_config.json").read_text())
    assert blip.weights().present
    image = Image.new("RGB", (48, 40), (200, 30, 30))
    with blip.opened(lambda: False) as say:
        said = say(image)
    processor = BlipProcessor.from_pretrained(str(folder), local_files_only=True)
    model = BlipForConditionalGeneration.from_pretrained(str(folder), local_files_only=True).eval()
    with torch.no_grad():
        tokens = model.generate(**processor(images=image, return_tensors="pt"), max_new_tokens=60)
    assert said == processor.decode(tokens[0], skip_special_tokens=True).strip()
    assert said
    assert set(said.split()) <= set(WORDS)


def test_nothing_is_there_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it asked the internet"))
    blip = Blip(tmp_path / "none")
    weights = blip.weights()
    assert not weights.present
    assert (weights.place, weights.source[:8]) == (str(tmp_path / "none"), "https://")
    with pytest.raises(BadInput) as caught, blip.opened(lambda: False):
        pass
    assert caught.value.problems[0].field == "captioner"
    assert not (tmp_path / "none").exists()


def test_offline_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(BadInput, match="no connection"):
        Blip(tmp_path / "blip").fetch(lambda *_: None, lambda: False)
