"""Weights looked up in the checkpoint file by several threads: the same answers as by one, and none of them twice."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import LAYERS, TABLE, bits, network, weights

from lora_ext.hosts.weight_file import weight_file
from lora_ext.patching import Strengths, WeightPatcher
from lora_ext.patching.originals import Copied
from lora_ext.patching.stored import Stored

NET = network(0)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch):
    """How often each of the file's tensors was compared, by its place in memory, and by which threads."""
    seen, by, real = Counter(), set(), Stored.equals

    def equals(self, weight):
        seen[self.tensor.data_ptr()] += 1
        by.add(threading.current_thread().name)
        return real(self, weight)

    monkeypatch.setattr(Stored, "equals", equals)
    return seen, by


def made(path, live, stored=None):
    save_file({key: tensor.to(stored or tensor.dtype) for key, tensor in live.items()}, path)
    os.utime(path, (0, 0))
    return WeightPatcher(lambda: live, TABLE, lambda: weight_file(path))


def tiers(patcher):
    return {name: type(patcher._originals[name]) for name in patcher._originals.names()}


@pytest.mark.parametrize("odd", range(len(LAYERS)))
def test_each_layer_is_asked_once_and_only_the_differing_one_is_copied(tmp_path, threads, asked, odd):
    live = weights(torch.float16)
    patcher = made(tmp_path / "m.safetensors", live)
    LAYERS[odd].view(live[LAYERS[odd].key]).view(torch.int16)[-1] ^= 1
    before = bits(live)
    patcher.apply({NET: Strengths()})
    assert tiers(patcher) == {layer.name: Copied if at == odd else Stored for at, layer in enumerate(LAYERS)}
    seen, by = asked
    assert set(seen.values()) == {1}
    assert len(seen) == len(LAYERS)
    assert (by == {"MainThread"}) == (threads == 1)
    patcher.apply({NET: Strengths(0.3)})
    assert sum(seen.values()) == len(LAYERS)
    patcher.clear()
    assert bits(live) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lora-ext compare")]


def test_a_layer_found_to_differ_may_be_the_file_s_the_next_time(tmp_path, threads):
    live = weights(torch.float32)
    patcher = made(tmp_path / "m.safetensors", live)
    live["a.to_q.weight"].view(torch.int32)[0] ^= 1
    patcher.apply({NET: Strengths()})
    patcher.clear()
    live["a.to_q.weight"].view(torch.int32)[0] ^= 1
    patcher.apply({NET: Strengths()})
    assert set(tiers(patcher).values()) == {Stored}


def test_what_torch_must_convert_is_left_to_torch(tmp_path, threads, asked):
    live = {key: tensor.float() for key, tensor in weights(torch.float16).items()}
    patcher = made(tmp_path / "m.safetensors", live, torch.float16)
    before = bits(live)
    patcher.apply({NET: Strengths()})
    assert set(tiers(patcher).values()) == {Stored}
    assert asked[1] == {"MainThread"}
    patcher.clear()
    assert bits(live) == before


def test_an_error_in_a_thread_comes_out_and_the_weights_are_as_before(tmp_path, threads, monkeypatch):
    live = weights(torch.float32)
    patcher = made(tmp_path / "m.safetensors", live)
    before = bits(live)

    def broken(self, weight):
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(Stored, "equals", broken)
        patcher.apply({NET: Strengths()})
    assert bits(live) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lora-ext compare")]
    patcher.apply({NET: Strengths()})
    assert set(tiers(patcher).values()) == {Stored}
