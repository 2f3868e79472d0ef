"""Every text of ours that the tab may show, as the sources have it: what a localization has to hold."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from lora_ext.config import TrainConfig, settings
from lora_ext.training.estimate import CHANGES
from lora_ext.ui.widgets import hint

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    p for p in (ROOT / "javascript").glob("lora_ext*.js") if p.stem not in ("lora_ext_cards", "lora_ext_library")
)
PAGES = sorted((ROOT / "lora_ext" / "ui").glob("*.py"))
PRESETS = [ROOT / "lora_ext" / "presets" / f"{name}.py" for name in ("choose", "fitting", "recipes")]

SAYING = [
    ROOT / "lora_ext" / name
    for name in (
        "api/captioning.py", "api/choice.py", "api/moving.py", "api/picking.py", "api/reach.py", "api/sheets.py",
        "api/waiting.py", "config/reading.py", "data/caption_source.py", "data/editing/bulk.py",
        "data/editing/caption_files.py", "data/editing/desk.py", "data/editing/pattern.py", "data/editing/receiving.py",
        "data/editing/saving.py", "data/latents.py", "data/picture_file.py", "data/report.py", "data/set_scan.py",
        "captioner/fetching.py", "data/tagging/run.py", "data/tagging/wd.py", "hosts/blip.py",
        "hosts/webui/captioners.py", "hosts/webui/words.py",
        "formats/atomic.py", "hosts/webui/live.py", "model/detection.py", "model/heads.py", "presets/shelf.py",
        "training/caption_supply.py", "training/captions.py", "training/check.py", "training/material.py",
        "training/comparison.py", "training/creation.py", "training/keeper.py", "training/loop.py",
        "training/optimizer.py", "training/pace.py", "training/pictured.py",
        "training/queue.py", "training/run.py", "training/state.py",
    )
]  # fmt: skip
"""Whose problems and notices a newcomer meets: they come from the server in English and are told anew in the page."""

_JOINED = (
    "{0}: {1} GB instead of {2} GB.",
    "{0} and {1} more ({2} in all)",
    "the file cannot be read: it is empty",
    "Picture skipped: {0} ({1}).",
)
"""What is put together from parts in several places."""

_CALLED = re.compile(r'\bt\(\s*"((?:[^"\\]|\\.)*)"')
_MARKS = re.compile(r"const (?:MARKS|PLACES|BECAME|KINDS|TOLD) = {(.*?)};", re.DOTALL)
_VALUE = re.compile(r':\s*"((?:[^"\\\n]|\\.)*)"')
_LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_TEXT = re.compile(r"(?:\{\d\}\S* |[A-Z“(])[^<>=#;|_]*[a-z…:.)”}][^<>=#;|_]*")
_SENTENCE = re.compile(r"[A-Z][^<>{}\n]* [^<>{}\n]*\.")
_KEYS = {
    "Arrow", "Backspace", "Delete", "Ctrl", "Home", "End", "Enter", "Escape", "Page", "Shift", "Tab", "Space", "Intl",
    "Error", "Content", "Blob", "Promise", "KeyZ", "KeyY",
}  # fmt: skip
_GRADIO = {"Button", "Textbox", "Dropdown", "Checkbox", "Number", "File", "Accordion", "Tab", "Radio"}
_SAID = ("label", "placeholder", "info", "value")
_NOT_SHOWN = {"Values to set", "Set values", "D:/training/config.toml", "Failed to fetch"}


def texts() -> set[str]:
    """All of them, in English."""
    found = {text for s in settings(TrainConfig).values() for text in (s.label, hint(s)) if text}
    for path in SCRIPTS:
        found |= set(_of_script(path.read_text("utf-8")))
    for path in PAGES:
        found |= set(_of_page(path.read_text("utf-8")))
    for path in PRESETS:
        found |= set(_of_preset(path.read_text("utf-8")))
    for path in SAYING:
        found |= set(_of_problems(path.read_text("utf-8")))
    found |= {text for _, text, _ in CHANGES} | set(_JOINED)
    return {text for text in found if re.search(r"[A-Za-z]{2}|} [A-Za-z]", text)} - _NOT_SHOWN


def _of_script(source: str) -> Iterator[str]:
    """What is handed to `t`, and what looks like a sentence or a title in a table of texts."""
    source = re.sub(r"^\s*//.*$", "", source, flags=re.MULTILINE)
    yield from (_plain(text) for text in _CALLED.findall(source))
    for table in _MARKS.findall(source):
        yield from _VALUE.findall(table)
    for text in _LITERAL.findall(source):
        if _TEXT.fullmatch(text) and not any(re.fullmatch(rf"{key}\w*", text) for key in _KEYS):
            yield _plain(text)


def _plain(text: str) -> str:
    return text.replace('\\"', '"').replace("\\n", "\n")


class _Nodes(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.options: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("title", "placeholder", "aria-label")]

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        (self.options if self.lasttag == "option" and text else self.found).append(text)


def _of_page(source: str) -> Iterator[str]:
    """Text nodes of fixed HTML, and what gradio's components are given to show."""
    tree = ast.parse(source)
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in notes
            and "<" in node.value
        ):
            nodes = _Nodes(node.value)
            found = (text for text in nodes.found if '"' not in text)
            yield from (text for text in found if _TEXT.fullmatch(text) or " " in text)
            yield from nodes.options
        if isinstance(node, ast.Constant) and id(node) not in notes and _SENTENCE.fullmatch(str(node.value)):
            yield str(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _GRADIO:
            given = [*node.args[:1], *(word.value for word in node.keywords if word.arg in _SAID)]
            yield from (one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str))
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Dict):
            values = [v.value for v in node.value.values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
            yield from (value for value in values if _TEXT.fullmatch(value) or re.fullmatch(r"\d [A-Z]\w+", value))


def _of_preset(source: str) -> Iterator[str]:
    """Templates of sentences: whatever ends like one and is no docstring."""
    tree = ast.parse(source)
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        said = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes
        if said and node.value.endswith(".") and " " in node.value:
            yield node.value


def _of_problems(source: str) -> Iterator[str]:
    """Templates of what is wrong and what to do, sentence by sentence; notices end with the names they are about."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from _of_call(node)
        if isinstance(node, ast.Yield) and node.value:
            yield from (one for one in _sentences(_template(node.value)) if one.endswith((".", ": {2}")))
        if isinstance(node, ast.Assign):
            for name, value in _assigned(node):
                if name in ("fix", "how", "what", "why"):
                    yield from _sentences(_template(value.left if isinstance(value, ast.BinOp) else value))
        if isinstance(node, ast.FunctionDef) and node.name == "_reason":
            yield from (_template(one.value) for one in ast.walk(node) if isinstance(one, ast.Return) and one.value)


def _assigned(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    """`a = 1` and `a, b = 1, 2` by name."""
    target, value = node.targets[0], node.value
    pairs = [(target, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = list(zip(target.elts, value.elts, strict=True))
    yield from ((getattr(one, "id", ""), given) for one, given in pairs)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    named = {word.arg: word.value for word in node.keywords}
    if called == "Problem":
        given = [*node.args[1:2], *node.args[4:], *(named[name] for name in ("what", "fix") if name in named)]
        yield from (sentence for one in given for sentence in _sentences(_template(one)))
    if called in ("Notice", "Stage") and node.args:
        yield from _sentences(_template(node.args[0]))
    if called == "append" and ast.unparse(node.func).endswith("assumed.append"):
        yield from map(_template, node.args)
    if called in ("bad", "Skipped", "_bad"):
        given = [*node.args[1:], *(named[name] for name in ("what", "fix") if name in named)]
        yield from filter(None, map(_template, given))
    if called == "add" and len(node.args) == 2:
        what = _template(node.args[0])
        if what:
            yield f"{what}: {{{what.count('{')}}}."


def _sentences(text: str) -> Iterator[str]:
    yield from filter(None, re.split(r"(?<=[.!?]) (?=[A-Z])", text.strip()))


def _template(node: ast.expr) -> str:
    """`f"{a} of {b}"` as `{0} of {1}`; empty for what is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return _filled("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
    return ""


def _filled(text: str) -> str:
    numbers = itertools.count()
    return re.sub(r"\{\}", lambda _: f"{{{next(numbers)}}}", text)
