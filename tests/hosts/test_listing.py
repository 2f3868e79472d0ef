"""Looking at folders: what is found, what is known of it without reading it, and what is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from pathlib import Path

import pytest
import torch
from library_files import NASTY, RIGHT_TO_LEFT, TRAINED, notes, preview, put
from safetensors.torch import save_file

from lora_ext.errors import BadInput
from lora_ext.hosts import file_hashes
from lora_ext.hosts import glance as glances
from lora_ext.hosts import library as room
from lora_ext.hosts.card import Cards
from lora_ext.hosts.file_hashes import compute
from lora_ext.hosts.file_memory import FileMemory, Hashes
from lora_ext.hosts.glance import Facts, glance, header_metadata, survey
from lora_ext.hosts.library import Library
from lora_ext.hosts.listing import look
from lora_ext.hosts.training_facts import tag_counts


def insides(folder: Path) -> list[str]:
    return [file.inside for file in look([folder]).files]


def test_everything_below_is_found_in_order(tmp_path: Path) -> None:
    for name in ("b/x.safetensors", "a.PT", "b/c/y.ckpt", "readme.md", "._a.pt", "z.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    found = look([tmp_path])
    assert [file.inside for file in found.files] == ["a.PT", "b/c/y.ckpt", "b/x.safetensors"]
    assert found.subfolders == {str(tmp_path): ("b", "b/c")}
    assert set(found.beside[str(tmp_path)]) == {"z.json"}
    assert not found.problems


def test_links_are_followed_once(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    put(real / "cat.safetensors")
    folder = tmp_path / "loras"
    folder.mkdir()
    try:
        for link, target in (("linked", real), ("again", real), ("round", folder), ("nowhere", tmp_path / "gone")):
            os.symlink(target, folder / link)
    except OSError as e:
        pytest.skip(f"this system makes no links: {e}")
    assert insides(folder) == ["again/cat.safetensors"]
    (folder / "zz").mkdir()
    os.rename(real, folder / "zz" / "real")
    os.unlink(folder / "again")
    os.symlink(folder / "zz" / "real", folder / "again")
    assert insides(folder) == ["zz/real/cat.safetensors"], "the real path is the better name"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    put(tmp_path / "cat.safetensors")
    assert [file.inside for file in Library([tmp_path]).view.listing.files] == ["cat.safetensors"]


def test_an_unreadable_folder_is_told_and_hinders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "open" / "cat.safetensors")
    (tmp_path / "locked").mkdir()
    usual = os.scandir

    def refusing(place: str) -> object:  # root may read everything, so the refusal is made up
        if place.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return usual(place)

    monkeypatch.setattr(os, "scandir", refusing)
    found = look([tmp_path, tmp_path / "missing"])
    assert [file.inside for file in found.files] == ["open/cat.safetensors"]
    assert [Path(p.field).name for p in found.problems] == ["locked"] and "Permission" in str(found.problems[0])


@pytest.mark.parametrize("name", ["käthe", "猫", RIGHT_TO_LEFT, "a b.c", NASTY])
def test_names_of_every_kind(name: str, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows holds no such names")
    put(tmp_path / f"{name}.safetensors")
    assert Library([tmp_path]).find(name).stem == name


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.safetensors")
    try:
        os.rename(put(tmp_path / "x.safetensors"), raw)
    except OSError as e:
        pytest.skip(f"this system holds only names that are text: {e}")
    library = Library([tmp_path], FileMemory(tmp_path / "known.sqlite"))
    assert library.find("caf\ufffd").exists()
    assert Library([tmp_path], FileMemory(tmp_path / "known.sqlite")).find("caf\ufffd").exists()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_family_by_tensors_against_what_metadata_say(family: str, tmp_path: Path) -> None:
    says = "sd_v1" if family == "sdxl" else "sdxl_base_v1-0"
    path = put(tmp_path / "x.safetensors", family, ss_base_model_version=says)
    assert glance(str(path)).family == survey(str(path)).family == family


def test_family_by_metadata_and_what_cannot_be_told(tmp_path: Path) -> None:
    told = glance(str(put(tmp_path / "a.safetensors", ss_base_model_version="sdxl_base_v1-0")))
    assert told.family == "sdxl" and told.complete
    open_ = glance(str(put(tmp_path / "b.safetensors", comment="hello")))
    assert open_.family is None and open_.metadata and not open_.complete, "any metadata is no proof of SD 1.x"
    save_file(
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 3)}, tmp_path / "f.safetensors"
    )
    assert glance(str(tmp_path / "f.safetensors")).foreign == "Flux"


def test_metadata_wherever_they_stand_in_the_header(tmp_path: Path) -> None:
    said = {"ss_output_name": 'a"},"b', "n": "1"}
    for number, header in enumerate((
        {"__metadata__": said, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": said},
        {"__metadata__": said},
    )):  # fmt: skip
        for separators in ((",", ":"), (", ", ": ")):
            raw = json.dumps(header, separators=separators).encode()
            path = tmp_path / f"{number}.safetensors"
            path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0" * 4)
            assert header_metadata(str(path)) == said


@pytest.mark.parametrize(
    "raw",
    [b"", b"\1", b"<html>not found</html>", b"\xff" * 8, (1 << 40).to_bytes(8, "little"),
     (9).to_bytes(8, "little") + b"{",
     (2).to_bytes(8, "little") + b"[]", (40).to_bytes(8, "little") + b'{"__metadata__":' + b"[" * 24,
     (20).to_bytes(8, "little") + b'{"__metadata__":[1]}'],
)  # fmt: skip
def test_damage_is_a_fact_and_no_exception(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(raw)
    put(tmp_path / "good.safetensors")
    library = Library([tmp_path])
    assert len(library.view.listing.files) == 2 and library.find("x").exists()
    glance(str(tmp_path / "x.safetensors"))
    assert raw[-3:] == b"1]}" or glance(str(tmp_path / "x.safetensors")).damage


def test_what_is_known_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loras, kept = tmp_path / "loras", tmp_path / "cache" / "known.sqlite"
    for n in range(200):
        put(loras / f"{n}.safetensors", ss_output_name=f"alias {n}", ss_base_model_version="sd_v1")
    assert Library([loras], FileMemory(kept)).find("alias 7") == loras / "7.safetensors"
    read: list[str] = []
    monkeypatch.setattr(room, "glance", lambda path: read.append(path) or glance(path))
    library = Library([loras], FileMemory(kept))
    assert library.find("alias 7") == loras / "7.safetensors" and not read
    put(loras / "7.safetensors", ss_output_name="another")
    library.refresh()
    assert read == [str(loras / "7.safetensors")]
    assert library.find("another") == loras / "7.safetensors"
    with pytest.raises(BadInput):
        library.find("alias 7")


def test_an_alias_that_changed_since_the_last_look(tmp_path: Path) -> None:
    path = put(tmp_path / "cat.safetensors", ss_output_name="mio")
    library = Library([tmp_path])
    assert library.find("mio") == path
    put(path, ss_output_name="a longer name than before")
    with pytest.raises(BadInput):
        library.find("mio")
    assert library.find("a longer name than before") == path


@pytest.mark.parametrize("content", [b"no database at all, certainly not", b""])
def test_a_damaged_memory_is_begun_anew(content: bytes, tmp_path: Path) -> None:
    put(tmp_path / "cat.safetensors")
    place = tmp_path / "known.sqlite"
    place.write_bytes(content)
    assert Library([tmp_path], FileMemory(place)).find("cat")
    with sqlite3.connect(place) as base:
        assert base.execute("SELECT count(*) FROM files").fetchone() == (1,)


def test_a_memory_that_cannot_be_written_hinders_nothing(tmp_path: Path) -> None:
    put(tmp_path / "cat.safetensors")
    (tmp_path / "file").write_bytes(b"")
    assert Library([tmp_path], FileMemory(tmp_path / "file" / "known.sqlite")).find("cat")


def test_files_that_went_are_forgotten_in_the_end(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "known.sqlite")
    listed = look([put(tmp_path / "cat.safetensors").parent]).files[0]
    memory.keep_facts((listed._replace(path=f"/gone/{n}"), Facts()) for n in range(1100))
    memory.forget_all_but({listed.path})
    assert FileMemory(tmp_path / "known.sqlite").facts("/gone/5", listed.stamp) is None


def test_hashes_are_found_out_in_the_background_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "plain.safetensors")
    put(tmp_path / "told.safetensors", sshs_model_hash="ab" * 32)
    place = tmp_path / "known.sqlite"
    library = Library([tmp_path], FileMemory(place), hashing=lambda: True)
    files = {file.inside: file for file in library.view.listing.files}
    assert library.surveyor.wait(20)
    raw = path.read_bytes()
    data = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    known = library.memory.hashes(str(path), files["plain.safetensors"].stamp)
    assert known == Hashes(hashlib.sha256(raw).hexdigest(), data)
    assert [file.inside for file in library.by_hash(data[:12])] == ["plain.safetensors"]
    assert [file.inside for file in library.by_hash("ab" * 6)] == ["told.safetensors"]
    assert library.by_hash("ab") == []
    monkeypatch.setattr(file_hashes, "compute", lambda *args: pytest.fail("a known hash was computed again"))
    assert Library([tmp_path], FileMemory(place)).hash("plain") == data


def test_families_are_found_out_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "x.safetensors", "sdxl")
    monkeypatch.setattr(room, "glance", lambda path: Facts(complete=False))
    library = Library([tmp_path])
    file = library.view.listing.files[0]
    assert library.surveyor.wait(20) and library.facts(file).family == "sdxl"


def test_nothing_is_read_while_the_host_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "PATIENCE", 0.01)
    put(tmp_path / "x.safetensors")
    busy = [True]
    library = Library([tmp_path], busy=lambda: busy[0], hashing=lambda: True)
    file = library.view.listing.files[0]
    assert not library.surveyor.wait(0.3) and library.memory.hashes(file.path, file.stamp) is None
    busy[0] = False
    assert library.surveyor.wait(20) and library.memory.hashes(file.path, file.stamp)


def test_hash_of_a_file_that_lies_about_its_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"abc")
    found = compute(path)
    assert found is not None and found.data == hashlib.sha256(b"abc").hexdigest()


def test_a_thousand_files_in_good_time(tmp_path: Path) -> None:
    """A loose bound for any machine; `benchmarks/listing.py` measures."""
    one = put(tmp_path / "0.safetensors", "sd1").read_bytes()
    for n in range(1000):
        (tmp_path / f"{n}.safetensors").write_bytes(one)
    library = Library([tmp_path])
    start = time.process_time()
    library.refresh()
    cold = time.process_time() - start
    library.refresh()
    assert len(library.view.listing.files) == 1000
    assert time.process_time() - start < 10 and cold < 8


@pytest.mark.parametrize("first", [16, 200, 700, 1000, 1200, 1 << 15])
def test_the_first_piece_of_a_file_tells_the_same_or_nothing(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the piece ends: in the metadata, between them and the telling tensor, in the middle of that."""
    paths = [put(tmp_path / f"{family}.safetensors", family, **TRAINED) for family in ("sd1", "sdxl", "")]
    paths.append(put(tmp_path / "bare.safetensors", "sd1"))
    paths.append(tmp_path / "cut.safetensors")
    paths[-1].write_bytes(paths[0].read_bytes()[:900])
    monkeypatch.setattr(glances, "FIRST", 0)
    whole = [glance(str(path)) for path in paths]
    assert [facts.family for facts in whole[:2]] == ["sd1", "sdxl"] and whole[0].tags and whole[-1].damage
    monkeypatch.setattr(glances, "FIRST", first)
    assert [glance(str(path)) for path in paths] == whole
    early = [glances._from_the_start(str(path)) for path in paths]
    assert all(facts in (None, same) for facts, same in zip(early, whole, strict=True))
    assert [facts is not None for facts in early] == [first > 2000] * 2 + [False] * 3 or 200 < first < 2000


