"""StepProgram -> the text of a module that stands on torch and math alone."""

from __future__ import annotations

import functools
import textwrap
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stepsmith.derive.maths.budget import within
from stepsmith.derive.program.forms import last_layout, layout
from stepsmith.derive.program.rows import Rows

from .diffusion import DiffusionText
from .host import HostText, reads_nodes
from .layout import ends, nfe, places, row_names, step_names
from .naming import Naming, attribute
from .printer import listed, literal, prose, single
from .shake import core, shaken
from .steps import last_lines, step_lines
from .table import TableText
from .usage import usage


@functools.cache
def environment() -> Environment:
    """The Jinja environment: undefined names are errors, blocks leave no blank lines behind."""
    return Environment(
        loader=PackageLoader("stepsmith.templates", "torch"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip


@within("the emission")
def emit(method: Any, note: str = "") -> str:
    """The emitted module of a Method as text, a comment of one line below its docstring; the same bytes in every process."""
    sde, rows, diffusion = method.sde, method.rows, DiffusionText(method.sde, method.rows.params, reads_nodes(method.rows))
    columns = column_names(rows)
    tables = _tables(method, diffusion, columns)
    back = sorted({int(name[-1]) for table in tables for name in table["back"]})
    given = ", ".join(("t0", "t1", *(f"t_m{k}" for k in back)))
    steps = [
        {"name": name, "doc": _step_doc(name, each), "lines": single(step_lines(each, layout(each), columns))}
        for name, each in step_names(rows)
    ]
    text = environment().get_template("module.jinja").render(
        title=prose(method.title), about=[prose(line) for line in (*method.about, "", *usage(method))], note=note,
        constants=_constants(method, columns),
        sde=sde, diffusion=diffusion, core=core("Chain" if diffusion.scaled is None else "Closed"), offset=diffusion.offset,
        field=sde.field, field_attribute=attribute(sde.field) if sde.field else "", axis=1 if sde.field else -1,
        made=f"Diffusion({f'{sde.field}={sde.field}, ' if sde.field else ''}**{{**PARAMS, **params}})",
        rows=tables, row_arguments=f"times, {given}" if sde.n > 1 else given, given=f"({given})", back=back,
        ends=ends(rows), places=places(rows), steps=steps, nfe=nfe(rows),
        last=single(last_lines(rows.step, sde, columns)) if rows.step.last else [],
    )  # fmt: skip
    return shaken(text)


def column_names(rows: Rows) -> tuple[str, ...]:
    """The columns of the emitted table, in the order in which the steps read them, those of ``denoise`` last."""
    names = {name: None for _, program in step_names(rows) for name in layout(program).columns}
    return tuple({**names, **dict.fromkeys(last_layout(rows.step).columns)})


def _tables(method: Any, diffusion: DiffusionText, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The text of the rows of each program."""
    rows: Rows = method.rows
    naming = Naming(frozenset({*rows.params, *method.sde.let, *filter(None, [method.sde.field])}), "sde")
    tables: list[dict[str, Any]] = []
    for name, program in zip(row_names(rows), rows if rows.table is None else [rows.table], strict=True):
        if name in [table["name"] for table in tables]:
            continue
        scale = None if diffusion.scaled is None else diffusion.scaled[0]
        host = HostText(program, method.sde, naming, diffusion.numbers, tuple(diffusion.timed), scale)
        text = TableText(host, columns)
        words = "the rows in between" if name == "other_rows" else f"the {name.replace('_', ' ')}"
        tables.append({"name": name, "words": words, "lines": single(text.lines()), "back": text.back})
    return tables


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
    if method.sampler.adams is not None and method.sampler.adams.skew:
        lines.append("SKEW = True  # its flow is another map than the probability flow, with the same marginals")
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
