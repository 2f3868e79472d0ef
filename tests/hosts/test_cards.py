"""Cards: what stands on them, which are hidden, and that nobody's text becomes markup."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from library_files import NASTY, RIGHT_TO_LEFT, SCRIPT, TRAINED, fill, notes, preview, put

from lora_ext.hosts import sidecar
from lora_ext.hosts.card import Card, Cards, notes_place
from lora_ext.hosts.card_html import Look, card_html, clean, folders_html, foot_html, placeholder_html, tree_html
from lora_ext.hosts.card_info import card_info, changed_notes
from lora_ext.hosts.file_memory import FileMemory
from lora_ext.hosts.library import Library
from lora_ext.hosts.pasted import read_hashes, restore_tags


def cards_of(folder: Path) -> Cards:
    return Cards(Library([folder]))


def one(folder: Path) -> Card:
    found = cards_of(folder).all()
    assert len(found) == 1
    return found[0]


class Markup(HTMLParser):
    """Tags and attributes as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_a_card_says(tmp_path: Path) -> None:
    fill(tmp_path)
    found = {card.file.inside: card for card in cards_of(tmp_path).all()}
    cat = found["animals/cat.safetensors"]
    assert (cat.name, cat.tag, cat.version) == ("animals/cat", "mio", "Unknown")
    assert cat.note.activation == "mio cat" and cat.note.weight == 0.8 and cat.description == "A cat in a red hat."
    assert cat.preview is not None and cat.preview[0].endswith("cat.preview.png")
    assert found["old/cat.safetensors"].name == "old/cat" and found["animals/dog.safetensors"].tag == "dog"
    assert found["styles/ink.safetensors"].version == "SD1" and found["styles/wide.safetensors"].version == "SDXL"
    assert found["broken.safetensors"].facts.damage and len(found) == 9


def test_every_tag_means_its_own_file(tmp_path: Path) -> None:
    fill(tmp_path)
    put(tmp_path / "dog.safetensors", ss_output_name="ink")  # an alias that is another file's name
    put(tmp_path / "p.safetensors", ss_output_name="same")
    put(tmp_path / "q.safetensors", ss_output_name="same")
    put(tmp_path / "r.safetensors", ss_output_name="a:b>c")
    library = Library([tmp_path])
    for aliases in (True, False):
        for card in Cards(library).all(aliases=aliases):
            assert library.find(card.tag) == Path(card.file.path), card.tag
            assert library.find(card.name) == Path(card.file.path)
            assert aliases or "mio" not in card.tag


