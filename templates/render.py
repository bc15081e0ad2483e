"""StepProgram -> the text of a module that stands on torch and math alone."""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import sympy as sp
from jinja2 import Environment, PackageLoader, StrictUndefined

from stepsmith.derive.budget import within
from stepsmith.derive.program import ONE, Call, Evaluate, Factor, Function, Normal, StepProgram, Update
from stepsmith.errors import Unsupported

from .printer import WIDTH, HostPrinter, wrapped

DIALECTS = ("torch",)
MAX_BEFORE_STAR = 255  # names that Python unpacks before a starred one
# Variables of the host functions: a parameter or let of the same name is spelled with an underscore behind it there.
LOCALS = frozenset(
    """C C0 C1 K K0 K1 L M O O0 O1 Om P Phi Psi Q R U W X Z Z0 Z1 _ a alpha_0 alpha_1 alpha_s angle at0 at1 b back below
    coupling data deviator ds end ends entry exponent eye first g growth h half i inp integrals j k lead length like linear
    mean n noise odd ones order origin out panels pull push push0 push1 r rate ratio reach reached root row rows s scale
    score sd share sigma_0 sigma_1 sigma_s size skip spread steps tau total u unit w weight width x zero""".split()  # noqa: SIM905
)


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
    program: StepProgram = method.program
    numbers = {*program.params, *_numbers(program, method.sde)}
    respelled = {name: f"{name}_" for name in (*program.params, *method.sde.let) if name in LOCALS}
    printer = HostPrinter(numbers, respelled)
    env = environment()
    env.filters["spelled"] = lambda name: respelled.get(name, name)
    env.filters["code"] = printer.doprint
    env.filters["wrap"] = wrapped
    env.globals["call"] = _caller(program, respelled)
    env.globals["rows"] = lambda M: _rows(printer, M)
    step, last = columns(program.ops), columns(program.last)
    context = {
        "method": method, "program": program, "host": [_statement(printer, s) for s in program.host],
        "step": [_operation(op) for op in program.ops], "last": [_operation(op) for op in program.last],
        "columns": [name for name, _ in table(program)], "column_texts": [c.name for _, c in table(program)],
        "step_columns": step, "last_columns": last,
        "draws": [op.output for op in program.ops if isinstance(op, Normal)],
        "unpack": _unpack,
        "legendre": legendre, "constraints": _constraints(printer, method.sde, set(program.params)), "span": method.sde.time,
    }  # fmt: skip
    return env.get_template("module.py.jinja").render(**context)


@functools.cache
def legendre(n: int) -> tuple[list[str], list[str]]:
    """Nodes and weights of Gauss-Legendre quadrature on (0, 1), correctly rounded, as text."""
    with mpmath.workdps(40):
        x = sp.Symbol("x")
        polynomial = sp.legendre(n, x)
        slope = sp.lambdify(x, sp.diff(polynomial, x), "mpmath")
        roots = sorted(
            mpmath.polyroots(
                [mpmath.mpf(int(c.p)) / int(c.q) for c in sp.Poly(polynomial, x).all_coeffs()],
                maxsteps=400,
                extraprec=400,
            )
        )
        nodes = [repr(float((1 + r) / 2)) for r in roots]
        weights = [repr(float(1 / ((1 - r**2) * slope(r) ** 2))) for r in roots]
    return nodes, weights


def columns(ops: Any) -> list[str]:
    """The coefficients that the operations read, in order of first use."""
    names: dict[str, None] = {}
    for op in ops:
        names.update({column_name(c): None for c in _coefficients(op) if c != ONE})
    return list(names)


def table(program: StepProgram) -> list[tuple[str, sp.Expr]]:
    """(name, host expression) of the columns of the emitted table, in its order."""
    exprs = {column_name(c): c for op in (*program.ops, *program.last) for c in _coefficients(op) if c != ONE}
    step, last = columns(program.ops), columns(program.last)
    return [(name, exprs[name]) for name in (*step, *(c for c in last if c not in step))]


def _coefficients(op: Any) -> tuple[sp.Expr, ...]:
    if isinstance(op, Evaluate):
        return (op.time,)
    return tuple(c for c, _ in op.terms) if isinstance(op, Update) else ()


