"""The rooms: which part of the package may import which, read off the syntax trees, and that no imports go in a circle.

Imports inside functions count as well.  A module is named as it is imported (``stepsmith.runtime.grid``), its room is the second
part of that name.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import stepsmith

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "stepsmith.derive": ROOT / "derive",
    "stepsmith.templates": ROOT / "templates",
    "stepsmith.generated": ROOT / "generated",
    "stepsmith.runtime": ROOT / "runtime",
    "stepsmith.measure": ROOT / "measure",
    "stepsmith.cli": ROOT / "src" / "stepsmith" / "cli",
}

# The only imports of a room beside the standard library and itself.  The command line and the root may import all.
ALLOWED = {
    "stepsmith.generated": "torch",
    "stepsmith.runtime": (
        "stepsmith stepsmith.errors stepsmith.files stepsmith.generated torch numpy tqdm safetensors PIL onnxruntime"
    ),
    "stepsmith.measure": (
        "stepsmith.errors stepsmith.loading stepsmith.runtime stepsmith.derive stepsmith.templates torch numpy scipy"
    ),
    "stepsmith.derive": "stepsmith stepsmith.errors sympy mpmath flint numpy",
    "stepsmith.templates": "stepsmith.errors stepsmith.files stepsmith.derive sympy mpmath jinja2 markupsafe latex2mathml",
    "stepsmith.templates.torch": "torch",  # text of the emitted modules, never imported
    "stepsmith.templates.hosts": "stepsmith.generated torch tqdm diffusers comfy",  # the same
}
# Of the standard library a room may import all, but for these.
STANDARD = {"stepsmith.generated": {"math"}, "stepsmith.templates.torch": {"math"}}
# The only modules of derive that templates may import, and the only modules of measure that may import derive and templates.
DERIVE_FOR_TEMPLATES = ("stepsmith.derive.maths", "stepsmith.derive.program", "stepsmith.derive.sde.forms")
PROOFS_IN_MEASURE = {"stepsmith.measure.orders", "stepsmith.measure.coefficients"}

# Folders of a room, the lower first: a module imports its own folder and those below.  What stands in none is free.  Names
# that share a string share a floor: they import one another only where that makes no circle.
ORDER = {
    "stepsmith": ("errors", "files", "derive", "templates", "measure", "executed", "certificate", "cli"),
    "stepsmith.derive": (
        "maths",
        "spec",
        "sde",
        "sampler",
        "program",
        "lower",
        "proofs",
        "orders",
        "given describe",
        "formulas",
        "method",
        "report catalogue",
    ),
    "stepsmith.derive.sde": (
        "equations",
        "schedule stationary smooth",
        "closed",
        "offset",
        "forms",
        "numeric",
        "sound",
        "linear",
        "load",
    ),
    "stepsmith.runtime": (
        "networks",
        "grid_checks roots",
        "grid",
        "constants",
        "modules",
        "noise",
        "plan",
        "watch",
        "inplace",
        "sampler",
        "shards",
    ),
}
NO_CIRCLE = ("stepsmith.derive", "stepsmith.templates", "stepsmith.runtime", "stepsmith.measure", "stepsmith.cli")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    own = ("errors", "files", "executed", "certificate")
    found = {f"stepsmith.{name}": ROOT / "src" / "stepsmith" / f"{name}.py" for name in own}
    for room, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((room, *parts)).removesuffix(".__init__")] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports: modules of the package by their full names, others by the first part."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = {full for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for full in named(node, package)}
    return frozenset(full if full.startswith("stepsmith") else full.partition(".")[0] for full in found) - {
        "__future__"
    }


def named(node: ast.AST, package: str) -> Iterator[str]:
    """The modules that an import statement names; ``from a import b`` is a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (full if (full := f"{base}.{alias.name}") in modules() else base for alias in node.names)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def of(room: str) -> list[str]:
    return [name for name in modules() if within(name, room)]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    standard = STANDARD.get(room, sys.stdlib_module_names)
    allowed = set(ALLOWED[room].split())
    inside = [other for other in ALLOWED if other != room and within(other, room)]
    assert of(room)
    for name in of(room):
        if any(within(name, other) for other in inside):
            continue
        for target in imports(name):
            assert not any(within(target, other) for other in inside), f"{name} imports {target}"
            parts = {target, ".".join(target.split(".")[:2])} if target != "stepsmith" else {target}
            assert within(target, room) or target in standard or parts & allowed, f"{name} imports {target}"


def test_templates_read_only_the_program_types_of_derive_and_measure_reads_derive_in_two_places() -> None:
    for name in of("stepsmith.templates"):
        for target in imports(name):
            may = any(within(target, room) for room in DERIVE_FOR_TEMPLATES)
            assert may or not within(target, "stepsmith.derive"), f"{name} imports {target}"
    for name in set(of("stepsmith.measure")) - PROOFS_IN_MEASURE:
        assert not [t for t in imports(name) if within(t, "stepsmith.derive") or within(t, "stepsmith.templates")], name


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_down_only(room: str) -> None:
    height = {f"{room}.{folder}": k for k, floor in enumerate(ORDER[room]) for folder in floor.split()}
    for folder, k in height.items():
        assert of(folder), folder
        for name in of(folder):
            for target in imports(name):
                above = [other for other in height if within(target, other) and height[other] > k]
                assert not above, f"{name} imports {target}"


@pytest.mark.parametrize("room", NO_CIRCLE)
def test_no_imports_go_in_a_circle(room: str) -> None:
    graph = {name: {t for t in imports(name) if within(t, room) and t != name} for name in of(room)}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_the_reading_sees_every_way_to_import() -> None:
    text = (
        "import a.b\nfrom . import grid\nfrom .networks.base import Network\nfrom stepsmith.runtime import plan, load\n"
    )
    found = {full for node in ast.walk(ast.parse(text)) for full in named(node, "stepsmith.runtime")}
    runtime = {f"stepsmith.runtime.{name}" for name in ("grid", "networks.base", "plan")}
    assert found == {"a.b", "stepsmith.runtime", *runtime}


def test_the_stub_for_editors_names_what_the_package_gives():
    source = ast.parse((ROOT / "src" / "stepsmith" / "__init__.pyi").read_text())
    named = {alias.asname for node in source.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named | {"__version__"} == set(stepsmith.__all__)
    for name in named:
        assert getattr(stepsmith, name) is not None


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_script_of_benchmarks_imports_what_is_there(script: Path) -> None:
    taken = [
        node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    for node in taken:
        room = str(node.module)
        if room.partition(".")[0] == "stepsmith":
            module = importlib.import_module(room)
            assert all(hasattr(module, alias.name) or f"{room}.{alias.name}" in modules() for alias in node.names), room
        else:
            assert importlib.util.find_spec(room.partition(".")[0]), f"{script.name}: {room}"
