"""Flags, `--set` and files are made from `config.py` and read one way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_ext.cli import main
from lora_ext.cli.flags import Parser, add_flags, flag, help_text, parse, values
from lora_ext.cli.train import TrainCommand, add
from lora_ext.config import GenerateConfig, read, settings
from lora_ext.errors import BadInput

NEEDED = ["--checkpoint", "m.safetensors", "--images", "pictures", "--output", "cat"]


def config_of(*words: str) -> TrainCommand:
    parser = Parser(prog="train", allow_abbrev=False)
    add(parser)
    return read(TrainCommand, values(parse(parser, [*NEEDED, *words]), TrainCommand))


def problems_of(*words: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        config_of(*words)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("config", [TrainCommand, GenerateConfig])
def test_every_setting_is_a_flag(config: type) -> None:
    parser = Parser(prog="x")
    add_flags(parser, config)
    there = {text for action in parser._actions for text in action.option_strings}
    assert {flag(s) for s in settings(config).values()} <= there
    assert "--no-overwrite" in there  # a switch can be turned off again after a file turned it on


def test_help_tells_unit_range_choices_and_default() -> None:
    known = settings(TrainCommand)
    assert "64 to 4096 px, a multiple of 64; default 512" in help_text(known["resolution"])
    assert "one of auto, fp32, fp16, bf16; default auto" in help_text(known["precision"])
    assert "needed" in help_text(known["images"])
    assert "default off" in help_text(known["flip"])


def test_help_of_every_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "generate", "info"):
        assert main([command, "--help"]) == 0
        assert f"python -m lora_ext {command}" in capsys.readouterr().out
    assert main(["--help"]) == 0


def test_flags_beat_set_and_set_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"rank": 1, "alpha": 1, "epochs": 1, "flip": True}))
    words = ["--config", str(file), "--set", "rank=2", "--set", "alpha=2", "--rank", "3"]
    run = config_of(*words).run
    assert (run.network.rank, run.network.alpha, run.optim.epochs, run.data.flip) == (3, 2.0, 1, True)
    assert config_of(*words, "--no-flip").run.data.flip is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flat.toml", "rank = 5\nlearning_rate = 2e-4\nflip = true"),
        ("sections.toml", "[network]\nrank = 5\n[optim]\nlearning_rate = 2e-4\n[data]\nflip = true"),
        ("mixed.json", '{"rank": 5, "optim": {"learning_rate": 2e-4}, "data": {"flip": true}}'),
        ("bom.json", '\ufeff{"rank": 5, "learning_rate": "2e-4", "flip": "yes"}'),
    ],
)
def test_files_flat_or_by_section(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf8")
    run = config_of("--config", str(tmp_path / name)).run
    assert (run.network.rank, run.optim.learning_rate, run.data.flip) == (5, 2e-4, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rnak", "4"], ["--rnak: there is no such flag. Did you mean --rank?"]),
        (["--set", "learning_rat=1"], ["learning_rat: there is no such setting. Did you mean learning_rate?"]),
        (["--set", "rank"], ["set: this is no setting; expected key=value; got 'rank'."]),
        (["--rank", "0"], ["rank: Rank is out of range; expected 1 to 1024; got 0."]),
        (["--rank", "many"], ["rank: Rank cannot be read; expected a whole number; got 'many'."]),
        (["--learning-rate", "nan"], ["learning_rate: Learning rate is out of range; expected 0 to 10; got nan."]),
        (["--resolution", "500"], ["resolution: Resolution must be a multiple of 64; got 500."]),
        (["--rank", "0", "--set", "alpha=x"], ["rank: ", "alpha: "]),
        (["--rank"], ["command line: argument --rank: expected one argument"]),
        (["--config", "nowhere.json"], ["config: nowhere.json cannot be read (No such file"]),
    ],
)
def test_what_is_wrong_is_said(words: list[str], said: list[str]) -> None:
    problems = problems_of(*words)
    assert len(problems) == len(said)
    for problem, start in zip(problems, said, strict=True):
        assert problem.startswith(start)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{rank: 1}", "is not JSON"),
        ("a.toml", "rank == 1", "is not TOML"),
        ("b.json", "[1]", "holds no settings"),
        ("c.json", '{"data": {"rank": 4}}', "data.rank: there is no such setting"),
        ("d.json", '{"rank": [4]}', "rank: Rank cannot be read"),
        ("e.json", '{"datta": {"images": "x"}}', "datta: there is no such setting"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    (problem,) = problems_of("--config", str(tmp_path / name))
    assert said in problem


def test_an_unknown_command_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: trian: there is no such command. Did you mean train?\n"
