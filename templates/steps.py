"""The lines of the step functions: rows of the table taken apart, network calls, sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepsmith.derive.program import UNIT, StepProgram
from stepsmith.derive.program.forms import Form, Layout, last_layout

from .naming import local
from .printer import WIDTH, wrapped

MAX_BEFORE_STAR = 255  # names that Python unpacks before a starred one


def step_lines(program: StepProgram, plan: Layout, columns: tuple[str, ...]) -> list[str]:
    """The body of a step function."""
    lines = [_unpacked(program.components, "state")]
    if plan.draws:
        lines.append(_unpacked(plan.draws, "noise"))
    if program.history:
        lines.append(_unpacked(program.history, "history"))
    lines += _row(plan.columns, columns)
    write = _writer(program)
    defined: set[str] = set()
    for ask in plan.asks:
        lines += _asked(ask, write, defined, program)
    ends = []
    for form in (*plan.result, *plan.carry):
        if form.itself:
            ends.append(local(form.terms[0][0]))
            continue
        name = _named(form, program, plan)
        if name not in defined:
            lines.append(write(form, name))
            defined.add(name)
        ends.append(name)
    state, carried = ends[: len(plan.result)], ends[len(plan.result) :]
    return [*lines, f"return {_tuple(state)}, {_tuple(carried)}"]


def _named(form: Form, program: StepProgram, plan: Layout) -> str:
    return f"{form.name}_new" if form.name in program.components else local(form.name)


def _asked(ask: Any, write: Callable[[Form, str], str], defined: set[str], program: StepProgram) -> list[str]:
    lines, inputs = [], []
    for form in ask.inputs:
        if form.itself:
            inputs.append(local(form.terms[0][0]))
            continue
        name = f"{form.name}_new" if form.name in program.components else local(form.name)
        if name not in defined:
            lines.append(write(form, name))
            defined.add(name)
        inputs.append(name)
    time = f"{ask.time}.amax()" if program.field else ask.time
    outputs = ", ".join(ask.outputs)
    return [*lines, f"{f'({outputs},)' if len(ask.outputs) == 1 else outputs} = network({_tuple(inputs)}, {time})"]


def _writer(program: StepProgram) -> Callable[[Form, str], str]:
    """The line that computes a form."""

    def write(form: Form, name: str) -> str:
        if not form.terms:
            return f"{name} = torch.zeros_like({local(program.components[0])})"
        text = " + ".join(_term(base, column) for base, column in form.terms)
        if program.field:  # a tensor of float64 coefficients would widen the state
            text = f"({text}).to({local(program.components[0])}.dtype)"
        return wrapped(f"{name} = {text}")

    return write


def _term(base: str, column: str) -> str:
    if base == UNIT:
        return column or "1"
    return f"{column} * {local(base)}" if column else local(base)


def last_lines(program: StepProgram, sde: Any, columns: tuple[str, ...]) -> list[str]:
    """The body of ``denoise``."""
    plan = last_layout(program)
    lines = [_unpacked(program.components, "state"), *_row(plan.columns, columns)]
    write = _writer(program)
    defined: set[str] = set()
    for ask in plan.asks:
        lines += _asked(ask, write, defined, program)
    results = []
    for form in plan.result:
        if form.itself:
            results.append(local(form.terms[0][0]))
        else:
            lines.append(write(form, local(form.name)))
            results.append(local(form.name))
    ends = [results[sde.data.index(i)] if i in sde.data else local(name) for i, name in enumerate(program.components)]
    return [*lines, f"return {_tuple(ends)}"]


def _unpacked(names: tuple[str, ...], source: str) -> str:
    left = ", ".join(map(local, names))
    return f"{f'({left},)' if len(names) == 1 else left} = {source}"


def _tuple(names: list[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _row(used: tuple[str, ...], columns: tuple[str, ...]) -> list[str]:
    """The lines that take a row apart: one where all fits, else runs of columns side by side."""
    wanted = [columns.index(name) for name in used]
    if wanted == list(range(len(wanted))):
        text = ", ".join((*used, *(["*_"] if len(used) < len(columns) else [])))
        if len(text) < WIDTH - 10 and len(columns) <= MAX_BEFORE_STAR:
            return [f"{text if len(columns) > 1 else f'({text},)'} = c"]
    lines: list[str] = []
    run: list[int] = []
    for k in (*wanted, -1):
        names = ", ".join(columns[i] for i in run)
        if run and (k != run[-1] + 1 or len(names) + len(columns[k]) > WIDTH - 30):
            lines.append(f"{names} = c[{run[0]}:{run[-1] + 1}]" if len(run) > 1 else f"{names} = c[{run[0]}]")
            run = []
        run.append(k)
    return lines