def test_no_more_is_read_of_a_file_than_tells_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {f"lora_unet_up_blocks_3_layer_{n}.lora_up.weight": torch.zeros(1) for n in range(2000)}
    save_file({"a_attn2_to_k.lora_down.weight": torch.zeros(2, 768), **layers}, tmp_path / "x.safetensors", TRAINED)
    assert header_bytes(tmp_path / "x.safetensors") > 4 * glances.FIRST
    monkeypatch.setattr(glances, "_header", lambda path: pytest.fail("the whole header was read"))
    assert glance(str(tmp_path / "x.safetensors")).family == "sd1"


def header_bytes(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], "little")


def test_a_second_look_at_the_same_makes_nothing_anew(tmp_path: Path) -> None:
    cat, kept = put(tmp_path / "cat.safetensors", "sd1"), Cards(Library([tmp_path], FileMemory()))
    library = kept.library
    view, cards = library.view, kept.all()
    library.refresh()
    assert library.view is view and kept.all() is cards
    for change in (lambda: notes(cat, **{"preferred weight": 0.5}), lambda: put(tmp_path / "dog.safetensors"),
                   lambda: preview(cat, "red"), cat.unlink):  # fmt: skip
        change()
        library.refresh()
        assert library.view is not view and kept.all() != cards
        view, cards = library.view, kept.all()


