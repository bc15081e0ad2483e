"""The coefficients of a program once more, by another route: Taylor series in ball arithmetic, 400 bits, from t = 0.

The host statements are read in balls (reading.py).  A row of the table is then the program's own lines run on unit rows of
balls.

    error of a row = max over its updates of max_j |c_j - exact_j| / size

The size of an update is its largest coefficient max_j |exact_j|, the scale on which a run can see an error (docs/numerics.md).
A value that is only kept for later steps, y, may nearly vanish where its terms cancel.  A run sees it by what the new states
x_k = ... + w_k y do with it, so its size is at least min over k of max_j |x_kj| / |w_k|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.balls import arb, terms_of
from ..maths.matrix import factor, mul, solve, transpose
from ..program import EARLIER, UNIT, Evaluate, Normal, Op, StepProgram, Update
from ..program.forms import Layout, last_layout, layout
from ..program.meaning import host_values
from ..program.program import outputs
from ..sde.numeric import NumericSDE
from .reading import BallReading

Row = dict[str, Any]  # column -> ball
Views = dict[Any, NumericSDE]  # the flows of an SDE at given parameters, shared between its modules
OTHER = {"terms": 128, "precision": 520, "accuracy": 340}  # the second setting, which bounds truncation


@dataclass(frozen=True)
class Reference:
    """The exact coefficients of a method (method.py) at given parameters, a row at a time."""

    method: Any
    view: NumericSDE
    params: Mapping[str, Any]  # arb, the sampler's and the network's own included

    def at(self, times: Sequence[Any], i: int) -> ExactStep:
        """Step i of the grid ``times`` (arb), its host values made by the program of that row."""
        program = self.method.rows.at(i, len(times) - 1)
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            reading = BallReading(self.view, self.params, times[-1])
            values: dict[str, Any] = {**self.params, **reading.functions(), "t0": times[i], "t1": times[i + 1]}
            values |= {time.name: times[i - k] for k, time in enumerate(EARLIER, start=1) if k <= i}
            host_values(reading, program, values)
        return ExactStep(self.view, program, lambda expr: reading.scalar(sp.sympify(expr), values))

    def row(self, times: Sequence[Any], i: int) -> Row:
        """The columns of step i."""
        return self.at(times, i).row()

    def scalars(self, times: Sequence[Any], i: int, exprs: Sequence[sp.Expr]) -> list[Any]:
        """Host expressions of the program of step i."""
        step = self.at(times, i)
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            return list(map(step.scalar, exprs))


@dataclass(frozen=True)
class ExactStep:
    """A step of a grid, its host values known; ``scalar`` gives a host expression as a ball."""

    view: NumericSDE
    program: StepProgram
    scalar: Callable[[sp.Expr], Any]

    def row(self) -> Row:
        """The columns of the table."""
        program = self.program
        columns: Row = {}
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            for ops, plan in ((program.ops, layout(program)), (program.last, last_layout(program))):
                forms = drawn(unit_rows(ops, program, self.scalar), plan, ops)
                for form in plan.forms:
                    own = forms[form.value]
                    columns |= {column: own.get(base, flint.arb(0)) for base, column in form.terms if column}
                columns |= {name: self.scalar(time) for name, time in plan.times.items()}
        return columns

    def lines(self) -> tuple[Lines, Lines]:
        """The step and its last call as the program writes them, no draws merged: exact, rounded at the end."""
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            step, last = (Lines.of(ops, self.program, self.scalar) for ops in (self.program.ops, self.program.last))
        return step, last

    def errors(self, row: Mapping[str, Any]) -> list[tuple[str, float]]:
        """(worst column, error) of every update of a row, and of every network time."""
        exact, kept, errors = self.row(), self.kept_sizes(), []
        with flint.ctx.workprec(self.view.precision):
            for value, columns in groups(self.program):
                size = largest((*(exact[c] for c in columns), *kept.get(value, ())))
                gaps = {c: abs(arb(row[c]) - exact[c]) for c in columns}
                column = max(gaps, key=lambda c: middle(gaps[c]))
                errors.append((column, middle(gaps[column] / size if size > 0 else gaps[column])))
        return errors

    def kept_sizes(self) -> dict[str, list[Any]]:
        """min over k of max_j |x_kj| / |w_k| for every value y that is kept for later steps, x_k = ... + w_k y the new states."""
        program, sizes = self.program, {}
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            states = unit_rows(program.ops, program, self.scalar)
            for y in program.carry:
                ops = [op for op in program.ops if outputs(op) != (y,)]
                shares = unit_rows(ops, replace(program, history=(*program.history, y)), self.scalar)
                weights = {x: abs(shares[x].get(y, flint.arb(0))) for x in program.result}
                ratios = [largest(states[x].values()) / weight for x, weight in weights.items() if weight > 0]
                sizes[y] = [min(ratios, key=middle)] if ratios else []
        return sizes

    def worst(self, row: Mapping[str, float]) -> tuple[str, float]:
        """(column, error) of the worst update of a row in float64; Unsupported where the balls have lost their digits."""
        errors = self.errors(row)
        if not all(math.isfinite(error) for _, error in errors):
            raise Unsupported(f"the reference of {self.view.sde.name} lost its digits", "take milder rates or times")
        return max(errors, key=lambda pair: pair[1], default=("-", 0.0))


@dataclass(frozen=True)
class Lines:
    """Some operations with every value as its coefficients in the bases, and the time of every network call, in float64."""

    ops: tuple[Op, ...]
    forms: Mapping[str, Mapping[str, float]]
    times: tuple[float, ...]

    @classmethod
    def of(cls, ops: tuple[Op, ...], program: StepProgram, scalar: Callable[[sp.Expr], Any]) -> Lines:
        exact = unit_rows(ops, program, scalar)
        forms = {value: {base: float(arb(c).mid()) for base, c in row.items()} for value, row in exact.items()}
        return cls(ops, forms, tuple(float(arb(scalar(op.time)).mid()) for op in ops if isinstance(op, Evaluate)))


def unit_rows(ops: Sequence[Op], program: StepProgram, scalar: Callable[[sp.Expr], Any]) -> dict[str, Row]:
    """Every value as its coefficients in the bases: the program's own lines, run on unit rows."""
    first = (*program.components, UNIT, *program.history)
    forms: dict[str, Row] = {base: {base: flint.arb(1)} for base in first}
    for op in ops:
        if not isinstance(op, Update):
            forms.update({value: {value: flint.arb(1)} for value in outputs(op)})
            continue
        row: Row = {}
        for c, value in op.terms:
            weight = scalar(c)
            for base, coefficient in forms[value].items():
                row[base] = row.get(base, flint.arb(0)) + weight * coefficient
        forms[op.output] = row
    return forms