def test_the_users_word_on_the_model_counts(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors", "sd1")
    notes(path, **{"sd version": "SDXL"})
    assert one(tmp_path).version == "SDXL"


@pytest.mark.parametrize(
    ("family", "loaded", "hide_unknown", "fits"),
    [("sd1", "sd1", True, True), ("sd1", "sdxl", False, False), ("", "sdxl", False, True), ("", "sd1", True, False),
     ("sdxl", None, True, True)],
)  # fmt: skip
def test_what_cannot_be_told_is_not_hidden(
    family: str, loaded: str | None, hide_unknown: bool, fits: bool, tmp_path: Path
) -> None:
    put(tmp_path / "x.safetensors", family, comment="any metadata")
    assert one(tmp_path).fits(loaded, hide_unknown) is fits  # type: ignore[arg-type]


def test_the_picture_chosen_last_is_shown(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors")
    old = preview(path, "red")
    os.utime(old, ns=(0, 10**18))
    new = path.with_suffix(".png")
    new.write_bytes(old.read_bytes())
    card = one(tmp_path)
    assert card.preview is not None and card.preview[0] == str(new)
    assert f"mtime={new.stat().st_mtime_ns}" in card_html(card, 0, Look())


def test_description_from_a_text_file_as_the_host_has_it(tmp_path: Path) -> None:
    path = put(tmp_path / "x.safetensors")
    path.with_suffix(".txt").write_bytes(b"caf\xe9")
    assert one(tmp_path).description == "caf\ufffd"
    notes(path, description="")
    assert one(tmp_path).description == ""


def test_strangers_texts_are_no_markup(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows holds no such names")
    fill(tmp_path)
    cards = cards_of(tmp_path)
    shown = cards.all()
    listing = cards.library.view.listing
    (tmp_path / SCRIPT.replace("/", "")).mkdir()
    page = "".join(card_html(card, n, Look()) for n, card in enumerate(shown))
    page += tree_html(listing.subfolders, shown, [str(tmp_path)]) + folders_html([SCRIPT, NASTY], "txt2img")
    page += foot_html("key", {SCRIPT: 2}, [SCRIPT], 3)
    markup = Markup(page)
    assert {tag for tag, _ in markup.tags} <= {"div", "span", "img", "ul", "li", "i", "button", "p"}
    handlers = [attrs[name] for _, attrs in markup.tags for name in attrs if name.startswith("on")]
    assert set(handlers) == {"extraNetworksSearchButton('txt2img', 'lora', event)"}
    assert all(attrs["src"].startswith("./sd_extra_networks/") for tag, attrs in markup.tags if tag == "img")
    names = [attrs["data-name"] for _, attrs in markup.tags if "data-name" in attrs]
    assert NASTY in names and SCRIPT in markup.text and any(RIGHT_TO_LEFT in name for name in names)


def test_html_in_descriptions_is_the_users_choice(tmp_path: Path) -> None:
    notes(put(tmp_path / "x.safetensors"), description="<b>bold</b>")
    assert "&lt;b&gt;" in card_html(one(tmp_path), 0, Look())
    assert "<b>bold</b>" in card_html(one(tmp_path), 0, Look(descriptions_are_html=True))
    assert "bold" not in card_html(one(tmp_path), 0, Look(descriptions=False))


def test_found_by_words_tags_and_folders(tmp_path: Path) -> None:
    fill(tmp_path)
    card = next(card for card in cards_of(tmp_path).all() if card.name == "animals/cat")
    terms = re.search("search_terms[^>]*>([^<]*)<", card_html(card, 0, Look()))
    for wanted in ("mio cat", "sitting", os.path.join(tmp_path.name, "animals", "cat"), "Unknown"):
        assert terms and clean(wanted) in terms[1]


def test_a_tree_shows_every_card_once_and_no_empty_folder(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    put(tmp_path / "a" / "b" / "c" / "deep.safetensors")
    cards = cards_of(tmp_path)
    listing = cards.library.view.listing
    markup = Markup(tree_html(listing.subfolders, cards.all(), [str(tmp_path)]))
    leaves = [attrs["data-name"] for _, attrs in markup.tags if "lora-ext-leaf" in (attrs.get("class") or "")]
    assert sorted(leaves) == sorted(card.name for card in cards.all())
    places = {attrs["data-path"] for _, attrs in markup.tags if "data-path" in attrs}
    top = tmp_path.name
    assert places == {
        top,
        *(os.path.join(top, *f.split("/")) for f in ("animals", "old", "styles", "a", "a/b", "a/b/c")),
    }


def test_a_large_tree_shows_folders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.setattr("lora_ext.hosts.card_html.LEAVES", 3)
    cards = cards_of(tmp_path)
    markup = Markup(tree_html(cards.library.view.listing.subfolders, cards.all(), [str(tmp_path)]))
    assert not [attrs for _, attrs in markup.tags if "lora-ext-leaf" in (attrs.get("class") or "")]
    assert {attrs["data-path"] for _, attrs in markup.tags if "data-path" in attrs} >= {
        os.path.join(tmp_path.name, "old")
    }


def test_a_placeholder_is_found_sorted_and_clicked_like_its_card(tmp_path: Path) -> None:
    fill(tmp_path)
    for number, card in enumerate(cards_of(tmp_path).all()):
        whole, later = (Markup(make(card, number, Look())) for make in (card_html, placeholder_html))
        assert {k: v for k, v in later.tags[0][1].items() if k != "class"} == {
            k: v for k, v in whole.tags[0][1].items() if k != "class"
        }
        assert not {"img", "script", "a"} & {tag for tag, _ in later.tags}
        terms = (card.place, card.facts.alias, card.note.activation, *card.facts.tags, card.description[:50])
        assert all(term in later.text for term in terms)
    assert len(placeholder_html(card, 0, Look())) < len(card_html(card, 0, Look()))


def test_all_that_is_known(tmp_path: Path) -> None:
    fill(tmp_path)
    cards = cards_of(tmp_path)
    card = cards.named("animals/cat")
    assert card is not None
    info = card_info(card, cards.library.memory)
    training = dict(info["training"])
    assert training["Kind"] == "LoRA (kohya)" and training["Rank"] == "2, alpha 2"
    assert training["Length"] == "1200 steps, 10 epochs" and training["Optimizer"] == "AdamW8bit (weight_decay=0.1)"
    assert training["Pictures"] == "12, each 10 times per epoch" and training["Trained"] == "2023-11-14"
    assert info["tags"][:2] == [("mio cat", 120), ("sitting", 40)] and info["triggers"] == ["mio cat"]
    facts = dict(info["facts"])
    assert facts["Layers"] == "1 (LoRA)" and facts["Ranks"] == "2" and facts["Made for"] == "unknown"
    broken = cards.named("broken")
    assert broken is not None and card_info(broken, FileMemory())["damage"]


def test_editing_changes_what_was_changed(tmp_path: Path) -> None:
    fill(tmp_path)
    cards = cards_of(tmp_path)
    card = cards.named("animals/cat")
    assert card is not None
    before = sidecar.read(notes_place(card))
    assert changed_notes(card, {"activation": "mio cat", "weight": 0.8, "unheard": 1}) == {}
    changes = changed_notes(card, {"activation": "mio", "weight": 1.1})
    assert changes == {"activation text": "mio", "preferred weight": 1.1}
    sidecar.write(notes_place(card), changes)
    assert sidecar.read(notes_place(card)) == {**before, **changes}
    cards.library.refresh()
    fresh = cards.named("animals/cat")
    assert fresh is not None and fresh.note.activation == "mio"


def test_damaged_notes_are_told_and_hinder_nothing(tmp_path: Path) -> None:
    put(tmp_path / "x.safetensors").with_suffix(".json").write_text("{")
    cards = cards_of(tmp_path)
    assert cards.all()[0].note.activation == "" and "no valid JSON" in str(next(cards.sidecars.problems()))


def test_pasted_tags_find_files_by_hash(tmp_path: Path) -> None:
    put(tmp_path / "new name.safetensors", seed=1, sshs_model_hash="ab" * 32)
    put(tmp_path / "same.safetensors", seed=2, sshs_model_hash="cd" * 32)
    put(tmp_path / "other.safetensors", seed=3, sshs_model_hash="ef" * 32)
    library = Library([tmp_path])
    hashes = "old name: abababababab, same: cdcdcdcdcdcd, other: cdcdcdcdcdcd, ab: efefefefefef, gone: 012345678901"
    prompt = "<lora:old name:0.7> <lyco:same:1:0.5> <lora:other:1> <lora:a:b:0.3> <lora:gone:1> <lora:new:1> <b:c>"
    given: dict[str, object] = {"Prompt": prompt, "Hires prompt": "<lora:old name:1>", "Lora hashes": hashes}
    restore_tags(library, given, aliases=True)
    assert given["Prompt"] == (
        "<lora:new name:0.7> <lyco:same:1:0.5> <lora:same:1> <lora:other:0.3> <lora:gone:1> <lora:new:1> <b:c>"
    )
    assert given["Hires prompt"] == "<lora:new name:1>"


def test_hashes_that_are_none() -> None:
    assert read_hashes('"a: 0123456789ab, b, c: <b>, : 1"') == {"a": "0123456789ab"}
    given: dict[str, object] = {"Prompt": "<lora:x:1>", "Lora hashes": None}
    restore_tags(Library([]), given, aliases=True)
    assert given["Prompt"] == "<lora:x:1>"


def test_broken_training_facts_are_left_out(tmp_path: Path) -> None:
    broken = {key: "{[<b>" for key in TRAINED} | {"ss_tag_frequency": '{"a": {"x": "many", "y": 2}, "b": [1]}'}
    put(tmp_path / "x.safetensors", **broken, ss_bucket_info='{"buckets": {"0": {"resolution": "big"}}}')
    info = card_info(one(tmp_path), FileMemory())
    assert info["tags"] == [("y", 2)] and "Rank" not in dict(info["training"])
