"""What a text does not use is left out of it: functions, classes, methods, and what a constructor computes for nobody.

The core (torch/core.py) and the class Diffusion are written whole; a module keeps what its public functions reach.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CORE = "def " + Path(__file__).with_name("torch").joinpath("core.py").read_text(encoding="utf-8").partition("\ndef ")[2]
PUBLIC = frozenset(("start", "start_mean", "coefficients", "step", "step_first", "step_last", "nfe", "denoise"))


def shaken(text: str) -> str:
    """The definitions of a text that PUBLIC reaches, two blank lines between them, one between methods."""
    while unused := list(_unused(ast.parse(text))):
        lines = text.split("\n")
        for node in reversed(unused):
            first = node.lineno - 1
            while lines[first - 1].lstrip().startswith("#"):  # what is said of it
                first -= 1
            del lines[first : node.end_lineno]
        text = "\n".join(lines)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return re.sub(r"\n\n+(?=(def|class) )", "\n\n\n", text).strip("\n") + "\n"


def _unused(tree: ast.Module) -> Iterator[ast.stmt]:
    """Definitions and assignments that nothing reads, in the order of their lines."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = {name for function in functions for name in _names(function) - _local(function)}
    attributes = _attributes(tree)
    for node in tree.body:
        if _name(node) not in {*names, *PUBLIC, None}:
            yield node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    yield from (line for line in method.body if _idle(line, method, attributes))
                elif isinstance(method, ast.FunctionDef) and method.name not in attributes:
                    yield method


def _name(node: ast.stmt) -> str | None:
    """What a line at the top imports or defines; None for a constant, which is public."""
    if isinstance(node, ast.Import):
        return node.names[0].name
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else None


def _idle(line: ast.stmt, method: ast.FunctionDef, attributes: set[str]) -> bool:
    """Whether a line only gives values to variables and attributes that nothing reads, but for what gives them new ones."""
    targets = _targets(line)
    read = {
        name
        for other in method.body
        for name in _names(other) - {e.id for e in _targets(other) if isinstance(e, ast.Name)}
    }
    return bool(targets) and all(
        e.id not in read if isinstance(e, ast.Name) else isinstance(e, ast.Attribute) and e.attr not in attributes
        for e in targets
    )


def _targets(line: ast.AST) -> list[ast.expr]:
    if not isinstance(line, ast.Assign):
        return []
    return line.targets[0].elts if isinstance(line.targets[0], ast.Tuple) else line.targets


def _names(node: ast.AST) -> set[str]:
    """The names that are read."""
    return {e.id for e in ast.walk(node) if isinstance(e, ast.Name) and isinstance(e.ctx, ast.Load)}


def _attributes(tree: ast.AST) -> set[str]:
    """The attributes that are read, but for ``self.a = other.a``."""
    own = {
        id(line.value)
        for line in ast.walk(tree)
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Attribute)
        and [e.attr for e in _targets(line) if isinstance(e, ast.Attribute)] == [line.value.attr]
    }  # fmt: skip
    read = (e for e in ast.walk(tree) if isinstance(e, ast.Attribute) and isinstance(e.ctx, ast.Load))
    return {e.attr for e in read if id(e) not in own}


def _local(function: ast.FunctionDef) -> set[str]:
    """The parameters and the variables of a function."""
    stored = {e.id for e in ast.walk(function) if isinstance(e, ast.Name) and isinstance(e.ctx, ast.Store)}
    return stored | {e.arg for e in ast.walk(function) if isinstance(e, ast.arg)}
