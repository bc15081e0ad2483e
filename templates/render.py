"""StepProgram -> the text of a module that stands on torch and math alone."""

from __future__ import annotations

import functools
import re
import textwrap
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stepsmith.derive.maths.budget import within
from stepsmith.derive.program.forms import last_layout, layout
from stepsmith.derive.program.rows import Rows
from stepsmith.errors import Unsupported

from .diffusion import DiffusionText
from .host import HostText
from .layout import nfe, places, row_names, step_names
from .naming import Naming, attribute, data_first, table_axes
from .printer import listed
from .steps import last_lines, step_lines
from .table import TableText

DIALECTS = ("torch",)

# What each helper of the core stands on.
BELOW = {
    "integral": ("gauss",),
    "log_integral": ("gauss",),
    "antiderivative": ("integral",),
    "smooth": ("tail",),
    "tail": ("gauss",),
    "phi": ("gauss",),
    "evolve": ("tail", "propagate", "matrix"),
    "spread": ("columns", "lower"),
    "upper": ("lower",),
    "Law": ("gauss", "propagate", "columns", "upper", "lower", "matrix"),
    "denoiser": ("Z", "lead"),
    "edm": ("denoiser",),
    "transition": ("pieces",),
    "flow": ("nodes", "pieces"),
    "driven": ("nodes", "pieces", "lead"),
    "gddim": ("flow",),
    "frame_bridge": ("nodes", "lead"),
    "frame_eps": ("nodes",),
    "nodes": ("Z", "pieces"),
    "propagate_law": ("pieces",),
    "offset_nodes": ("pieces",),
}