def middle(ball: Any) -> float:
    return float(ball.mid())


def largest(balls: Iterable[Any]) -> Any:
    """The largest absolute value of some balls."""
    return max(map(abs, balls), key=middle)


def drawn(forms: dict[str, Row], plan: Layout, ops: Sequence[Op]) -> dict[str, Row]:
    """The forms in the draws of the table: those of the program by their new names, or fewer that have the same law."""
    names = [op.output for op in ops if isinstance(op, Normal)]
    if not plan.noisy:
        short = dict(zip(names, plan.draws, strict=True))
        return {value: {short.get(base, base): c for base, c in row.items()} for value, row in forms.items()}
    rows = [[forms[value].get(name, flint.arb(0)) for name in names] for value in plan.noisy]
    independent = rows[: len(plan.draws)]
    inverse = solve(factor(mul(independent, transpose(independent))))
    merged = mul(mul(rows, transpose(independent)), transpose(inverse))
    for value, row in zip(plan.noisy, merged, strict=True):
        forms[value].update(dict(zip(plan.draws, row, strict=True)))
    return forms


# -- the comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worst:
    """The worst update of a table: its column, the two times of its step, its error relative to its largest coefficient."""

    column: str
    t0: float
    t1: float
    error: float


def reference(method: Any, params: Mapping[str, Any], views: Views | None = None, **setting: int) -> Reference:
    """The reference of a method at these parameters (arb or float; all of the program's); ``setting`` as of NumericSDE."""
    exact = {name: arb(value) for name, value in params.items()}
    own = {name: exact.get(name, arb(method.sde.params.get(name, 0.0))) for name in method.sde.symbols}
    spelled = (f"{name} {value.str(60)}" for name, value in own.items())
    key = (method.sde.name, method.sde.F, method.sde.G, *spelled, *setting.items())
    view = (views if views is not None else {}).setdefault(key, NumericSDE(method.sde, own, **setting))
    return Reference(method, view, {**own, **exact})


def groups(program: StepProgram) -> list[tuple[str, tuple[str, ...]]]:
    """Each value with the columns of its update, and each network time with its column: what one error is relative to."""
    plans = (layout(program), last_layout(program))
    forms = [(form.value, form.columns) for plan in plans for form in plan.forms if form.columns]
    return forms + [(name, (name,)) for plan in plans for name in plan.times]


def truncation(method: Any, times: Sequence[float], i: int, views: Views | None = None, field: float = 0.0) -> float:
    """The largest difference of two settings (terms, precision, accuracy of the series) in row i, in the same measure."""
    params = {**method.params, **({method.sde.field: field} if method.sde.field else {})}
    exact = list(map(arb, times))
    one, other = (reference(method, params, views, **setting).at(exact, i) for setting in ({}, OTHER))
    return max(error for _, error in other.errors(one.row()))


def worst(
    method: Any, times: Sequence[float], table: Sequence[Mapping[str, float]], rows: Sequence[int],
    views: Views | None = None, field: float = 0.0, params: Mapping[str, float] | None = None,
) -> Worst:  # fmt: skip
    """The worst update of the chosen rows of a float64 table, each row given by column name.

    ``field`` is the value of the SDE's field, where it has one, to which the table belongs.
    """
    params = {**method.params, **(params or {}), **({method.sde.field: field} if method.sde.field else {})}
    exact = list(map(arb, times))
    base, largest = reference(method, params, views), Worst("-", 0.0, 0.0, 0.0)
    for i in rows:
        column, error = base.at(exact, i).worst(table[i])
        if error > largest.error:
            largest = Worst(column, times[i], times[i + 1], error)
    return largest
