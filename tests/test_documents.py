"""What README.md and docs/ say exists: links, commands with their flags, kinds of adapters, addresses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_ext.adapters import ADAPTER_KINDS
from lora_ext.cli import COMMANDS
from lora_ext.config import CheckpointConfig, CompareConfig, GenerateConfig, TrainConfig, UiConfig, settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
NOT_OURS = {"--lowvram", "--api-auth", "--gradio-allowed-path"}
"""The WebUI's own."""


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf8")


def commands() -> list[list[str]]:
    """The words of every `python -m lora_ext …` (or a launcher's) in a block of code."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                _, ours, words = line.partition("-m lora_ext ")
                if ours:
                    found.append(words.split())
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def flags(*configs: type) -> set[str]:
    return {"--" + name.replace("_", "-") for config in configs for name in settings(config)}


FLAGS = {
    "train": flags(TrainConfig, CheckpointConfig) | {"--config", "--set", "--dry-run"},
    "data": flags(TrainConfig) | {"--config", "--set"},
    "generate": flags(GenerateConfig),
    "compare": flags(CompareConfig) | {"--prompt"},
    "convert": {"--output", "--sd-scripts"},
    "info": {"--json"},
    "ui": flags(UiConfig),
}


def test_every_command_has_the_flags_it_is_shown_with() -> None:
    shown = commands()
    assert {words[0] for words in shown} == set(COMMANDS), "each command is shown, and no other"
    for command, *words in shown:
        assert {word for word in words if word.startswith("--")} <= FLAGS.get(command, set()), f"{command} {words}"


def test_every_flag_that_is_named_is_a_setting() -> None:
    known = FLAGS["train"] | FLAGS["compare"] | {"--help", "--nproc-per-node"} | NOT_OURS
    prose = re.sub(r"```.*?```", "", text("docs/experts.md"), flags=re.S)
    prose = re.sub(r"`a cat --w [^`]*`", "", prose)  # the end of a preview's line
    assert set(FLAG.findall(prose)) <= known


def test_every_kind_is_in_the_table() -> None:
    named = re.findall(r"^\| `(\w+)`", text("docs/experts.md"), re.M)
    assert sorted(named) == sorted(ADAPTER_KINDS)


def test_every_address_exists(tmp_path: Path) -> None:
    fastapi = pytest.importorskip("fastapi", reason="NOT CHECKED: the addresses in docs/experts.md need fastapi")
    from lora_ext import api

    app = fastapi.FastAPI()
    api.mount(app, api.make_service(lambda: pytest.fail("no model is needed"), lambda: tmp_path, lambda path: None))
    there = {(method, route.path) for route in app.routes for method in getattr(route, "methods", ())}
    named = set(re.findall(r"(GET|POST|PUT|DELETE) (/lora-ext/v1/[\w./]+)", text("docs/experts.md")))
    assert len(named) > 15
    assert named <= there
