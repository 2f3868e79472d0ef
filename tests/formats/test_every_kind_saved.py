"""Every kind of adapter, on weights, norms and biases: saved and read again it is the same, and others read it too."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import tiny_table
import torch
from adapters import adapter_samples

from lora_ext.adapters import Network, adapter_for
from lora_ext.errors import BadInput
from lora_ext.formats import NameTable, algorithm_of, network_metadata, read_info, read_network, write_network
from lora_ext.layers import Layer, LayerTable
from lora_ext.patching import Strengths, WeightPatcher


def with_biases(family):
    """The small table, with a bias to every weight and a norm."""
    table = tiny_table.table(family)
    layers = dict(table.layers)
    for layer in [*table.layers.values(), tiny_table._layer("unet", "out.0", "conv_norm_out", (8,), "norm")]:
        layers[layer.name] = layer
        bias = Layer(layer.name.bias, f"{layer.key}.bias", None, layer.shape[:1], "bias", f"{layer.module}.bias")
        layers[bias.name] = bias
    return LayerTable(family, layers)


def network(table, kind):
    """The kind on every weight; norms and biases get differences, as LyCORIS gives them."""
    rand = adapter_samples.draw(4)
    adapters = {}
    for layer in table.layers.values():
        if layer.op in ("norm", "bias"):
            name = {"norm": "w_norm", "bias": "diff_b"}[layer.op]
            name = "b_norm" if layer.name.owner.path == "out.0" and layer.op == "bias" else name
            adapters[layer.name] = adapter_for({name: rand(*layer.shape)}, layer.shape)
        else:
            adapters[layer.name] = adapter_for(adapter_samples.KINDS[kind](layer.shape, rand), layer.shape)
    return Network("net", adapters, identity="x")


def merged(table, made):
    g = torch.Generator().manual_seed(1)
    tensors = {layer.key: torch.randn(layer.shape, generator=g) for layer in table.layers.values()}
    WeightPatcher(lambda: tensors, table).apply({made: Strengths(0.8, 0.6)})
    return tensors


SAVABLE = [kind for kind in adapter_samples.KINDS if kind not in ("turned input", "kept module")]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", SAVABLE)
def test_saved_and_read_is_the_same(tmp_path, kind, family):
    table, path = with_biases(family), tmp_path / "a.safetensors"
    names, made = NameTable(table), network(table, kind)
    write_network(path, made, names, {}, torch.float32)
    result = read_network(path, names)
    assert result.unmatched == ()
    assert set(result.network.adapters) == set(made.adapters)
    for name, adapter in made.adapters.items():
        read, want = result.network.adapters[name], adapter.to_tensors()
        assert type(read) is type(adapter), name
        got = read.to_tensors()
        assert got.keys() == want.keys()
        assert all(torch.equal(got[own], tensor) and got[own].dtype == tensor.dtype for own, tensor in want.items())
    ours, theirs = merged(table, made), merged(table, result.network)
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert sum(read_info(path).kinds.values()) == read_info(path).layers
    assert "unknown" not in read_info(path).kinds


@pytest.mark.parametrize("kind", SAVABLE)
def test_half_precision_is_rounded_once_and_whole_numbers_stay(tmp_path, kind):
    table = with_biases("sd1")
    names, made = NameTable(table), network(table, kind)
    write_network(tmp_path / "a.safetensors", made, names, {}, torch.float16)
    write_network(
        tmp_path / "b.safetensors", read_network(tmp_path / "a.safetensors", names).network, names, {}, torch.float16
    )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for key, tensor in safetensors.torch.load_file(tmp_path / "a.safetensors").items():
        wanted = torch.float32 if tensor.dim() == 0 else torch.float16
        assert tensor.dtype == wanted or not tensor.is_floating_point(), key


def test_what_nobody_could_read_is_not_written(tmp_path):
    table = with_biases("sd1")
    with pytest.raises(BadInput, match=r"7 layers are of a kind that no file can hold .*input_blocks.*Use the file"):
        write_network(tmp_path / "a.safetensors", network(table, "turned input"), NameTable(table), {}, torch.float32)
    assert not list(tmp_path.iterdir())


ALGORITHMS = {
    "lora": {},
    "lora tucker": {"algo": "lora", "use_tucker": "True"},
    "loha": {"algo": "loha"},
    "lokr tucker": {"algo": "lokr"},
    "oft": {"algo": "diag-oft", "rescaled": "True"},
    "boft": {"algo": "boft", "rescaled": "True"},
    "ia3 input": {"algo": "ia3"},
    "full": {"algo": "full"},
    "glora": {"algo": "glora"},
    "dora per output": {"algo": "lora", "dora_wd": "True"},
    "dora of loha": {"algo": "loha", "dora_wd": "True", "wd_on_output": "False"},
}


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_metadata_tell_the_kind_as_lycoris_would(kind):
    """Hosts and kohya's tools show the module and its `algo`."""
    table = tiny_table.table()
    rand = adapter_samples.draw(4)
    made = [
        adapter_for(adapter_samples.KINDS[kind](x.shape, rand), x.shape)
        for x in table.layers.values()
        if kind != "lora tucker" or len(x.shape) == 4
    ]
    told = network_metadata(family="sd1", name="a", rank=4, alpha=1, conv_rank=2, algorithm=algorithm_of(made))
    plain = {"conv_dim": "2", "conv_alpha": "0"}
    tucker = {"use_tucker": "True"} if kind == "lokr tucker" else {}
    assert json.loads(told["ss_network_args"]) == {**ALGORITHMS[kind], **tucker, **plain}
    assert told["ss_network_module"] == ("networks.lora" if kind == "lora" else "lycoris.kohya")


def test_norms_beside_the_rest_are_told():
    norm = adapter_for({"w_norm": torch.ones(4)}, (4,))
    lora = adapter_for(adapter_samples.lora((4, 4), adapter_samples.draw(1)), (4, 4))
    assert algorithm_of([lora, norm]) == {"algo": "lora", "train_norm": "True"}
    assert algorithm_of([norm]) == {"algo": "full", "train_norm": "True"}
