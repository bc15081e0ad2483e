"""A module whose grid and parameters are chosen -> the same steps with the table of coefficients as literals.

The steps, ``denoise`` and ``nfe`` are the lines of the module itself, found in its syntax tree; the diffusion and all that
computes coefficients is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .printer import filled, listed, literal, prose
from .render import environment

STEPS = ("step", "step_first", "step_last")
KEPT = (
    "API", "SDE", "SAMPLER", "NETWORK", "NFE", "DRAWS", "NFE_FIRST", "DRAWS_FIRST", "NFE_LAST", "DRAWS_LAST", "HISTORY",
    "ORDER", "WEAK_ORDER", "STRONG_ORDER", "COMPONENTS", "CONSTANTS", "DATA", "INPUTS", "OUTPUTS", "COEFFICIENTS",
    "SIGMA_COLUMNS", "PARAMS", "DIGEST", "START",
)  # fmt: skip  # START: the line "START, END = ..."
Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Baked:
    """What is baked of the module with the text ``source``: Python floats, and the constants that differ, as text.

    ``factor`` is the lower factor of the covariance at ``times[0]``, ``gain`` and ``mean`` the rows of ``start_data`` and, where
    there is one, of ``start_mean`` there.
    ``learned``: the table is that of steps of one block that weigh every output so far, with functions of their own.
    """

    source: str
    times: Sequence[float]
    table: Rows
    factor: Rows
    gain: Rows
    mean: Rows
    constants: Mapping[str, str]
    about: Sequence[str] = ()
    network_digest: str | None = None
    note: str = ""
    learned: bool = False


def write(baked: Baked) -> str:
    """The text of the baked module."""
    tree = ast.parse(baked.source)
    constants = {**_constants(tree, baked.source), **baked.constants}
    functions = {node.name: ast.get_source_segment(baked.source, node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    paragraphs = (ast.get_docstring(tree) or "").split("\n\n")
    network = next((p for p in paragraphs if p.startswith("The network gives")), "")
    names = [name for name in (*STEPS, "nfe", "denoise") if name in functions and not baked.learned]
    random = not all(constants.get(f"DRAWS{end}", "= 0").endswith("= 0") for end in ("", "_FIRST", "_LAST"))
    carried = not constants["HISTORY"].endswith("= 0")
    return environment().get_template("baked.jinja").render(
        title=prose(paragraphs[0].rstrip(".")), about=[prose(line) for line in baked.about],
        network=[prose(line) for line in network.split("\n")], note=baked.note,
        constants=[constants[name] for name in KEPT if name in constants],
        digest="None" if baked.network_digest is None else literal(baked.network_digest),
        times=listed(map(repr, baked.times)), table=_rows(baked.table), factor=_row_of_rows(baked.factor),
        gain=_row_of_rows(baked.gain),
        mean=_row_of_rows(baked.mean) if baked.mean else "", functions=[functions[name] for name in names if functions[name]],
        learned=baked.learned, ends=_ends(functions, len(baked.table), random), random=random, carried=carried,
        given=(", noise" if random else ", ()" if carried else "") + (", history" if carried else ""),
        steps=f"{len(baked.table)} steps",
    )  # fmt: skip


def assigned(params: Mapping[str, float]) -> str:
    """Parameters and their values as a dict."""
    return listed([f"{literal(name)}: {value!r}" for name, value in params.items()], "{}")


def _constants(tree: ast.Module, source: str) -> dict[str, str]:
    """The lines of constants, by the first name that they give a value."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            first = node.targets[0].elts[0] if isinstance(node.targets[0], ast.Tuple) else node.targets[0]
            if isinstance(first, ast.Name):
                found[first.id] = ast.get_source_segment(source, node) or ""
    return found


def _ends(functions: Mapping[str, object], steps: int, random: bool) -> str:
    """The rows that have a step of their own, as the entries of a dict; a grid of one step is a first step."""
    rows = {"first": 0, "last": steps - 1} if steps > 1 else {"first": 0}
    own = [(row, f"step_{end}", f"DRAWS_{end.upper()}") for end, row in rows.items() if f"step_{end}" in functions]
    return ", ".join(f"{row}: ({step}, {draws})" if random else f"{row}: {step}" for row, step, draws in own)


def _rows(rows: Rows) -> str:
    """A tuple of rows, each from a line of its own on."""
    lines = ["("]
    for row in rows:
        wrapped = filled(map(repr, row), "     ").lstrip()
        lines.append(f"    ({wrapped if len(row) == 1 else wrapped.rstrip(',')}),")
    return "\n".join([*lines, ")"])


def _row_of_rows(rows: Rows) -> str:
    """A small matrix, on one line where it fits."""
    return listed(listed(map(repr, row)) for row in rows)