@functools.cache
def environment() -> Environment:
    """The Jinja environment: undefined names are errors, blocks leave no blank lines behind."""
    return Environment(
        loader=PackageLoader("stepsmith.templates", "torch"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip


@within("the emission")
def emit(method: Any, dialect: str = "torch") -> str:
    """The emitted module of a Method as text; the same bytes for the same method, whatever the process.

    Raises Unsupported for a dialect that is not built.
    """
    if dialect not in DIALECTS:
        raise Unsupported(f"no dialect {dialect!r}", f"use {', '.join(DIALECTS)}")
    rows: Rows = method.rows
    needs: set[str] = {"Law"} if method.sde.n > 1 else set()
    diffusion = DiffusionText(method.sde, rows.params, needs)
    if method.sde.n > 1 and not diffusion.smooth:
        needs.add("smooth")
    columns = column_names(rows)
    tables = _tables(method, diffusion, needs, columns)
    body = _body(method, diffusion, tables, columns, needs)
    env = environment()
    return env.get_template("module.jinja").render(
        title=prose(method.title),
        about=[prose(line) for line in method.about],
        constants=_constants(method, columns),
        body=body,
    )


def literal(text: str) -> str:
    """A text as a string literal of Python, in double quotes and ASCII."""
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def prose(text: str) -> str:
    """A line of a docstring: it cannot end the docstring, and what does not print is escaped."""
    quoted = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in quoted)


def _message(text: str) -> str:
    """A literal, broken into several where it is long."""
    if len(text) < 85:
        return literal(text)
    lines = [text[k : k + 95] for k in range(0, len(text), 95)]
    return "\n" + "\n".join(f"                {literal(line)}" for line in lines) + "\n            "


def column_names(rows: Rows) -> tuple[str, ...]:
    """The columns of the emitted table, in the order in which the steps read them, those of ``denoise`` last."""
    names = {name: None for _, program in step_names(rows) for name in layout(program).columns}
    return tuple({**names, **dict.fromkeys(last_layout(rows.step).columns)})


def _tables(method: Any, diffusion: DiffusionText, needs: set[str], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The text of the rows of each program."""
    rows: Rows = method.rows
    axes = table_axes(list(rows), method.sde)
    own = frozenset({*rows.params, *method.sde.let, *filter(None, [method.sde.field])})
    naming = Naming(own, "sde", data_first(method.sde), axes)
    tables: list[dict[str, Any]] = []
    for name, program in zip(row_names(rows), rows, strict=True):
        if name in [table["name"] for table in tables]:
            continue
        host = HostText(program, method.sde, naming, diffusion.numbers, tuple(diffusion.timed), needs)
        text = TableText(host, columns)
        lines = text.lines()
        words = "the rows in between" if name == "other_rows" else f"the {name.replace('_', ' ')}"
        tables.append({"name": name, "words": words, "lines": "\n".join(lines).split("\n"), "back": text.back})
    return tables


def _body(
    method: Any, diffusion: DiffusionText, tables: list[dict[str, Any]], columns: tuple[str, ...], needs: set[str]
) -> str:
    """Everything behind the constants."""
    sde, rows, order = method.sde, method.rows, data_first(method.sde)
    program = rows.step
    methods = diffusion.methods
    if any("phi(" in line for table in tables for line in table["lines"]):
        needs.add("phi")
    _close(needs)
    init = [*diffusion.attributes]
    if sde.field:
        init.append(f"self.{attribute(sde.field)} = torch.as_tensor({sde.field}, dtype=torch.float64).cpu()")
    if sde.n > 1:
        init.append(f"self.L0 = {diffusion.L0}")
    if "smooth" in needs:
        init.append(f"self.change = smooth(lambda t: {diffusion.rates}) / (END - START)  # panels a unit of time")
    test, words = diffusion.constraints
    place = [order.index(i) for i in range(sde.n)] if order else None
    steps = [
        {
            "name": name,
            "doc": _step_doc(name, each),
            "lines": "\n".join(step_lines(each, layout(each), columns)).split("\n"),
        }
        for name, each in step_names(rows)
    ]
    context = {
        "needs": needs, "n": sde.n, "sde": sde, "order": order, "constants": len(sde.constant) + 1,
        "data_rows": f": {len(sde.data)}".replace(" ", "") , "back_columns": "[..., PLACE]" if order else "",
        "states": lambda text: f"{text}[..., PLACE, :]" if order else text,
        "diffusion": {
            "doc": _diffusion_doc(sde), "arguments": diffusion.arguments, "init": init, "test": test,
            "words": _message(f"the parameters must fulfil {words}"), "methods": methods,
        },
        "field": sde.field, "field_attribute": attribute(sde.field) if sde.field else "",
        "made": f"Diffusion({f'{sde.field}={sde.field}, ' if sde.field else ''}**{{**PARAMS, **params}})",
        "offset": "offset" in needs, "rows": tables, "places": places(rows), "warm": len(rows.warmup),
        "back": sorted({int(name[-1]) for table in tables for name in table["back"]}),
        "steps": steps, "nfe": nfe(rows),
        "last": "\n".join(last_lines(program, sde, columns)).split("\n") if program.last else [],
    }  # fmt: skip
    text = environment().get_template("body.jinja").render(**context)
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    text = f"PLACE = {place}  # where the blocks stand with the data first\n" + text if order else text
    return _pruned(text).rstrip("\n")


def _close(needs: set[str]) -> None:
    """The helpers that the helpers need."""
    while more := {below for name in needs for below in BELOW.get(name, ())} - needs:
        needs |= more


def _pruned(text: str) -> str:
    """Without the methods of the class Diffusion that nothing calls."""
    start, end = (
        text.index("class Diffusion"),
        re.search(r"\n\n\n(?=def |class )", text[text.index("class Diffusion") :]),
    )
    stop = start + (end.start() if end else len(text))
    head, inside, tail = text[:start], text[start:stop], text[stop:]
    parts = re.split(r"\n\n(?=    def )", inside)
    while True:
        kept = [
            p
            for p in parts
            if not (m := re.match(r"    def (\w+)\(", p)) or m[1] == "__init__" or _called(m[1], tail, parts, p)
        ]
        if len(kept) == len(parts):
            return head + "\n\n".join(parts) + tail
        parts = kept


def _called(name: str, tail: str, parts: list[str], own: str) -> bool:
    pattern = rf"\b(?:sde|self)\.{name}\b"
    return bool(re.search(pattern, tail)) or any(re.search(pattern, p) for p in parts if p is not own)


def _diffusion_doc(sde: Any) -> str:
    offset = not sde.offset_let.is_zero_matrix
    if sde.n > 1:
        return f"dz = {'(F z + b)' if offset else 'F z'} dt + G dw, from the covariance L0 L0^T at START."
    return f"z_t = alpha data + {'offset + ' if offset else ''}sigma noise."


def _step_doc(name: str, program: Any) -> str:
    what = {"step": "One step", "step_first": "The first step", "step_last": "The last step"}[name]
    names = ", ".join(program.components)
    one = f"the state {names}" if len(program.components) == 1 else f"the state ({names})"
    shape = "(batch, ...)" if len(program.components) == 1 else "each (batch, ...)"
    return f"{what} of {one}, {shape}; `c` an unbound row of the table.  Returns (state, history)."


def _constants(method: Any, columns: tuple[str, ...]) -> list[str]:
    """The contract, a constant a line."""
    rows, sde = method.rows, method.sde
    program = rows.step
    quoted = lambda names: listed(map(literal, names))  # noqa: E731
    lines = [
        "API = 1", f"SDE = {literal(sde.name)}", f"SAMPLER = {literal(method.sampler.name)}",
        f"NETWORK = {literal(method.network_name)}",
        f"NFE = {program.nfe}", f"DRAWS = {len(layout(program).draws)}",
    ]  # fmt: skip
    for name, each in step_names(rows)[1:]:
        end = name[5:].upper()
        lines += [f"NFE_{end} = {each.nfe}", f"DRAWS_{end} = {len(layout(each).draws)}"]
    lines += [f"HISTORY = {len(program.history)}"]
    lines += [f"{name} = {getattr(method, name.lower())}" for name in ("ORDER", "WEAK_ORDER", "STRONG_ORDER")]
    lines.append(f"COMPONENTS = {quoted(program.components)}")
    if sde.constant:
        lines.append(f"CONSTANTS = {quoted(sde.constant)}  # components that are given and never change")
    if sde.field:
        lines.append(
            f"FIELD = {literal(sde.field)}  # what differs from frequency to frequency: the eigenvalue of minus the Laplacian"
        )
    lines += [f"DATA = {sde.data[0]}", f"INPUTS = {method.inputs}", f"OUTPUTS = {method.outputs}"]
    one = f"COEFFICIENTS = {quoted(columns)}"
    split = [
        "COEFFICIENTS = tuple(",
        '    """',
        *textwrap.wrap(" ".join(columns), 110, initial_indent="    ", subsequent_indent="    "),
        '    """.split()',
        ")",
    ]
    lines += [one] if "\n" not in one else split
    lines.append(f"SIGMA_COLUMNS = {quoted([name for name in program.sigma_columns if name in columns])}")
    lines.append("PARAMS = " + listed([f"{literal(k)}: {v!r}" for k, v in rows.params.items()], "{}"))
    lines.append(f'DIGEST = "{method.digest}"')
    lines.append(f"START, END = {sde.time[0]}, {sde.time[1]}  # the span of the network's time")
    return lines


__all__ = ["emit"]
