"""What a text does not use is left out of it: functions, classes, methods, and what a constructor computes for nobody.

The core (torch/core/) and the class Diffusion are written whole; a module keeps what its public functions reach.  The class Law
of several blocks has one of two constructors: Closed where F = f(t) A with a constant A; Chain, of short pieces, elsewhere and
where the law is read inside of steps.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeGuard


def _definitions(file: str) -> str:
    """A file of the core from its first function on: what a module's tables are computed with."""
    text = Path(__file__).with_name("torch").joinpath("core", file).read_text(encoding="utf-8")
    return "def " + text.partition("\ndef ")[2]


CORE = "\n\n".join(map(_definitions, ("quadrature.py", "linear.py", "chain.py", "closed.py", "law.py")))
PUBLIC = frozenset(
    ("start", "start_data", "start_mean", "transition", "coefficients", "step", "step_first", "step_last", "nfe", "denoise")
)


@functools.cache
def core(form: str) -> str:
    """The core whose class Law begins as the class ``form``, with its docstring, its constructor and its own methods."""
    tree, text = ast.parse(CORE), CORE.split("\n")
    lines = lambda node: text[node.lineno - 1 : node.end_lineno]  # noqa: E731
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    own = {_name(node) for node in classes[form].body}
    rest = [node for node in classes["Law"].body if isinstance(node, ast.FunctionDef) and node.name not in own]
    law = ["class Law:", *lines(classes[form])[1:], *(line for node in rest for line in ("", *lines(node)))]
    functions = [line for node in tree.body if isinstance(node, ast.FunctionDef) for line in ("", "", *lines(node))]
    return "\n".join([*functions, "", "", *law])


class Uses(NamedTuple):
    """What a piece of text reads and gives a value: names, and the attributes that it reads but for ``self.a = other.a``."""

    reads: frozenset[str]
    gives: frozenset[str]
    attributes: frozenset[str]


def shaken(text: str) -> str:
    """The definitions of a text that PUBLIC reaches, two blank lines between them, one between methods."""
    tree, lines, out, uses = ast.parse(text), text.split("\n"), set[int](), functools.cache(_uses)
    while unused := set(_unused(tree, uses)):
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
    inits = [method for node in classes for method in node.body if _constructor(method)]
    return [tree.body, *(node.body for node in classes), *(method.body for method in inits)]


def _uses(node: ast.AST) -> Uses:
    """What all of a node reads and gives, the functions inside it too."""
    nodes = list(ast.walk(node))
    names = [e for e in nodes if isinstance(e, ast.Name)]
    own = {
        id(line.value)
        for line in nodes
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Attribute)
        and [e.attr for e in _targets(line) if isinstance(e, ast.Attribute)] == [line.value.attr]
    }  # fmt: skip
    return Uses(
        frozenset(e.id for e in names if isinstance(e.ctx, ast.Load)),
        frozenset([e.id for e in names if isinstance(e.ctx, ast.Store)] + [e.arg for e in nodes if isinstance(e, ast.arg)]),
        frozenset(
            e.attr for e in nodes if isinstance(e, ast.Attribute) and isinstance(e.ctx, ast.Load) and id(e) not in own
        ),
    )


def _constructor(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name == "__init__"


def _unused(tree: ast.Module, uses: Callable[[ast.AST], Uses]) -> Iterator[ast.stmt]:
    """Definitions and assignments that nothing reads."""
    definitions = [each for node in tree.body for each in (node.body if isinstance(node, ast.ClassDef) else [node])]
    pieces = [[*node.body, node.args] if _constructor(node) else [node] for node in definitions]
    found = [(node, [uses(piece) for piece in each]) for node, each in zip(definitions, pieces, strict=True)]
    attributes = {name for _, each in found for use in each for name in use.attributes}
    names = set(PUBLIC)
    for node, each in found:
        if isinstance(node, ast.FunctionDef):
            names |= frozenset().union(*(use.reads for use in each)) - frozenset().union(*(use.gives for use in each))
    for node in tree.body:
        if _name(node) not in {*names, None}:
            yield node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if _constructor(method) and not method.body:
                    yield method
                elif _constructor(method):
                    read = {name for line in method.body for name in uses(line).reads - _names(_targets(line))}
                    yield from (line for line in method.body if _idle(line, read, attributes))
                elif isinstance(method, ast.FunctionDef) and method.name not in attributes:
                    yield method


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


def _names(targets: list[ast.expr]) -> set[str]:
    return {e.id for e in targets if isinstance(e, ast.Name)}