def column_name(c: sp.Expr) -> str:
    """The name of the column of a coefficient: its symbol, ``time_<k>`` for the times, ``skip_0_0_1`` for a table's entry."""
    if not c.is_Symbol:
        raise ValueError(f"the coefficient {c} has no name")
    name = c.name.replace("[..., ", "_").replace(", ", "_").replace("]", "")
    return {"t0": "time_0", "t1": "time_1"}.get(name, name)


def _unpack(used: list[str], all_columns: list[str]) -> str:
    """The left side that takes a row apart: names as far as they are used, ``_`` for the gaps, ``*_`` for the rest."""
    last = max((all_columns.index(name) for name in used), default=-1)
    names = [name if name in used else "_" for name in all_columns[: last + 1]]
    rest = len(all_columns) - len(names)
    if rest:
        names += ["*_"] if len(names) < MAX_BEFORE_STAR else ["_"] * rest
    text = ", ".join(names) if len(names) > 1 else f"({names[0]},)"
    if len(text) < WIDTH - 10:
        return text
    lines: list[str] = []
    for name in names:
        if lines and len(lines[-1]) + len(name) + 2 < WIDTH - 8:
            lines[-1] += f" {name},"
        else:
            lines.append(f"{name},")
    return "(\n        " + "\n        ".join(lines) + "\n    )"


def _caller(program: StepProgram, respelled: dict[str, str]) -> Any:
    functions = {function.name: function for function in program.functions}

    def call(name: str, *times: str) -> str:
        return f"{name}({', '.join((*times, *(respelled.get(p, p) for p in functions[name].params)))})"

    return call


def _numbers(program: StepProgram, sde: Any) -> set[str]:
    """Names that are Python numbers on the host: parameters, and what is made of them alone."""
    t = sp.Symbol("t", real=True)
    known = {*program.params, *(name for name, expr in sde.let.items() if t not in expr.free_symbols)}
    for statement in program.host:
        if not isinstance(statement, Call | Factor) and {s.name for s in statement.expr.free_symbols} <= known:
            known.add(statement.name)
    return known


def _rows(printer: HostPrinter, M: sp.Matrix) -> str:
    rows = ["(" + ", ".join(map(printer.doprint, row)) + ("," if len(row) == 1 else "") + ")" for row in M.tolist()]
    return "(" + ", ".join(rows) + ("," if len(rows) == 1 else "") + ")"


def _statement(printer: HostPrinter, statement: Any) -> dict[str, Any]:
    if isinstance(statement, Call):
        times = tuple(printer.doprint(time) for time in statement.times)
        return {"targets": ", ".join(statement.targets), "function": statement.function, "times": times, "text": ""}
    if isinstance(statement, Factor):
        text = f"{statement.name} = lower(matrix({_rows(printer, statement.rows)}, t0))"
        return {"text": text, "function": ""}
    name = printer.respelled.get(statement.name, statement.name)
    return {"text": wrapped(f"{name} = {printer.doprint(statement.expr)}"), "function": ""}


def _operation(op: Any) -> dict[str, Any]:
    if isinstance(op, Evaluate):
        return {"network": True, "outputs": op.outputs, "inputs": op.inputs, "time": column_name(op.time), "text": ""}
    if isinstance(op, Normal):
        return {"network": False, "text": ""}
    terms = " + ".join(value if c == ONE else f"{column_name(c)} * {value}" for c, value in op.terms)
    return {"network": False, "text": wrapped(f"{op.output} = {terms}")}


def _constraints(printer: HostPrinter, sde: Any, params: set[str]) -> list[dict[str, str]]:
    """Constraints whose parameters the module takes, as the test that must hold and its text."""
    found = []
    for constraint in sde.constraints:
        left, right = (sde.written_out(side) for side in (constraint.left, constraint.right))
        if {s.name for s in left.free_symbols | right.free_symbols} <= params:
            found.append(
                {
                    "test": f"{printer.doprint(left)} {constraint.relation} {printer.doprint(right)}",
                    "text": constraint.text,
                }
            )
    return found


__all__ = ["Function", "emit"]
