"""Previews: several prompts with numbers of their own, by steps, by epochs and before the first step."""

from __future__ import annotations

import dataclasses

import pytest
from settings_table import about
from test_every_setting import recorded
from training_runs import run

from lora_ext.config import PreviewConfig, TrainConfig, preview_wishes, read
from lora_ext.errors import BadInput
from lora_ext.training import Preview, Stage

LINES = """a cat --w 128 --h 64 --d 5 --s 2 --l 3.5 --m 0.5 --n dogs, --- cars

# not this one
a dog -- with two dashes
"""


def test_every_line_has_numbers_of_its_own(tmp_path, monkeypatch):
    requests, strengths = recorded(monkeypatch)
    result = run(tmp_path, preview_prompt=LINES, preview_every=2, preview_seed=7, preview_negative="blurry")
    first, second = (dataclasses.asdict(request) for request in requests)
    assert first == {
        "prompt": "a cat", "negative": "dogs, --- cars", "seed": 5, "steps": 2, "cfg": 3.5, "width": 128, "height": 64
    }  # fmt: skip
    assert (second["prompt"], second["negative"], second["seed"], second["width"]) == (
        "a dog -- with two dashes",
        "blurry",
        7,
        64,
    )
    assert [s.unet for s in strengths] == [0.5, 1.0]
    stages = [e.name for e in result.of(Stage)]
    assert stages[-2:] == ["Painting previews", "Training"], "painting is a stage of its own"
    shown = [(e.step, e.number, e.prompt, e.image.size) for e in result.of(Preview)]
    assert shown == [(2, 1, "a cat", (128, 64)), (2, 2, "a dog -- with two dashes", (64, 64))]


@about("preview_every_epochs", "preview_first")
@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"preview_every": 0}, []),
        ({"preview_every": 2}, [2, 4, 6]),
        ({"preview_every": 0, "preview_every_epochs": 1}, [3, 6]),
        ({"preview_every": 0, "preview_every_epochs": 2}, [6]),
        ({"preview_every": 0, "preview_first": True}, [0]),
        ({"preview_every": 3, "preview_every_epochs": 1, "preview_first": True}, [0, 3, 6]),
    ],
)
def test_when_previews_come(tmp_path, values, steps):
    result = run(tmp_path, max_steps=6, preview_prompt="a cat", **values)
    assert [e.step for e in result.of(Preview)] == steps
    assert not run(tmp_path / "none", max_steps=2, **{**values, "preview_every": 1}).of(Preview)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a cat\na dog --w 100", "line 2: Preview width must be a multiple of 8"),
        ("a cat --q 3", "line 1: there is no such sign; expected --n, --w"),
        ("--w 64", "line 1: there is no prompt before the signs"),
        ("a cat --d", "line 1: Preview seed cannot be read"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_before_the_run(tmp_path, text, said):
    with pytest.raises(BadInput) as caught:
        run(tmp_path, preview_prompt=text)
    (problem,) = caught.value.problems
    assert problem.field == "preview_prompt"
    assert said in str(problem)


def test_without_lines_there_are_no_wishes():
    assert preview_wishes(PreviewConfig(preview_prompt=" \n# nothing\n")) == ()
    plain = read(TrainConfig, {"images": "a", "output": "b", "preview_prompt": "a cat"}).preview
    assert preview_wishes(plain) == (plain,)
