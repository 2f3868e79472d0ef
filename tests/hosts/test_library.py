"""Names to files, files to networks."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import tensors
from safetensors.torch import save_file

from lora_ext.errors import BadInput
from lora_ext.formats import NameTable
from lora_ext.hosts import network_cache
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import WantedLora, parse
from lora_ext.model import detect, layer_table
from lora_ext.patching import Strengths

KEY = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture(scope="module")
def names() -> NameTable:
    return NameTable(layer_table(detect(tensors("sd1"))))


def put(path: Path, seed: int = 0, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, 64, 1, 1, generator=g), torch.randn(64, 2, 1, 1, generator=g)
    made = {f"{KEY}.lora_down.weight": down, f"{KEY}.lora_up.weight": up, f"{KEY}.alpha": torch.tensor(2.0)}
    save_file(made, path, metadata or None)
    return path


def wanted(*tags: tuple[str, float]) -> list[WantedLora]:
    return [WantedLora(name, Strengths(s, s)) for name, s in tags]


def test_found_by_every_name(tmp_path: Path) -> None:
    path = put(tmp_path / "animals" / "big cat.v1.safetensors", ss_output_name="mio")
    library = Library([tmp_path])
    for name in ("big cat.v1", "animals/big cat.v1", "animals\\big cat.v1", "animals/big cat.v1.safetensors", "mio"):
        assert library.find(name) == path
    assert library.find(path.as_posix()) == path


def test_accents_typed_another_way(tmp_path: Path) -> None:
    path = put(tmp_path / (unicodedata.normalize("NFD", "käthe") + ".safetensors"))
    assert Library([tmp_path]).find(unicodedata.normalize("NFC", "käthe")) == path


def test_a_folder_deeper_is_less_exact(tmp_path: Path) -> None:
    top, _ = put(tmp_path / "cat.safetensors"), put(tmp_path / "old" / "cat.safetensors")
    assert Library([tmp_path]).find("cat") == top


def test_ambiguous_names_tell_how_to_say_it(tmp_path: Path) -> None:
    one, _ = put(tmp_path / "a" / "cat.safetensors"), put(tmp_path / "b" / "cat.safetensors")
    library = Library([tmp_path])
    with pytest.raises(BadInput, match="Write one of: a/cat, b/cat"):
        library.find("cat")
    assert library.find("a/cat") == one


def test_one_name_in_two_folders(tmp_path: Path) -> None:
    put(tmp_path / "a" / "cat.safetensors")
    other = put(tmp_path / "b" / "cat.safetensors")
    library = Library([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(BadInput, match="more than one") as told:
        library.find("cat")
    assert other.as_posix() in str(told.value) and library.find(other.as_posix()) == other


@pytest.mark.parametrize(
    "stem", ["a>b", "<a", "a:b", "a, b", 'it\'s "so"', " a ", "a\nb", "a%3Eb", "(a:1.2)", "[a|b]", "a\\b", "$&"]
)
def test_any_file_can_be_asked_for_by_its_card(stem: str, tmp_path: Path) -> None:
    """By what a click puts into the prompt, and by that alone."""
    paths = [tmp_path / f"{name}.safetensors" for name in (stem, "a", "b", "a b")]
    for path in paths:
        put(path)
    library = Library([tmp_path])
    file = next(file for file in library.view.listing.files if file.path == str(paths[0]))
    found = parse(f"x <lora:{library.view.index.tag_name(file, '')}:0.5>, <lora:b:0.7>", library.knows)
    assert [library.find(tag.name) for tag in found.wanted] == [paths[0], paths[2]]
    assert [tag.strengths.unet for tag in found.wanted] == [0.5, 0.7] and not found.problems


@pytest.mark.parametrize("name", ["cat", "CAT"])
def test_case_counts(name: str, tmp_path: Path) -> None:
    put(tmp_path / "Cat.safetensors")
    with pytest.raises(BadInput, match="Did you mean Cat"):
        Library([tmp_path]).find(name)


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "/etc/passwd", "..", "", "*"])
def test_nothing_outside_of_the_folders(name: str, tmp_path: Path) -> None:
    put(tmp_path / "secret.safetensors")
    put(tmp_path / "loras" / "sub" / "cat.safetensors")
    with pytest.raises(BadInput, match="there is no LoRA"):
        Library([tmp_path / "loras"]).find(name)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    path = put(tmp_path / "sub" / "cat.safetensors")
    try:
        os.symlink(tmp_path, tmp_path / "sub" / "round")
    except OSError as e:
        pytest.skip(f"this system makes no links: {e}")
    library = Library([tmp_path])
    assert library.find("cat") == path
    with pytest.raises(BadInput):
        library.find("sub/round/sub/cat")


def test_a_file_that_appears_or_goes(tmp_path: Path) -> None:
    library = Library([tmp_path])
    with pytest.raises(BadInput):
        library.find("cat")
    path = put(tmp_path / "cat.safetensors")
    assert library.find("cat") == path
    path.unlink()
    with pytest.raises(BadInput):
        library.find("cat")


def test_read_once_until_it_changes(tmp_path: Path, names: NameTable) -> None:
    path = put(tmp_path / "cat.safetensors")
    library = Library([tmp_path])
    first = library.load("cat", names)
    assert library.load("cat", names) is first
    put(path, seed=1)
    os.utime(path, ns=(0, 0))  # older than before, the same size
    assert library.load("cat", names).network.identity != first.network.identity


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[str]]:
    """Files below the test's folder that Python opens."""
    found: list[str] = []
    listening = [True]

    def hear(event: str, given: tuple[object, ...]) -> None:
        if listening[0] and event == "open" and str(tmp_path) in str(given[0]):
            found.append(str(given[0]))

    sys.addaudithook(hear)  # there for good, so it is told when to stop
    yield found
    listening[0] = False


