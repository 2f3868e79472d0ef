"""Atomic saving, hashes, metadata, and what is refused before a byte is written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import tiny_table
import torch

from lora_ext.errors import BadInput
from lora_ext.formats import NameTable, network_metadata, read_info, write_atomically, write_network
from lora_ext.layers import Layer, LayerName, LayerTable


def write(path, meta=None, dtype=torch.float16, net=None):
    write_network(path, net or tiny_table.network(tiny_table.table()), tiny_table.names(), meta or {}, dtype)


def data_of(path):
    raw = path.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def test_small_file_has_a_model_hash_and_no_hash_of_nothing(tmp_path):
    write(tmp_path / "a.safetensors")
    info = read_info(tmp_path / "a.safetensors")
    assert info.model_hash == hashlib.sha256(data_of(tmp_path / "a.safetensors")).hexdigest()
    assert info.legacy_hash == ""
    assert b"e3b0c442" not in (tmp_path / "a.safetensors").read_bytes()


def test_large_file_has_kohyas_legacy_hash(tmp_path):
    """As kohya does it: save with the ss_* metadata only, hash 64 KiB from 1 MiB on."""
    name = LayerName("unet", "a")
    table = LayerTable("sd1", {name: Layer(name, "k", None, (600, 700), "linear", "a")})
    net = tiny_table.network(table, rank=500)
    meta = {"ss_output_name": "x" * 99, "modelspec.title": "y"}
    path = tmp_path / "a.safetensors"
    write_network(path, net, NameTable(table), meta, torch.float32)
    tensors = safetensors.torch.load_file(path)
    as_kohya = safetensors.torch.save(tensors, {"ss_output_name": "x" * 99})
    info = read_info(path)
    assert info.legacy_hash == hashlib.sha256(as_kohya[0x100000:0x110000]).hexdigest()[:8]
    length = int.from_bytes(as_kohya[:8], "little")
    assert info.model_hash == hashlib.sha256(as_kohya[8 + length :]).hexdigest()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_metadata_that_hosts_read(family):
    meta = network_metadata(
        family=family,
        name="cat",
        rank=16,
        alpha=8.0,
        conv_rank=4,
        conv_alpha=1.0,
        checkpoint_name="base.safetensors",
        checkpoint_sha256="ab" * 32,
        resolution=(512, 768),
        clip_skip=2,
        steps=30,
        epochs=3,
        pictures=4,
        folders={"10_cat": (10, 4)},
        tags={"10_cat": {"cat": 4, "ねこ": 1}},
        buckets={(512, 768): 4},
        started=1.0,
        finished=1700000000.0,
        settings={"rank": 16},
    )
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in meta.items())
    assert meta["ss_output_name"] == "cat"
    assert meta["ss_v2"] == str(family == "sd2")
    # the very tests of A1111's NetworkOnDisk.detect_version
    assert meta["ss_base_model_version"].startswith("sdxl_") == (family == "sdxl")
    title = {"sd1": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}
    assert meta["modelspec.architecture"] == title.get(family, "stable-diffusion-v2-512/lora")
    assert (meta["ss_network_module"], meta["ss_network_dim"], meta["ss_network_alpha"]) == ("networks.lora", "16", "8")
    assert json.loads(meta["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "1"}
    assert json.loads(meta["ss_tag_frequency"])["10_cat"]["ねこ"] == 1
    assert json.loads(meta["ss_dataset_dirs"]) == {"10_cat": {"n_repeats": 10, "img_count": 4}}
    assert json.loads(meta["ss_bucket_info"])["buckets"]["0"] == {"resolution": [512, 768], "count": 4}
    assert meta["ss_resolution"] == "(512, 768)"
    assert meta["modelspec.date"] == "2023-11-14T22:13:20+00:00"
    assert "ss_seed" not in meta


def test_metadata_survives_the_file(tmp_path):
    meta = network_metadata(family="sdxl", name="a <b>\n\"'é猫", rank=2, alpha=1.5)
    write(tmp_path / "a.safetensors", meta)
    assert meta.items() <= read_info(tmp_path / "a.safetensors").metadata.items()


def test_info_tells_what_is_inside(tmp_path):
    write(tmp_path / "a.safetensors", network_metadata(family="sd2", name="a", rank=2, alpha=1.5))
    info = read_info(tmp_path / "a.safetensors")
    assert (info.layers, info.tensors, info.made_for) == (7, 21, "SD 2.x")
    assert info.kinds == {"LoRA": 6, "LoCon": 1}
    assert info.ranks == {2: 7}
    assert info.dtypes == {"float16": 14, "float32": 7}
    torch.save(safetensors.torch.load_file(tmp_path / "a.safetensors"), tmp_path / "a.pt")
    assert read_info(tmp_path / "a.pt").kinds == info.kinds


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_numbers_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, value):
    net = tiny_table.network(tiny_table.table())
    first = next(iter(net.adapters.values()))
    first.up.data[0] = value
    with pytest.raises(BadInput, match=r"lora_unet_down_blocks_0_attentions_0_proj_in\.lora_up\.weight"):
        write(tmp_path / "a.safetensors", net=net)
    assert listing(tmp_path) == []
    if value == 1e6:
        write(tmp_path / "a.safetensors", net=net, dtype=torch.bfloat16)


def test_empty_network_is_refused(tmp_path):
    net = tiny_table.network(LayerTable("sd1", {}))
    net.adapters = {}
    with pytest.raises(BadInput, match="empty"):
        write_network(tmp_path / "a.safetensors", net, tiny_table.names(), {}, torch.float16)


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, where, error):
    path = tmp_path / "a.safetensors"
    write(path)
    before = path.read_bytes()

    def fail(*_):
        raise error

    def pieces():
        yield b"half of it"
        if where == "write":
            fail()

    if where != "write":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(BadInput if isinstance(error, OSError) else KeyboardInterrupt):
        write_atomically(path, pieces())
    assert path.read_bytes() == before
    assert listing(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("bad", ["missing/a.safetensors", "a\0b.safetensors", "x" * 300 + ".safetensors"])
def test_impossible_paths_are_bad_input(tmp_path, bad):
    with pytest.raises(BadInput, match="could not be written"):
        write(tmp_path / bad)
    assert listing(tmp_path) == []


def test_path_that_is_a_folder(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(BadInput, match="could not be written"):
        write(tmp_path / "a.safetensors")
    assert listing(tmp_path) == ["a.safetensors"]


KILLED = """
import os, sys
from pathlib import Path
from lora_ext.formats import write_atomically

def pieces():
    yield b"x" * 5_000_000
    os.kill(os.getpid(), 9)

write_atomically(Path(sys.argv[1]), pieces())
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX thing: not tested on this system")
def test_killed_while_saving_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == before
    assert [p.suffix for p in tmp_path.iterdir() if p != path] == [".tmp"]
