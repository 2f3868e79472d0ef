"""Block weights: which layer belongs to which block, and what a list gives it."""

from __future__ import annotations

import pytest
from checkpoints import tensors

from lora_ext.errors import BadInput
from lora_ext.hosts.blocks import DEFAULT_PRESETS, PLACES, BlockWeights, block_of, read_blocks, read_presets
from lora_ext.layers import Family, LayerName
from lora_ext.model import default_targets, detect, layer_table


@pytest.mark.parametrize(
    ("component", "path", "block"),
    [
        ("unet", "input_blocks.1.1.transformer_blocks.0.attn1.to_q", "IN01"),
        ("unet", "input_blocks.11.0.in_layers.2", "IN11"),
        ("unet", "middle_block.1.proj_in", "M00"),
        ("unet", "output_blocks.0.0.in_layers.2", "OUT00"),
        ("unet", "output_blocks.11.1.proj_out", "OUT11"),
        ("unet", "time_embed.0", None),
        ("unet", "label_emb.0.0", None),
        ("unet", "out.2", None),
        ("te1", "text_model.encoder.layers.0.self_attn.q_proj", "BASE"),
        ("te2", "text_model.encoder.layers.31.mlp.fc1", "BASE"),
    ],
)
def test_block_of_a_layer(component: str, path: str, block: str | None) -> None:
    assert block_of(LayerName(component, path)) == block  # type: ignore[arg-type]


def test_places_of_each_length() -> None:
    assert {count: len(places) for count, places in PLACES.items()} == {12: 12, 17: 17, 20: 20, 26: 26}
    assert " ".join(PLACES[12]) == "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"
    assert " ".join(PLACES[17]) == (
        "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
    )
    assert PLACES[20][9:11] == ("IN08", "M00") and PLACES[20][-1] == "OUT08"
    assert PLACES[26][12:15] == ("IN11", "M00", "OUT00")


@pytest.mark.parametrize(("family", "count"), [("sd1", 17), ("sd2", 17), ("sdxl", 12)])
def test_the_short_list_of_a_family_has_a_place_for_every_block_of_a_lora(family: Family, count: int) -> None:
    table = layer_table(detect(tensors(family)))
    names = [layer.name for layer in default_targets(table, conv=False)]
    every = read_blocks(",".join(["1"] * count), {})
    if family == "sdxl":  # the shrunken one has the blocks of the real one
        assert {block_of(name) for name in names} == set(PLACES[12])
    assert every.unnamed(names) == ()


def test_an_unnamed_block_gets_nothing_and_is_told() -> None:
    weights = read_blocks(",".join(["1"] * 17), {})
    conv, outside = LayerName("unet", "input_blocks.3.0.op"), LayerName("unet", "time_embed.0")
    assert (weights.factor(conv), weights.factor(outside)) == (0.0, 1.0)
    assert weights.unnamed([conv, outside, LayerName("te1", "x")]) == ("IN03",)


def test_every_number_reaches_its_block() -> None:
    for count, places in PLACES.items():
        found = read_blocks(",".join(str(n / 10) for n in range(count)), {})
        assert found == BlockWeights(count, {block: n / 10 for n, block in enumerate(places)})


def test_default_presets_can_be_read() -> None:
    assert {name: read_blocks(name, DEFAULT_PRESETS).count for name in DEFAULT_PRESETS} == dict.fromkeys(
        DEFAULT_PRESETS, 17
    )
    assert read_blocks("OUTS", DEFAULT_PRESETS).factors["OUT06"] == 0
    assert read_blocks("OUTS", DEFAULT_PRESETS).factors["OUT07"] == 1


def test_a_preset_file() -> None:
    twelve = ",".join(["0.5"] * 12)
    comments = f"# not:{twelve}\nshort:1,2,3\nno sign\n\nnot#this:{twelve}"
    text = f"mine: {twelve}\n{comments}\r\n übrig :{twelve}\nmine:{twelve[:-1]}7"
    found = read_presets(text)
    assert set(found) == {"mine", "übrig"}
    assert read_blocks("mine", found).factors["OUT05"] == 0.7, "the last line of a name counts"


@pytest.mark.parametrize("word", ["R", "U"])
def test_chance_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match="by chance"):
        read_blocks(",".join([word] * 12), {})


def test_flux_is_refused() -> None:
    with pytest.raises(BadInput, match="61 of them"):
        read_blocks(",".join(["1"] * 61), {})