def test_switching_tags_on_and_off_opens_no_file(tmp_path: Path, names: NameTable, opened: list[str]) -> None:
    put(tmp_path / "cat.safetensors")
    put(tmp_path / "told.safetensors", seed=1, sshs_model_hash="ab" * 32)
    library = Library([tmp_path])

    def prompt(*tags: tuple[str, float]) -> None:
        networks, problems = library.resolve(wanted(*tags), names)
        assert len(networks) == len(tags) and not problems
        assert all(library.hash(name) for name, _ in tags)

    prompt(("cat", 1), ("told", 0.5))
    assert opened and library.surveyor.wait(60)  # a thread of its own looks closer at new files
    opened.clear()
    for tags in ((), (("told", 0.3),), (("cat", 1), ("told", 0.5)), (("told", 0.5), ("cat", 1)), ()):
        prompt(*tags)
    assert opened == []


def test_the_same_twice_adds_up_whatever_its_name(tmp_path: Path, names: NameTable) -> None:
    put(tmp_path / "cat.safetensors", ss_output_name="mio")
    networks, problems = Library([tmp_path]).resolve(wanted(("cat", 0.3), ("mio", 0.4), ("cat", -0.1)), names)
    assert list(networks.values()) == [Strengths(pytest.approx(0.6), pytest.approx(0.6))] and not problems


def test_what_cannot_be_used_hinders_no_other(tmp_path: Path, names: NameTable) -> None:
    put(tmp_path / "good.safetensors")
    (tmp_path / "html.safetensors").write_text("<html>not found</html>")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    library = Library([tmp_path])
    networks, problems = library.resolve(wanted(("html", 1), ("empty", 1), ("nope", 1), ("good", 1)), names)
    assert [n.name for n in networks] == ["good"]
    assert [Path(p.field).name for p in problems] == ["nope", "html.safetensors", "empty.safetensors"]


def test_strength_nought_is_no_network(tmp_path: Path, names: NameTable) -> None:
    put(tmp_path / "cat.safetensors")
    assert Library([tmp_path]).resolve(wanted(("cat", 0)), names) == ({}, ())


def test_keys_without_a_layer_are_named(tmp_path: Path, names: NameTable) -> None:
    path = put(tmp_path / "cat.safetensors")
    from safetensors.torch import load_file

    save_file({**load_file(path), "lora_unet_nowhere.alpha": torch.tensor(1.0)}, path)
    networks, problems = Library([tmp_path]).resolve(wanted(("cat", 1)), names)
    assert len(networks) == 1 and "lora_unet_nowhere.alpha" in str(problems[0])


def test_memory_is_bounded(tmp_path: Path, names: NameTable, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library([tmp_path])
    for n in range(4):
        put(tmp_path / f"{n}.safetensors", seed=n)
    monkeypatch.setattr(network_cache, "KEEP_BYTES", 2500)  # two of 1 KiB and something
    kept = {n: library.resolve(wanted((str(n), 1)), names) for n in range(4)}
    assert library.load("3", names).network in kept[3][0]
    assert library.load("0", names).network not in kept[0][0]


def test_another_model_reads_anew(tmp_path: Path, names: NameTable) -> None:
    put(tmp_path / "cat.safetensors")
    library = Library([tmp_path])
    first = library.load("cat", names)
    other = NameTable(layer_table(detect(tensors("sd1"))))
    assert library.load("cat", other) is not first


def test_hash_as_hosts_know_it(tmp_path: Path) -> None:
    path = put(tmp_path / "plain.safetensors")
    raw = path.read_bytes()
    library = Library([tmp_path])
    assert library.hash("plain") == hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    put(tmp_path / "told.safetensors", sshs_model_hash="ab" * 32)
    assert library.hash("told") == "ab" * 32
    put(tmp_path / "lies.safetensors", sshs_model_hash="<b>, Seed: 3")
    assert "<" not in library.hash("lies")
    shutil.copy(path, tmp_path / "pickled.pt")
    assert library.hash("pickled") == hashlib.sha256(raw).hexdigest()
