"""Tags, good and bad."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import BadInput
from lora_ext.hosts.blocks import DEFAULT_PRESETS, read_blocks
from lora_ext.hosts.prompt import LIMIT, WantedLora, from_items, parse
from lora_ext.hosts.schedule import Moment
from lora_ext.patching import Strengths

ALL17 = ",".join("1" * 17)
PRESETS = {"OUTALL": DEFAULT_PRESETS["OUTALL"], "ALL": ALL17, "MINE": "X,X+0.5,X-0.5," + ",".join("0" * 14)}


def tag(text: str) -> WantedLora:
    return from_items(text.split(":"), presets=PRESETS)


@pytest.mark.parametrize(
    ("text", "unet", "te"),
    [
        ("a", 1, 1),
        ("a:0.7", 0.7, 0.7),
        ("a:-1", -1, -1),
        ("a:0.5:0.2", 0.2, 0.5),  # as in A1111: text encoder first
        ("a:te=0.5", 0.5, 0.5),
        ("a:1:unet=0", 0, 1),
        ("a:unet=0.3:te=0.4", 0.3, 0.4),
        ("a: 0.7 ", 0.7, 0.7),
        ("a:1e-1", 0.1, 0.1),
        ("a:0.5@0", 0.5, 0.5),
    ],
)
def test_strengths(text: str, unet: float, te: float) -> None:
    assert tag(text) == WantedLora("a", Strengths(unet, te))


@pytest.mark.parametrize(
    "text",
    [
        *("a:abc", "a:nan", "a:inf", "a:1e9", "a:", "a:0,7", "a:1:", "a:te=", "a:te=b=c", ":1", "", "a:1:2x"),
        *("a:1:1:-1", "a:dyn=1.5", "a:dyn=", "a:start=x", "a:stop=", "a:stop=-1", "a:step=5", "a:step=9-3"),
        *("a:step=-5", "a:1@", "a:@1", "a:1@x", "a:1@-1", "a:1@nan", "a:1@0.1@2", "a:hr=x", "a:hrte=", "a:hrunet=1,2"),
        *("a:lbw=", "a:lbw=NOPE", "a:lbw=1,2,3", "a:1:0,7", "a:1:1,1", f"a:lbw={ALL17},nan", f"a:lbw={ALL17[:-1]}R"),
        *(f"a:lbw={ALL17[:-1]}1e9", f"a:lbw={ALL17[:-1]}Y", "a:1:MINE:x", "a:lbw=MINE:x=nan", "a:lbw=outall"),
    ],
)
def test_a_bad_tag_is_named_and_hinders_no_other(text: str) -> None:
    found = parse(f"x <lora:{text}> y <lora:good:0.5>", presets=PRESETS)
    assert found.wanted == (WantedLora("good", Strengths(0.5, 0.5)),)
    assert [p.field for p in found.problems] == [f"<lora:{text}>"]
    assert found.text == "x  y "


def test_what_was_wrong_is_said() -> None:
    told = str(parse("<lora:a:lbw=OUTAL>", presets=PRESETS).problems[0])
    assert told == (
        "<lora:a:lbw=OUTAL>: there are no block weights of this name; got 'OUTAL'. Did you mean OUTALL? "
        "This tag is left out."
    )


def test_parameters_of_others_are_kept_to_be_told() -> None:
    assert tag("a:1:1:8:9:a=b=c") == WantedLora("a", Strengths(1, 1), ("9", "a=b=c"), dyn=8)


@pytest.mark.parametrize(
    ("text", "dyn"), [("a:1:1:8", 8), ("a:dyn=8", 8), ("a:1:1:4:dyn=8", 8), ("a:dyn=0", 0), ("a", None)]
)
def test_dyn(text: str, dyn: int | None) -> None:
    assert tag(text).dyn == dyn


@pytest.mark.parametrize(
    ("text", "unet", "te", "blocks"),
    [
        ("a:lbw=OUTALL", 1, 1, "OUTALL"),
        ("a:0.5:lbw=OUTALL", 0.5, 0.5, "OUTALL"),
        ("a:0.5:0.2:lbw=OUTALL", 0.2, 0.5, "OUTALL"),
        ("a:0.5:OUTALL", 0.5, 0.5, "OUTALL"),
        ("a:0.5:0.2:OUTALL", 0.2, 0.5, "OUTALL"),
        ("a:0.5:OUTALL:unet=0.2", 0.2, 0.5, "OUTALL"),
        (f"a:0.5:{ALL17}", 0.5, 0.5, "ALL"),
        ("a:w=ALL", 1, 1, "ALL"),
        ("a:lbw=ALL:0.3", 0.3, 0.3, "ALL"),  # as the extension: named parts may stand anywhere
    ],
)
def test_block_weights(text: str, unet: float, te: float, blocks: str) -> None:
    assert tag(text) == WantedLora("a", Strengths(unet, te), blocks=read_blocks(blocks, PRESETS))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a:1:MINE", (1, 1.5, 0.5)),
        ("a:1:MINE:0.7", (0.7, 1.2, 0.2)),
        ("a:lbw=MINE:x=0.7", (0.7, 1.2, 0.2)),
        ("a:0.2:MINE:x=-1", (-1, -0.5, -1.5)),
    ],
)
def test_inherited_block_weights(text: str, numbers: tuple[float, ...]) -> None:
    found = tag(text).blocks
    assert found is not None
    assert tuple(found.factors.values())[:3] == pytest.approx(numbers)


def test_element_weights_are_kept_to_be_told() -> None:
    assert tag("a:lbwe=ATTNDEEPON") == WantedLora("a", Strengths(1, 1), elements="ATTNDEEPON")


def strengths(text: str, steps: int, hires: bool = False) -> list[tuple[float, float]]:
    moments = [tag(text).at(Moment(step, steps, hires)) for step in range(steps)]
    return [(round(s.unet, 6), round(s.text, 6)) for s in moments]


@pytest.mark.parametrize(
    ("text", "unet"),
    [
        ("a:0@0,1@1", [0, 0.25, 0.5, 0.75, 1]),
        ("a:1@1,0@0", [0, 0.25, 0.5, 0.75, 1]),
        ("a:0@0;1@0.5", [0, 0.5, 1, 1, 1]),
        ("a:0~0,1~0.5", [0, 0.5, 1, 1, 1]),
        ("a:0@0,1", [0, 0.25, 0.5, 0.75, 1]),
        ("a:0.25@0.5,1@1", [0.25, 0.25, 0.25, 0.625, 1]),
        ("a:0@2,1@3", [0, 0, 0, 1, 1]),
        ("a:0@0,2@8", [0, 0.25, 0.5, 0.75, 1]),
        ("a:1@0,0@0.5,1@0.5,0@1", [1, 0.5, 1, 0.5, 0]),
        ("a:start=2", [0, 0, 1, 1, 1]),
        ("a:stop=2", [1, 1, 0, 0, 0]),
        ("a:step=1-3", [0, 1, 1, 0, 0]),
        ("a:0.5:start=4", [0, 0, 0, 0, 0.5]),
        ("a:stop=0", [0, 0, 0, 0, 0]),
        ("a:te=1:unet=0@0,1@1", [0, 0.25, 0.5, 0.75, 1]),
        ("a:1:0@0,1@1", [0, 0.25, 0.5, 0.75, 1]),
        ("a:te=0@0,1@1:unet=1", [1, 1, 1, 1, 1]),
    ],
)
def test_strength_by_step(text: str, unet: list[float]) -> None:
    assert [of_unet for of_unet, _ in strengths(text, 5)] == unet
    assert len({te for _, te in strengths(text, 5)}) == 1, "a text encoder works before the first step only"


def test_the_text_encoder_takes_the_first_step_but_not_start_and_stop() -> None:
    assert strengths("a:0.2@0,1@1", 3) == [(0.2, 0.2), (0.6, 0.2), (1, 0.2)]
    assert strengths("a:start=2", 3) == [(0, 1), (0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("text", "unet", "te"),
    [
        ("a:0.5:hr=1", [1, 1, 1], 1),
        ("a:0@0,1@1:hr=1@0,0@1", [1, 0.5, 0], 1),
        ("a:0@0,1@1", [0, 0.5, 1], 0),
        ("a:0.5:hrunet=0", [0, 0, 0], 0.5),
        ("a:0.5:hrte=0", [0.5, 0.5, 0.5], 0),
        ("a:0.5:hr=0.2:hrte=0", [0.2, 0.2, 0.2], 0),
        ("a:start=1:hr=0.5", [0, 0.5, 0.5], 0.5),
    ],
)
def test_the_second_pass(text: str, unet: list[float], te: float) -> None:
    assert strengths(text, 3, hires=True) == [(strength, te) for strength in unet]


def test_one_step_is_the_first() -> None:
    assert strengths("a:0.2@0,1@1", 1) == [(0.2, 0.2)]


def test_other_tags_stay() -> None:
    found = parse("<hypernet:x:1> a < b, (c:1.2) [d|e] <lyco:l:2>")
    assert found.text == "<hypernet:x:1> a < b, (c:1.2) [d|e] "
    assert found.wanted == (WantedLora("l", Strengths(2, 2)),)


def test_a_colon_belongs_to_a_name_that_exists() -> None:
    known = {"a:b", "a:b:0.5"}
    assert from_items(["a", "b", "0.7"], known.__contains__).name == "a:b"
    assert from_items(["a", "b", "0.5"], known.__contains__) == WantedLora("a:b:0.5", Strengths())
    with pytest.raises(BadInput, match="'b'"):
        from_items(["a", "b", "0.7"])


@given(st.text(st.characters(blacklist_characters="<>:\n", blacklist_categories=("Cs",)), min_size=1))
def test_any_name_survives(name: str) -> None:
    found = parse(f"<lora:{name}:0.5>")
    if name.strip():
        assert [w.name for w in found.wanted] == [name.strip()]
    else:
        assert found.problems


SCRAPS = st.sampled_from(
    [
        *":,;@~=.-+X01579",
        "te=",
        "unet=",
        "dyn=",
        "hr=",
        "lbw=",
        "x=",
        "start=",
        "stop=",
        "step=",
        "OUTALL",
        "MINE",
        ALL17,
        "R",
    ]
)


@given(st.one_of(st.text(max_size=40), st.lists(SCRAPS, max_size=12).map("".join)), st.integers(0, 9), st.booleans())
def test_no_text_breaks_it(text: str, step: int, hires: bool) -> None:
    found = parse(f"a <lora:a:{text}> b", presets=PRESETS)
    assert all(p.field.startswith("<lora:a") and p.what for p in found.problems)
    for wanted in found.wanted:
        for strength in (wanted.strengths, wanted.at(Moment(step, 10, hires))):
            assert abs(strength.unet) <= LIMIT and abs(strength.text) <= LIMIT
        if wanted.blocks is not None:
            assert all(math.isfinite(factor) for factor in wanted.blocks.factors.values())
