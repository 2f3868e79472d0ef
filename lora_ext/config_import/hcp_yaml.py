"""HCP-Diffusion's YAML: files that build on others, and values made from other values."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from lora_ext.config_import.outcome import Import
from lora_ext.errors import BadInput, Problem

DEEPEST = 20
"""Files below each other, and references in a row; more is a circle."""

_INSERT = re.compile(r"\$\{([^${}]*)\}")
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}

Tree = dict[str, object]


def load(path: Path, out: Import) -> Tree:
    """A file with what it builds on, `${…}` filled in.

    Files that are missing and values that cannot be made are refused in `out`. Raises `BadInput` for broken YAML.
    """
    tree = _load(path, out, 0)
    filled = _filled(tree, tree, out, "")
    return filled if isinstance(filled, dict) else {}


def evaluate(text: str) -> float:
    """Sums and products of numbers, as `hcp.eval` has them. Raises `ValueError` for anything else."""

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(text)

    try:
        return value(ast.parse(text, mode="eval"))
    except (SyntaxError, ZeroDivisionError, OverflowError, RecursionError) as e:
        raise ValueError(text) from e


def _load(path: Path, out: Import, depth: int) -> Tree:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, RecursionError) as e:
        said = " ".join(str(e).split())
        raise BadInput(Problem("config", f"{path} is not YAML ({said})")) from None
    except (OSError, ValueError) as e:
        raise BadInput(Problem("config", f"{path} cannot be read ({e})")) from None
    if not isinstance(raw, dict):
        raise BadInput(Problem("config", f"{path} holds no settings", "a table", type(raw).__name__))
    tree: Tree = {str(key): value for key, value in raw.items()}
    bases = tree.pop("_base_", None)
    below: Tree = {}
    for name in bases if isinstance(bases, list) else [bases] if bases else []:
        text = str(_filled(str(name), tree, out, "_base_"))
        found = next((p for folder in (path.parent, *path.parent.parents) if (p := folder / text).is_file()), None)
        if depth >= DEEPEST:
            raise BadInput(Problem("config", f"{path} builds on itself"))
        if found is None:
            out.refuse("_base_", f"{text} was not found; what it says is missing")
        else:
            below = _merged(below, _load(found, out, depth + 1))
            out.skip("_base_", "taken in")
    return _merged(below, tree)


def _merged(below: Tree, above: Tree) -> Tree:
    """Tables are joined key by key; everything else is replaced, `---` removes it."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        if value == "---":
            found.pop(key, None)
        else:
            found[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def _filled(value: object, root: Tree, out: Import, key: str) -> object:
    if isinstance(value, dict):
        return {str(k): _filled(v, root, out, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, root, out, f"{key}.{i}".lstrip(".")) for i, v in enumerate(value)]
    return _inserted(value, root, out, key) if isinstance(value, str) else value


def _inserted(text: str, root: Tree, out: Import, key: str) -> object:
    found: object = text
    for _ in range(DEEPEST):
        match = _INSERT.search(found) if isinstance(found, str) else None
        if not match or not isinstance(found, str):
            return found
        try:
            new = _made(match[1], root)
        except (KeyError, ValueError):
            break
        found = new if match[0] == found else found[: match.start()] + str(new) + found[match.end() :]
    out.refuse(key, f"{text} cannot be worked out")
    return None


def _made(inside: str, root: Tree) -> object:
    """`a.b` is another value; `hcp.eval:"512*768"` is a number; `hcp.time:` has no meaning in a name of ours."""
    name, colon, argument = inside.partition(":")
    if name.strip() == "hcp.eval":
        number = evaluate(argument.strip().strip("\"'"))
        return int(number) if number == int(number) else number
    if name.strip() == "hcp.time":
        return "run"
    if colon:
        raise ValueError(inside)
    value: object = root
    for part in name.strip().split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value[part]
        else:
            raise KeyError(part)
    return value
