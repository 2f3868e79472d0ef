"""Tags to networks and strengths, over a library of real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import tensors
from safetensors.torch import save_file

from lora_ext.formats import NameTable
from lora_ext.hosts.first_ranks import first_ranks
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import parse
from lora_ext.hosts.schedule import Moment
from lora_ext.hosts.selection import Selection, select
from lora_ext.layers import LayerName
from lora_ext.model import detect, layer_table
from lora_ext.patching import WeightPatcher

LAYERS = {  # kohya's prefix: layer, shape
    "lora_unet_mid_block_attentions_0_proj_in": LayerName("unet", "middle_block.1.proj_in"),
    "lora_unet_down_blocks_0_attentions_0_proj_in": LayerName("unet", "input_blocks.1.1.proj_in"),
    "lora_unet_down_blocks_0_resnets_0_time_emb_proj": LayerName("unet", "input_blocks.1.0.emb_layers.1"),
    "lora_unet_down_blocks_0_downsamplers_0_conv": LayerName("unet", "input_blocks.3.0.op"),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": LayerName("te1", "text_model.encoder.layers.0.mlp.fc1"),
}
MID, IN01, TIME, IN03, TE = LAYERS.values()
RANK = 4


@pytest.fixture(scope="module")
def model() -> dict[str, torch.Tensor]:
    return tensors("sd1")


@pytest.fixture(scope="module")
def names(model: dict[str, torch.Tensor]) -> NameTable:
    return NameTable(layer_table(detect(model)))


@pytest.fixture
def library(tmp_path: Path, names: NameTable) -> Library:
    put(tmp_path / "cat.safetensors", names, 1)
    put(tmp_path / "dog.safetensors", names, 2)
    return Library([tmp_path])


def put(path: Path, names: NameTable, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    made = {}
    for prefix, name in LAYERS.items():
        out, width, *kernel = names.table.layers[name].shape
        made[f"{prefix}.lora_down.weight"] = torch.randn(RANK, width, *kernel, generator=g)
        made[f"{prefix}.lora_up.weight"] = torch.randn(out, RANK, *[1 for _ in kernel], generator=g)
        made[f"{prefix}.alpha"] = torch.tensor(2.0)
    save_file(made, path)


def chosen(prompt: str, library: Library, names: NameTable) -> tuple[Selection, list[str]]:
    parsed = parse(prompt)
    selection, problems = select(parsed.wanted, library, names)
    return selection, [str(p) for p in (*parsed.problems, *problems)]


def at(selection: Selection, moment: Moment = Moment()) -> dict[LayerName, float]:  # noqa: B008
    ((_, strengths),) = selection.at(moment).items()
    return {layer: strengths.of(layer) for layer in LAYERS.values()}


def test_the_same_twice_adds_up(library: Library, names: NameTable) -> None:
    selection, problems = chosen("<lora:cat:0.5><lora:cat.safetensors:0.25:1>", library, names)
    assert at(selection) == {MID: 1.5, IN01: 1.5, TIME: 1.5, IN03: 1.5, TE: 0.75}
    assert problems == []


def test_a_sum_of_nothing_is_off(library: Library, names: NameTable) -> None:
    assert chosen("<lora:cat:1><lora:cat:-1>", library, names)[0].at(Moment()) == {}
    assert chosen("<lora:cat:1:lbw=NONE>", library, names)[0].at(Moment()) == {}


def test_block_weights_reach_their_layers(library: Library, names: NameTable) -> None:
    mine = "0.5,0.25," + ",".join(["0"] * 5) + ",2," + ",".join(["0"] * 9)  # BASE, IN01, M00
    selection, problems = chosen(f"<lora:cat:0.8:0.4:lbw={mine}>", library, names)
    assert at(selection) == {MID: 0.8, IN01: 0.1, TIME: 0.1, IN03: 0.0, TE: 0.4}
    assert problems == ["cat: its 17 block weights have no place for IN03, which get 0."]


def test_block_weights_add_up_too(library: Library, names: NameTable) -> None:
    full = ",".join(["1"] * 26)
    selection, problems = chosen(f"<lora:cat:1:lbw={full}><lora:cat:0.5>", library, names)
    assert set(at(selection).values()) == {1.5}
    assert problems == []


def test_strengths_by_step_and_pass(library: Library, names: NameTable) -> None:
    selection, problems = chosen("<lora:cat:0@0,1@1:hr=0.5><lora:dog:0>", library, names)
    assert selection.changes
    assert selection.at(Moment(0, 3)) == {}
    assert at(selection, Moment(1, 3))[MID] == 0.5
    assert at(selection, Moment(1, 3))[TE] == 0
    assert set(at(selection, Moment(1, 3, hires=True)).values()) == {0.5}
    assert problems == [
        "cat: the text encoder works once, before the first step, and takes the strength of that step; got 0."
    ]


def test_what_is_not_done_is_told(library: Library, names: NameTable) -> None:
    prompt = "<lora:cat:1:lbwe=ATTNDEEPON><lora:cat:1:foo=1><lora:nothing:1@0,0@1><lora:cat:x>"
    _, problems = chosen(prompt, library, names)
    told = "\n".join(problems)
    assert "lbwe=" in told and "foo=1" in told and "nothing: there is no LoRA" in told and "<lora:cat:x>" in told


def test_dyn_is_the_first_ranks(library: Library, names: NameTable, model: dict[str, torch.Tensor]) -> None:
    plain, _ = chosen("<lora:cat:1>", library, names)
    selection, problems = chosen("<lora:cat:1:1:3>", library, names)
    (whole,), (cut,) = plain.shares, selection.shares
    base = model[names.table.layers[MID].key]
    adapter = whole.adapters[MID]
    expected = torch.einsum("or,ri->oi", adapter.up[:, :3].flatten(1), adapter.down[:3].flatten(1)) * 2 / RANK
    torch.testing.assert_close(cut.adapters[MID].delta(base).flatten(1), expected, rtol=1e-6, atol=1e-6)
    assert problems == []
    assert next(iter(chosen("<lora:cat:0.5:dyn=3>", library, names)[0].shares)) is cut, "made again: written again"
    assert cut.identity != whole.identity
    assert first_ranks(whole, RANK).adapters == whole.adapters
    assert chosen("<lora:cat:1:1:0>", library, names)[0].shares.keys() and not first_ranks(whole, 0).adapters


def test_it_goes_into_the_weights_and_out_again(library: Library, names: NameTable) -> None:
    live = tensors("sd1")
    before = {key: t.clone() for key, t in live.items()}
    patcher = WeightPatcher(lambda: live, names.table)
    selection, _ = chosen("<lora:cat:1@0,0.2@1:lbw=ALL><lora:dog:dyn=2:start=1>", library, names)
    seen = []
    for step in range(3):
        patcher.apply(selection.at(Moment(step, 3)))
        seen.append(live[names.table.layers[MID].key].clone())
        assert torch.equal(live[names.table.layers[IN03].key], before[names.table.layers[IN03].key]) == (step < 1)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    patcher.clear()
    assert all(torch.equal(live[key], before[key]) for key in before)