@pytest.mark.parametrize(
    ("tags", "counts"),
    [
        ({"b": 1, "a": 3, "c": 1}, [("a", 3), ("b", 1), ("c", 1)]),
        ({" a": 1, "a ": 2, "b": 2}, [("a", 3), ("b", 2)]),
        ({"a\t": 1, "\u3000a": 2}, [("a", 3)]),
        ({"a": "2", "b": 2.9, "c": True, "d": None}, [("a", 2), ("b", 2)]),
        ({"": 5, " ": 4, "a": 0, "b": -1}, []),
        ({"a| b": 1, "|": 2}, [("|", 2), ("a| b", 1)]),
        ({}, []),
    ],
)
def test_tags_are_counted_the_quick_way_and_the_slow_one_alike(
    tags: dict[str, object], counts: list[tuple[str, int]]
) -> None:
    one, two = ({"ss_tag_frequency": json.dumps(folders)} for folders in ({"1_x": tags}, {"1_x": tags, "2_y": {}}))
    assert tag_counts(one) == tag_counts(two) == counts
    assert tag_counts(one, 1) == counts[:1]


def test_no_tensor_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "x.safetensors", "sd1")
    monkeypatch.setattr(glances, "read_info", lambda path: pytest.fail("the whole list of tensors was read"))
    assert Library([tmp_path]).find("x")
