"""Other trainers' files on the command line: `--config`, `convert`, and `data` before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.cli import main
from lora_ext.cli.flags import Parser, parse, values
from lora_ext.cli.train import TrainCommand, add
from lora_ext.config import read
from lora_ext.config_import import read_foreign

FILES = Path(__file__).parent.parent / "config_import" / "files"


def given(*words: str) -> dict[str, object]:
    parser = Parser(prog="train", allow_abbrev=False)
    add(parser)
    return values(parse(parser, list(words)), TrainCommand)


@pytest.mark.parametrize("name", ["kohya_form.json", "sd_scripts.toml", "lora_scripts.toml", "hcp.yaml"])
def test_config_takes_them_and_flags_beat_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = given("--config", str(FILES / name), "--rank", "5", "--output", "mine")
    foreign = read_foreign(FILES / name)
    assert found == {**foreign.settings, "rank": "5", "output": "mine"}
    told = capsys.readouterr().err
    assert foreign.origin in told
    assert all(entry.key in told for entry in foreign.refused)
    config = read(TrainCommand, found)
    assert (config.run.network.rank, config.model.checkpoint) == (5, foreign.settings["checkpoint"])


def test_data_sets_as_tables(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("rank = 4\n[[datasets]]\nimages = 'D:\\dogs'\nrepeats = 2\n[[datasets]]\nimages = \"it's\"\n")
    assert given("--config", str(file)) == {
        "rank": 4,
        "datasets": "images = 'D:\\dogs', repeats = 2\nimages = \"it's\"",
    }


def test_convert_tells_of_every_key_and_writes_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = tmp_path / "new" / "ours.toml"
    assert main(["convert", str(FILES / "kohya_form.json"), "--output", str(ours)]) == 0
    told = capsys.readouterr().out
    assert all(f"  {key}: " in told for key in json.loads((FILES / "kohya_form.json").read_text()))
    foreign = read_foreign(FILES / "kohya_form.json")
    assert read(TrainCommand, given("--config", str(ours))) == read(TrainCommand, foreign.settings)
    assert main(["convert", str(FILES / "kohya_form.json"), "--output", str(ours)]) == 2
    assert "already there" in capsys.readouterr().err


def test_convert_writes_sd_scripts_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps({"images": "cats", "output": "cat", "rank": 9, "upscale_limit": 2.5}))
    assert main(["convert", str(ours), "--sd-scripts", str(tmp_path / "out")]) == 0
    assert "no words for upscale_limit" in capsys.readouterr().err
    found = given("--config", str(tmp_path / "out" / "config.toml"))
    assert (found["images"], found["rank"], found["output"]) == ("cats", 9, "cat")
    ours.write_text('{"rnak": 9}')
    assert main(["convert", str(ours)]) == 2
    assert "rnak" in capsys.readouterr().err


def test_data_reports_before_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "10_cat"
    folder.mkdir()
    for i in range(2):
        Image.linear_gradient("L").resize((64, 64)).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("word " * 90)
    assert main(["data", "--images", str(tmp_path), "--resolution", "64"]) == 0
    told = capsys.readouterr().out
    for part in (
        "2 pictures, 20 seen per epoch",
        "90 tokens, the model sees 75",
        "Look the same: 10_cat/0.png, 10_cat/1.png",
    ):
        assert part in told
    assert main(["data", "--images", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
