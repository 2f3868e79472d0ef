"""Our tokenizer gives the ids that the models were trained on: transformers' and open_clip's."""

from __future__ import annotations

import sys
import unicodedata

import full_size
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from lora_ext.model import Tokenizer, detect, tokenizer, vocabulary

CAPTIONS = [
    "",
    "a photo of a cat",
    "A Photo of a CAT, sitting; (masterpiece:1.2), [detailed] -- 8k!!! #1 @home",
    "it's they're we've I'm you'll he'd don't 'quoted' s't",
    "1girl, 12345 3.14 2²  x½",
    "über façade naïve Ångström straße ÉCOLE",
    "кот и собака, 猫と犬 고양이 مرحبا עברית ไทย",
    "emoji 😀👍🏽 ❤️ 🇩🇪 and symbols ™®© €£ §",
    "tabs\tand\nnewlines   and    spaces ",
    "under_score snake_case_1 a-b a/b\\c <lora:x:0.7> {a|b}",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "word " * 100,
    "!" * 50,
]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    vocabulary.write_files(folder)
    return CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("caption", CAPTIONS)
def test_like_transformers(hugging_face, caption):
    """The slow tokenizer of transformers 4 splits punctuation its own way unless ftfy is there, as it is in hosts."""
    if "ftfy" not in sys.modules and hasattr(hugging_face, "fix_text"):
        pytest.skip("NOT TESTED: transformers 4 needs ftfy to split as CLIP does")
    assert Tokenizer().ids(caption) == hugging_face(caption, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("caption", [*CAPTIONS, "&amp; &lt;b&gt;", "“curly” ‘quotes’", "ﬁne ｆｕｌｌ"])
def test_like_open_clip(caption):
    open_clip = pytest.importorskip(
        "open_clip",
        reason="NOT TESTED against open_clip here: it needs a torchvision built for this torch",
        exc_type=ImportError,
    )
    arch = detect(full_size.tensors("sd2"))
    assert Tokenizer().tokens([caption], arch)[0].tolist() == open_clip.tokenize([caption]).tolist()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="&<>|"), max_size=40))
def test_any_text_like_transformers(text):
    peer = _peer()
    if "ftfy" not in sys.modules and hasattr(peer, "fix_text"):
        pytest.skip("NOT TESTED: transformers 4 needs ftfy to split as CLIP does")
    repaired = tokenizer._repair(text)
    # letters that Unicode got after this Python was made count as signs here and as letters in newer libraries
    assume(all(unicodedata.category(c) != "Cn" for c in repaired))
    assert Tokenizer().ids(text) == peer(repaired, add_special_tokens=False)["input_ids"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_ids_in_range(text):
    ids = Tokenizer().ids(text)
    assert all(0 <= i < 49406 for i in ids)
    assert Tokenizer().count(text) == len(ids)


def test_padding_cutting_and_one_row_per_encoder():
    arch = detect(full_size.tensors("sdxl"))
    first, second = Tokenizer().tokens(["a cat", "word " * 100], arch)
    assert first.shape == second.shape == (2, 77)
    assert first[0].tolist() == [49406, 320, 2368] + [49407] * 74
    assert second[0].tolist() == [49406, 320, 2368, 49407] + [0] * 73
    assert first[1].tolist() == second[1].tolist()
    assert first[1, -1] == 49407 and set(first[1, 1:-1].tolist()) == {2653}
    assert Tokenizer().count("word " * 100) == 100
    assert Tokenizer().tokens([], arch)[0].shape == (0, 77)


def test_without_ftfy_quotes_are_straightened(monkeypatch):
    monkeypatch.setattr(tokenizer, "_repair", tokenizer._by_hand)
    assert Tokenizer().ids("it’s “so” e\u0301te\u0301") == Tokenizer().ids('it\'s "so" été')


def test_the_vocabulary_is_clips():
    assert len(vocabulary.ids()) == vocabulary.SIZE == 49408
    assert vocabulary.ids()[vocabulary.START], vocabulary.ids()[vocabulary.END] == (49406, 49407)
    assert vocabulary.ids()["cat</w>"] == 2368


_found: list[CLIPTokenizer] = []


def _peer() -> CLIPTokenizer:
    if not _found:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            vocabulary.write_files(Path(folder))
            _found.append(CLIPTokenizer.from_pretrained(folder))
    return _found[0]
