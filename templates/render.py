"""StepProgram -> the text of a module that stands on torch and math alone."""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import sympy as sp
from jinja2 import Environment, PackageLoader, StrictUndefined
from sympy.codegen.cfunctions import expm1

from stepsmith.derive.budget import within
from stepsmith.derive.program import (
    EARLIER,
    ONE,
    UNIT,
    Call,
    Evaluate,
    Factor,
    Function,
    Normal,
    StepProgram,
    Update,
    table_of,
)
from stepsmith.derive.rows import Rows, aligned
from stepsmith.errors import Unsupported

from .layout import nfe, places, row_names, step_names
from .printer import WIDTH, HostPrinter, wrapped

DIALECTS = ("torch",)
EXPONENT = sp.Dummy("exponent")
MAX_BEFORE_STAR = 255  # names that Python unpacks before a starred one
# Variables of the host functions: a parameter or let of the same name is spelled with an underscore behind it there.
LOCALS = frozenset(
    """A B C C0 C1 D E F G G_t K K0 K1 L M N O O0 O1 Om P Phi Psi Q R U W X Z Z0 Z1 _ a above across ahead alpha_0
    alpha_1 alpha_s angle at0 at1 b back basis below c change count coupling cross data decay deviator drift
    drive ds edges end ends entry exponent eye fails far fewer first flow found g gain gap grown growth h half
    high i inp integrals j k large last late law lead left length less like linear low mean more moved n near
    newton noise odd ones order origin other out panels parts powers pull push pushed r rate rates ratio reach
    reached rest root row rows rule s scale score sd series share short sigma_0 sigma_1 sigma_s sigma_t size
    skip small some source speed split spread steps target terms total turn turned u unit units values w weight
    whole width x zero""".split()  # noqa: SIM905
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
    rows: Rows = method.rows
    program, params = rows.step, rows.params
    respelled = {name: f"{name}_" for name in (*method.sde.symbols, *params, *method.sde.let) if name in LOCALS}
    field = method.sde.field
    spelled = respelled.get(field, field)
    at_nodes = {**respelled, field: f"{spelled}[..., None]"}  # behind the field's dimensions stands that of the nodes
    env = environment()
    env.filters["spelled"] = lambda name: respelled.get(name, name)
    env.filters["wrap"] = wrapped
    env.filters["literal"], env.filters["prose"] = _literal, _prose
    env.globals["call"] = _caller(rows.functions, respelled)
    printers = [HostPrinter({*params, *_numbers(each, method.sde)}, respelled) for each in rows]
    env.filters["code"] = printers[0].doprint
    env.filters["relaxed"] = _relaxed
    env.globals["call_at_nodes"] = _caller(rows.functions, at_nodes)
    env.filters["code_at_nodes"] = HostPrinter(printers[0].numbers, at_nodes).doprint
    env.globals["rows"] = lambda M: _rows(printers[0], M)
    names, tables = table(method)
    context = {
        "field": spelled, "given_field": field,
        "method": method, "program": program, "params": params, "functions": rows.functions,
        "host": [_statement(printers[0], s) for s in program.host],
        "offset": any(f.name == "offset" for f in rows.functions),
        "columns": names, "column_texts": [_column(c) for c in tables[0]],
        "row_functions": [_row_function(*each, params) for each in zip(row_names(rows), rows, tables, printers, strict=True)],
        "places": places(rows), "nfe": nfe(rows),
        "steps": [_step(name, each, names) for name, each in step_names(rows)], "unpack": _unpack,
        "last": [_operation(op, program) for op in program.last], "last_columns": columns(program.last),
        "legendre": legendre, "constraints": _constraints(printers[0], method.sde, set(params)), "span": method.sde.time,
    }  # fmt: skip
    return env.get_template("module.py.jinja").render(**context)


def _literal(text: str) -> str:
    """A text as a string literal of Python, in double quotes and ASCII."""
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def _prose(text: str) -> str:
    """A line of a docstring: it cannot end the docstring, and what does not print is escaped."""
    quoted = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in quoted)


def _column(c: sp.Expr) -> str:
    return str(c) if c.is_Symbol else repr(float(c))


# -- rows of a grid that have programs of their own ----------------------------------------------------------------------


