"""What a text does not use is left out of it: functions, classes, methods, and what a constructor computes for nobody.

The core (torch/core/) and the class Diffusion are written whole; a module keeps what its public functions reach.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path


def _definitions(file: str) -> str:
    """A file of the core from its first function on: what a module's tables are computed with."""
    text = Path(__file__).with_name("torch").joinpath("core", file).read_text(encoding="utf-8")
    return "def " + text.partition("\ndef ")[2]


CORE = "\n\n".join(map(_definitions, ("quadrature.py", "linear.py", "law.py")))
PUBLIC = frozenset(
    ("start", "start_data", "start_mean", "transition", "coefficients", "step", "step_first", "step_last", "nfe", "denoise")
)


def shaken(text: str) -> str:
    """The definitions of a text that PUBLIC reaches, two blank lines between them, one between methods."""
    tree, lines, out = ast.parse(text), text.split("\n"), set[int]()
    while unused := set(_unused(tree)):
        for node in unused:
            first = node.lineno - 1
            while lines[first - 1].lstrip().startswith("#"):  # what is said of it
                first -= 1
            out.update(range(first, node.end_lineno or first))
        for body in _bodies(tree):
            body[:] = [node for node in body if node not in unused]
    text = "\n".join(line for number, line in enumerate(lines) if number not in out)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return re.sub(r"\n\n+(?=(def|class) )", "\n\n\n", text).strip("\n") + "\n"


def _bodies(tree: ast.Module) -> list[list[ast.stmt]]:
    """Where a definition or an assignment may go: the text, its classes and their constructors."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [
        tree.body,
        *(node.body for node in classes),
        *(init.body for node in classes for init in _constructors(node)),
    ]


def _constructors(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [method for method in node.body if isinstance(method, ast.FunctionDef) and method.name == "__init__"]


def _unused(tree: ast.Module) -> Iterator[ast.stmt]:
    """Definitions and assignments that nothing reads."""
    nodes = list(ast.walk(tree))
    names = {name for node in nodes if isinstance(node, ast.FunctionDef) for name in _free(node)}
    attributes = _attributes(nodes)
    for node in tree.body:
        if _name(node) not in {*names, *PUBLIC, None}:
            yield node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name != "__init__" and method.name not in attributes:
                    yield method
            for method in _constructors(node):
                read = {name for line in method.body for name in _read(line)}
                yield from (line for line in method.body if _idle(line, read, attributes))


def _name(node: ast.stmt) -> str | None:
    """What a line at the top imports or defines; None for a constant, which is public."""
    if isinstance(node, ast.Import):
        return node.names[0].name
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else None


def _idle(line: ast.stmt, read: set[str], attributes: set[str]) -> bool:
    """Whether a line only gives values to variables and attributes that nothing reads, but for what gives them new ones."""
    targets = _targets(line)
    return bool(targets) and all(
        e.id not in read if isinstance(e, ast.Name) else isinstance(e, ast.Attribute) and e.attr not in attributes
        for e in targets
    )


def _targets(line: ast.AST) -> list[ast.expr]:
    if not isinstance(line, ast.Assign):
        return []
    return line.targets[0].elts if isinstance(line.targets[0], ast.Tuple) else line.targets


def _read(line: ast.stmt) -> set[str]:
    """The names that a line reads, but for those that it gives a new value."""
    read = {e.id for e in ast.walk(line) if isinstance(e, ast.Name) and isinstance(e.ctx, ast.Load)}
    return read - {e.id for e in _targets(line) if isinstance(e, ast.Name)}


def _free(function: ast.FunctionDef) -> set[str]:
    """The names that a function reads and neither takes nor gives a value."""
    nodes = list(ast.walk(function))
    names = [e for e in nodes if isinstance(e, ast.Name)]
    own = {e.id for e in names if isinstance(e.ctx, ast.Store)} | {e.arg for e in nodes if isinstance(e, ast.arg)}
    return {e.id for e in names if isinstance(e.ctx, ast.Load)} - own


def _attributes(nodes: list[ast.AST]) -> set[str]:
    """The attributes that are read, but for ``self.a = other.a``."""
    own = {
        id(line.value)
        for line in nodes
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Attribute)
        and [e.attr for e in _targets(line) if isinstance(e, ast.Attribute)] == [line.value.attr]
    }  # fmt: skip
    read = (e for e in nodes if isinstance(e, ast.Attribute) and isinstance(e.ctx, ast.Load))
    return {e.attr for e in read if id(e) not in own}
