"""The intermediate representation: one step of a sampler as a straight-line program.

Two worlds are kept apart.  On the HOST, scalars and small matrices, evaluated once for the whole grid in float64 (hosts.py).
On the COMPONENTS, tensors, which see only network calls, normal draws and linear combinations (Evaluate, Normal, Update).
SSA, no branch, no loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from ..maths.calculus import EARLIER
from .hosts import Host, Scalar, table_of

ONE = sp.S.One
UNIT = "1"  # the value that is one everywhere: an additive scalar is its coefficient


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
    """``output`` = the sum of coefficient times value; ``note`` says where the line comes from, such as "B!".

    An additive scalar is the coefficient of the value ``UNIT``, which is one everywhere: every pass treats it as a base
    like any other, and no second kind of term is needed.
    """

    output: str
    terms: tuple[tuple[sp.Expr, str], ...]
    note: str = ""


Op = Evaluate | Normal | Update


@dataclass(frozen=True)
class StepProgram:
    """One step t0 -> t1 of a sampler.  ``result`` names the values that are the new state, in the order of components.

    ``last`` is a second, shorter program: the mean of the data at t1, a value a data block, one network call
    (last="denoise").
    ``history`` names the values carried in from earlier steps (Load), ``carry`` the values carried out (Carry), as many,
    newest first.  Host expressions may read the times of one, two, three and four steps ago, ``t_m1``, ..., ``t_m4``.
    ``corrected`` names the values that take the place of the state at t0 where the output at t0 corrects it: such a step is
    exact to its order from corrected to corrected state, while the state itself is one that the next output will correct.
    ``words`` are the names that stand for numbers of the diffusion: its parameters and the lets without time; ``about``
    the lines of text that say which diffusion it is.
    """

    components: tuple[str, ...]
    params: Mapping[str, float]
    words: tuple[str, ...]
    about: tuple[str, ...]
    host: tuple[Host, ...]
    ops: tuple[Op, ...]
    result: tuple[str, ...]
    last: tuple[Op, ...] = ()
    last_results: tuple[str, ...] = ()
    sigma_columns: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    field: str = ""  # what differs from frequency to frequency; host expressions may read it

    @property
    def nfe(self) -> int:
        return sum(isinstance(op, Evaluate) for op in self.ops)

    @property
    def draws(self) -> int:
        """Draws as the scheme writes them; the emitted step may merge them (forms.py)."""
        return sum(isinstance(op, Normal) for op in self.ops)


class ProgramError(Exception):
    """A program that breaks a rule of the representation: an error of stepsmith, never of the user."""


def sources(op: Op) -> tuple[str, ...]:
    """The values that an operation reads."""
    if isinstance(op, Evaluate):
        return op.inputs
    return tuple(value for _, value in op.terms) if isinstance(op, Update) else ()


def outputs(op: Op) -> tuple[str, ...]:
    """The values that an operation defines."""
    return op.outputs if isinstance(op, Evaluate) else (op.output,)


def scalars(op: Op) -> tuple[sp.Expr, ...]:
    """The host expressions that an operation reads."""
    if isinstance(op, Evaluate):
        return (op.time,)
    return tuple(c for c, _ in op.terms) if isinstance(op, Update) else ()


def host_names(exprs: Iterable[sp.Expr]) -> set[str]:
    """The names of the host symbols in some expressions."""
    return {table_of(symbol) for expr in exprs for symbol in sp.sympify(expr).free_symbols}


def verify(program: StepProgram) -> StepProgram:
    """The program itself, if it is well formed; ProgramError names the rule and the place otherwise.

    Every name is defined once and before its use; host symbols are times, parameters, earlier scalars or tables; network
    inputs are components' values; each normal is used; the result has one value a component.
    """
    times = ("t0", "t1", *(time.name for time in EARLIER))
    known = {*times, *program.words, *program.params, *filter(None, [program.field])}
    for statement in program.host:
        _require_known(known | {"t"}, statement.reads, statement.targets[0])
        if known & set(statement.targets):
            raise ProgramError(f"{', '.join(statement.targets)} is defined twice on the host")
        known |= set(statement.targets)
    values = _verify_ops(program.ops, (*program.components, *program.history), known, (*program.result, *program.carry))
    if len(program.result) != len(program.components):
        raise ProgramError("the result does not have one value for each component")
    if missing := set(program.result) - values:
        raise ProgramError(f"the result names {', '.join(sorted(missing))}, which is not defined")
    if len(program.carry) != len(program.history) or set(program.carry) - values:
        raise ProgramError("what is carried out is not as many defined values as what is carried in")
    if set(program.corrected) - values or len(program.corrected) not in (0, len(program.components)):
        raise ProgramError("what is corrected is not a defined value for each component")
    if program.last:
        defined = _verify_ops(program.last, program.components, known)
        if missing := set(program.last_results) - defined:
            raise ProgramError(f"the last result names {', '.join(sorted(missing))}, which is not defined")
    return program


def _require_known(known: set[str], exprs: Iterable[sp.Expr], place: str) -> None:
    if missing := host_names(exprs) - known:
        raise ProgramError(f"{place} uses {', '.join(sorted(missing))}, which is not defined before it")


def _verify_ops(
    ops: tuple[Op, ...], components: tuple[str, ...], known: set[str], ends: tuple[str, ...] = ()
) -> set[str]:
    """The values that the operations define, checked on the way."""
    values = {UNIT, *components}
    normals: set[str] = set()
    used = set(ends)
    for op in ops:
        place = outputs(op)[0]
        if isinstance(op, Evaluate) and UNIT in op.inputs:
            raise ProgramError(f"{place} asks the network about a number")
        if missing := set(sources(op)) - values:
            raise ProgramError(f"{place} uses {', '.join(sorted(missing))} before it is defined")
        if values & set(outputs(op)):
            raise ProgramError(f"{', '.join(outputs(op))} is defined twice")
        _require_known(known, scalars(op), place)
        values |= set(outputs(op))
        used |= set(sources(op))
        if isinstance(op, Normal):
            normals.add(op.output)
    if normals - used:
        raise ProgramError(f"the draw {', '.join(sorted(normals - used))} is not used")
    return values


def dump(program: StepProgram) -> str:
    """The program as text: the form that ``stepsmith show`` prints and that the digest is taken of."""
    lines = list(program.about)
    lines += [f"components {', '.join(program.components)}"]
    lines += [f"param {name} = {value!r}" for name, value in program.params.items()]
    lines += [f"field {program.field}"] if program.field else []
    for statement in program.host:
        data = {k: v for k, v in vars(statement).items() if k not in ("name", "targets", "expr")}
        body = f"{type(statement).__name__}({', '.join(f'{k}: {_plain(v)}' for k, v in data.items())})"
        body = str(statement.expr) if isinstance(statement, Scalar) else body
        lines.append(f"host {', '.join(statement.targets)} = {body}")
    lines += [f"load {', '.join(program.history)}"] if program.history else []
    lines += _dump_ops(program.ops)
    lines += [f"carry {', '.join(program.carry)}"] if program.carry else []
    lines += [f"corrected {', '.join(program.corrected)}"] if program.corrected else []
    lines.append(f"result {', '.join(program.result)}")
    if program.last:
        last = [*_dump_ops(program.last), f"result {' '.join(program.last_results)}"]
        lines += ["last", *(f"  {line}" for line in last)]
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