def _row_function(
    name: str, program: StepProgram, texts: list[sp.Expr], printer: HostPrinter, params: dict[str, float]
) -> dict[str, Any]:
    """What the template writes a row function with; ``back`` are the times of earlier steps that it reads."""
    read = {table_of(symbol) for statement in program.host for symbol in _symbols(statement)} | {str(c) for c in texts}
    return {
        "name": name, "back": [time.name for time in EARLIER if time.name in read],
        "params": [*filter(None, [program.field]), *(p for p in params if p in program.params)],
        "host": [_statement(printer, s) for s in program.host], "texts": [_column(c) for c in texts],
    }  # fmt: skip


def _symbols(statement: Any) -> set[sp.Symbol]:
    if isinstance(statement, Call):
        return {symbol for time in statement.times for symbol in time.free_symbols}
    return (statement.rows if isinstance(statement, Factor) else statement.expr).free_symbols


def _step(name: str, program: StepProgram, names: list[str]) -> dict[str, Any]:
    """What the template writes a step function with."""
    return {
        "name": name, "program": program, "columns": columns(program.ops),
        "ops": [_operation(op, program) for op in program.ops],
        "draws": [op.output for op in program.ops if isinstance(op, Normal)],
    }  # fmt: skip


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


def table(method: Any) -> tuple[list[str], list[list[sp.Expr]]]:
    """The names of the columns of the emitted table and, for each program of ``method.rows``, the host expression in each:
    zero where a program has no use for a column.
    """
    rows: Rows = method.rows
    own = [_own(program) for program in rows]
    shared = {name: None for _, program in step_names(rows) for name in columns(program.ops)}
    names = list({**shared, **dict.fromkeys(columns(rows.step.last))})
    found = []
    for program, exprs in zip(rows, own, strict=True):
        if program not in (rows.first, rows.last):
            fitted = aligned(rows.step, program) or {}
            exprs = {
                **{name: fitted.get(c, c) for name, c in own[0].items()},
                **{n: exprs[n] for n in columns(program.last)},
            }
        found.append([exprs.get(name, sp.S.Zero) for name in names])
    return names, found


def columns_of_row(method: Any, steps: int, row: int) -> list[tuple[str, sp.Expr]]:
    """(name, host expression) of the columns of one row of a grid."""
    names, tables = table(method)
    programs = list(method.rows)
    return list(zip(names, tables[programs.index(method.rows.at(row, steps))], strict=True))


def _own(program: StepProgram) -> dict[str, sp.Expr]:
    """The columns of a program by name."""
    return {column_name(c): c for op in (*program.ops, *program.last) for c in _coefficients(op) if c != ONE}


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


def _caller(functions: tuple[Function, ...], respelled: dict[str, str]) -> Any:
    params = {function.name: function.params for function in functions}

    def call(name: str, *times: str) -> str:
        return f"{name}({', '.join((*times, *(respelled.get(p, p) for p in params[name])))})"

    return call


def _numbers(program: StepProgram, sde: Any) -> set[str]:
    """Names that are Python numbers on the host: parameters, and what is made of them alone."""
    t = sp.Symbol("t", real=True)

    def names(expr: sp.Expr) -> set[str]:
        return {symbol.name for symbol in expr.free_symbols}

    known = {*program.params, *(name for name, expr in sde.let.items() if not {t.name, program.field} & names(expr))}
    for statement in program.host:
        if not isinstance(statement, Call | Factor) and {s.name for s in statement.expr.free_symbols} <= known:
            known.add(statement.name)
    return known


def _relaxed(data: dict[str, Any]) -> sp.Expr:
    """The variance of one block that goes from ``variance`` to the stationary ``law``; ``exponent`` is a local variable."""
    return data["variance"] * sp.exp(EXPONENT) - data["law"] * expm1(EXPONENT)


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


def _operation(op: Any, program: StepProgram) -> dict[str, Any]:
    if isinstance(op, Evaluate):
        time = f"{column_name(op.time)}.amax()" if program.field else column_name(op.time)
        return {"network": True, "outputs": op.outputs, "inputs": op.inputs, "time": time, "text": ""}
    if isinstance(op, Normal):
        return {"network": False, "text": ""}
    if not op.terms:
        return {"network": False, "text": f"{op.output} = torch.zeros_like({program.components[0]})"}
    terms = " + ".join(_term(c, value) for c, value in op.terms)
    if program.field:  # a tensor of float64 coefficients would widen the state
        terms = f"({terms}).to({program.components[0]}.dtype)"
    return {"network": False, "text": wrapped(f"{op.output} = {terms}")}


def _term(c: sp.Expr, value: str) -> str:
    if c == ONE:
        return value
    return column_name(c) if value == UNIT else f"{column_name(c)} * {value}"


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
