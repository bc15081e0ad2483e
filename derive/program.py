"""The intermediate representation: one step of a sampler as a straight-line program.

Two worlds are kept apart.  On the HOST, scalars and small matrices: functions of (t0, t1, parameters), evaluated once
for the whole grid in float64 (Function, Call, Scalar).  On the COMPONENTS, tensors, which see only network calls, normal
draws and linear combinations (Evaluate, Normal, Update).  SSA, no branch, no loop.

A host symbol is spelled as it will be printed: the entry [i, j] of a table ``skip_0`` is the symbol ``skip_0[..., i, j]``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

ONE = sp.S.One
UNIT = "1"  # the value that is one everywhere: an additive scalar is its coefficient
EARLIER = tuple(sp.Symbol(f"t_m{k}", real=True) for k in (1, 2, 3))  # the times of one, two, three steps ago


def entry(table: str, i: int, j: int) -> sp.Symbol:
    """The symbol of the entry [i, j] of a host table of matrices."""
    return sp.Symbol(f"{table}[..., {i}, {j}]", real=True)


def entries(table: str, rows: int, columns: int) -> sp.Matrix:
    """The matrix of the symbols of a host table."""
    return sp.Matrix(rows, columns, lambda i, j: entry(table, i, j))


def table_of(symbol: sp.Symbol) -> str:
    """The name of the table or scalar that a host symbol belongs to."""
    return symbol.name.split("[")[0]


@dataclass(frozen=True)
class Function:
    """A host function of the emitted module: ``template`` says how it is written, ``data`` what it is written with.

    ``params`` are the parameters it takes after its times; ``uses`` the functions that it calls.
    """

    name: str
    template: str
    params: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """``targets = function(*times, **params)`` on the host, for all steps of the grid at once."""

    targets: tuple[str, ...]
    function: str
    times: tuple[sp.Expr, ...]


@dataclass(frozen=True)
class Scalar:
    """``name = expr`` on the host; expr is SymPy over t0, t1, parameters, earlier scalars and table entries."""

    name: str
    expr: sp.Expr


@dataclass(frozen=True)
class Factor:
    """``name`` = the lower triangular factor, positive diagonal, of rows rows^T: the table of a merged draw."""

    name: str
    rows: sp.Matrix


@dataclass(frozen=True)
class Evaluate:
    """``outputs = network(inputs, time)``: one network call, one NFE."""

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    time: sp.Expr


@dataclass(frozen=True)
class Normal:
    """A standard normal shaped like a component."""

    output: str


@dataclass(frozen=True)
class Update:
    """``output`` = the sum of coefficient times value.

    An additive scalar is the coefficient of the value ``UNIT``, which is one everywhere: every pass treats it as a base
    like any other, and no second kind of term is needed.
    """

    output: str
    terms: tuple[tuple[sp.Expr, str], ...]


Host = Call | Scalar | Factor
Op = Evaluate | Normal | Update


@dataclass(frozen=True)
class StepProgram:
    """One step t0 -> t1 of a sampler.  ``result`` names the values that are the new state, in the order of components.

    ``last`` is a second, shorter program: the mean of the data at t1, a value a data block, one network call
    (last="denoise").
    ``history`` names the values carried in from earlier steps (Load), ``carry`` the values carried out (Carry), as many,
    newest first.  Host expressions may read the times of one, two and three steps ago, ``t_m1``, ``t_m2``, ``t_m3``.
    """

    components: tuple[str, ...]
    params: Mapping[str, float]
    functions: tuple[Function, ...]
    host: tuple[Host, ...]
    ops: tuple[Op, ...]
    result: tuple[str, ...]
    last: tuple[Op, ...] = ()
    last_results: tuple[str, ...] = ()
    sigma_columns: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    field: str = ""  # what differs from frequency to frequency; host expressions may read it

    @property
    def nfe(self) -> int:
        return sum(isinstance(op, Evaluate) for op in self.ops)

    @property
    def draws(self) -> int:
        return sum(isinstance(op, Normal) for op in self.ops)

    @property
    def digest(self) -> str:
        return hashlib.sha256(dump(self).encode()).hexdigest()


class ProgramError(Exception):
    """A program that breaks a rule of the representation: an error of stepsmith, never of the user."""


def verify(program: StepProgram) -> StepProgram:
    """The program itself, if it is well formed; ProgramError names the rule and the place otherwise.

    Every name is defined once and before its use; host symbols are times, parameters, earlier scalars or tables; network
    inputs are components' values; each normal is used; the result has one value a component.
    """
    known = {"t0", "t1", *(time.name for time in EARLIER), *program.params, *filter(None, [program.field])}
    functions = {function.name for function in program.functions}
    for statement in program.host:
        names = statement.targets if isinstance(statement, Call) else (statement.name,)
        used = statement.times if isinstance(statement, Call) else _expressions(statement)
        _require_known(known, used, names[0])
        if isinstance(statement, Call) and statement.function not in functions:
            raise ProgramError(f"{names[0]} calls {statement.function}, which is not defined")
        if known & set(names):
            raise ProgramError(f"{', '.join(names)} is defined twice on the host")
        known |= set(names)
    values = _verify_ops(program.ops, (*program.components, *program.history), known, (*program.result, *program.carry))
    if len(program.result) != len(program.components):
        raise ProgramError("the result does not have one value for each component")
    if missing := set(program.result) - values:
        raise ProgramError(f"the result names {', '.join(sorted(missing))}, which is not defined")
    if len(program.carry) != len(program.history) or set(program.carry) - values:
        raise ProgramError("what is carried out is not as many defined values as what is carried in")
    if program.last:
        found = _verify_ops(program.last, program.components, known)
        if missing := set(program.last_results) - found:
            raise ProgramError(f"the last result names {', '.join(sorted(missing))}, which is not defined")
    return program


def _expressions(statement: Scalar | Factor) -> tuple[sp.Expr, ...]:
    return tuple(statement.rows) if isinstance(statement, Factor) else (statement.expr,)


def _require_known(known: set[str], exprs: tuple[sp.Expr, ...], place: str) -> None:
    for expr in exprs:
        for symbol in expr.free_symbols:
            if table_of(symbol) not in known:
                raise ProgramError(f"{place} uses {symbol}, which is not defined before it")


def _verify_ops(
    ops: tuple[Op, ...], components: tuple[str, ...], known: set[str], ends: tuple[str, ...] = ()
) -> set[str]:
    values = {UNIT, *components}
    normals: set[str] = set()
    used = set(ends)
    for op in ops:
        outputs = op.outputs if isinstance(op, Evaluate) else (op.output,)
        sources = (
            op.inputs if isinstance(op, Evaluate) else tuple(v for _, v in op.terms) if isinstance(op, Update) else ()
        )
        scalars = (
            (op.time,) if isinstance(op, Evaluate) else tuple(c for c, _ in op.terms) if isinstance(op, Update) else ()
        )
        missing = set(sources) - values
        if isinstance(op, Evaluate) and UNIT in sources:
            raise ProgramError(f"{outputs[0]} asks the network about a number")
        if missing:
            raise ProgramError(f"{outputs[0]} uses {', '.join(sorted(missing))} before it is defined")
        if values & set(outputs):
            raise ProgramError(f"{', '.join(outputs)} is defined twice")
        _require_known(known, scalars, outputs[0])
        values |= set(outputs)
        used |= set(sources)
        if isinstance(op, Normal):
            normals.add(op.output)
    if normals - used:
        raise ProgramError(f"the draw {', '.join(sorted(normals - used))} is not used")
    return values


def dump(program: StepProgram) -> str:
    """The program as text: the form that ``stepsmith show`` prints and that the digest is taken of."""
    lines = [f"components {', '.join(program.components)}"]
    lines += [f"param {name} = {value!r}" for name, value in program.params.items()]
    lines += [f"field {program.field}"] if program.field else []
    for function in program.functions:
        lines.append(f"function {function.name}({', '.join(function.params)}) by {function.template}")
        lines += [f"  {key}: {_plain(value)}" for key, value in function.data.items()]
    for statement in program.host:
        if isinstance(statement, Call):
            times = ", ".join(map(str, statement.times))
            lines.append(f"host {', '.join(statement.targets)} = {statement.function}({times})")
        elif isinstance(statement, Factor):
            lines.append(f"host {statement.name} = lower({_plain(statement.rows.tolist())})")
        else:
            lines.append(f"host {statement.name} = {statement.expr}")
    lines += [f"load {', '.join(program.history)}"] if program.history else []
    lines += _dump_ops(program.ops)
    lines += [f"carry {', '.join(program.carry)}"] if program.carry else []
    lines.append(f"result {', '.join(program.result)}")
    if program.last:
        lines += ["last", *("  " + line for line in _dump_ops(program.last)), f"  result {' '.join(program.last_results)}"]
    return "\n".join(lines) + "\n"


def _dump_ops(ops: tuple[Op, ...]) -> list[str]:
    lines = []
    for op in ops:
        if isinstance(op, Evaluate):
            lines.append(f"{', '.join(op.outputs)} = network({', '.join(op.inputs)}; {op.time})")
        elif isinstance(op, Normal):
            lines.append(f"{op.output} = normal")
        else:
            lines.append(f"{op.output} = " + " + ".join(f"({c})*{v}" if c != ONE else v for c, v in op.terms))
    return lines


def _plain(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value))
