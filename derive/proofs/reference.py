"""The coefficients of a program once more, by another route: Taylor series in ball arithmetic, 400 bits, from t = 0.

Each host statement is read from its meaning (program/meaning.py): Psi, Sigma and their series, linear equations along the
step; nothing of the pieces, the whitening or the collocation of the emitted text is used.  A row of the table is then the
program's own lines run on unit rows of balls.

    error of a row = max over its updates of max_j |c_j - exact_j| / max_j |exact_j|

The largest coefficient of an update is the scale on which a run can see an error (DESIGN section 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.balls import arb, eye, joined, linear, number, term, terms_of
from ..maths.matrix import Matrix, factor, forward, mul, scaled, transpose
from ..maths.values import evaluate
from ..program import EARLIER, UNIT, Evaluate, Op, StepProgram, Update
from ..program.forms import Form, last_layout, layout
from ..program.meaning import host_values, put, table_names, tables
from ..program.program import outputs
from ..program.rows import Rows
from ..sde.linear import LinearSDE
from ..sde.numeric import NumericSDE

Row = dict[str, Any]  # column -> ball


class Method(Protocol):
    """What is read of a method (derive/method.py): its diffusion, its programs and their parameters."""

    @property
    def sde(self) -> LinearSDE: ...
    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> Rows: ...
    @property
    def params(self) -> dict[str, float]: ...


class Around:
    """The law of z as series around a time: what a rate of a linear equation may name."""

    def __init__(self, reading: BallReading, centre: Any) -> None:
        self.reading, self.centre = reading, centre

    @cached_property
    def _law(self) -> tuple[Matrix, Matrix, Matrix]:
        view = self.reading.view
        psi, sigma = view._flows
        offset = joined(view.offset_series(self.centre, view._offset_flow.value(self.centre)))
        return (
            joined(view.psi_series(self.centre, psi.value(self.centre))),
            joined(view.sigma_series(self.centre, sigma.value(self.centre))),
            offset,
        )

    @property
    def Psi(self) -> Matrix:
        return self._law[0]

    @property
    def Sigma(self) -> Matrix:
        return self._law[1]

    @cached_property
    def F(self) -> Matrix:
        return self.of(self.reading.view.sde.F_let)

    @cached_property
    def V(self) -> Matrix:
        return self.of(self.reading.view.sde.GG_let)

    def number(self, expr: sp.Expr) -> Any:
        return flint.arb_series([number(expr)])

    def of(self, entries: sp.Matrix, kind: str = "") -> Matrix:
        """A matrix of expressions in t, lets, parameters and values of the law, those of the parameterisation ``kind``."""
        names = {symbol.name.split("[")[0] for symbol in entries.free_symbols if "[" in symbol.name}
        known: dict[str, Any] = {}
        if "offset" in names:
            put(known, "offset", self._law[2])
        if names - {"offset"}:
            law = tables(kind, self.reading.data, *self._law, self.reading.sigma_data)
            for name, value in zip(table_names(kind), law, strict=False):
                put(known, name, value)
        written = self.reading.view.sde.written_out(entries)
        if self.reading.n == 1 and written.atoms(sp.Function):
            known |= {"alpha": lambda _: self.Psi[0][0], "sigma": lambda _: self.Sigma[0][0].sqrt()}
        params = {name: flint.arb_series([value]) for name, value in self.reading.params.items()}
        clock = flint.arb_series([self.centre, 1])
        values = {**params, **known, "t": clock}
        return [[evaluate(e, values, self.number) for e in row] for row in written.tolist()]


class BallReading:
    """A diffusion at given parameters read in balls, on one grid (see program/meaning.py)."""

    def __init__(self, view: NumericSDE, params: Mapping[str, Any], end: Any) -> None:
        self.view, self.params, self.end = view, params, end
        self.n, self.data = view.sde.n, view.sde.data

    def scalar(self, expr: sp.Expr, values: Mapping[str, Any]) -> Any:
        return evaluate(self.view.sde.written_out(expr), values, number)

    def functions(self) -> dict[str, Callable[[Any], Any]]:
        """alpha and sigma of one block, the lets, phi_k and the time of a log signal-to-noise ratio."""
        sde, t = self.view.sde, sp.Symbol("t", real=True)
        own: dict[str, Callable[[Any], Any]] = {f"phi{k}": partial(_phi, k) for k in range(1, 5)}
        for name, expr in sde.let.items():
            if expr.has(t):
                own[name] = partial(self._let, sde.written_out(expr))
        if self.n == 1:
            psi, sigma = self.view._flows
            own |= {
                "alpha": lambda time: psi.value(time)[0][0],
                "sigma": lambda time: sigma.value(time)[0][0].sqrt(),
                "time_of": self._time_of,
            }
        return own

    def _let(self, expr: sp.Expr, time: Any) -> Any:
        return evaluate(expr, {**self.params, "t": time}, number)

    def law(self, time: Any) -> tuple[Matrix, Matrix, Matrix]:
        psi, sigma = self.view._flows
        return psi.value(time), sigma.value(time), self.view._offset_flow.value(time)

    def rotation(self, time: Any) -> Matrix:
        """gDDIM's R with O = I at the last time of the grid, made once."""
        known = self.view.__dict__.setdefault("_rotated", {})
        key = self.end.str(60)
        if key not in known:
            known[key] = self.view.rotated(self.end)
        return known[key].value(time)

    def sigma_data(self) -> Any:
        return self.params["sigma_data"]

    def propagate(self, rate: Callable[[Around], Matrix], rows: int, lower: Any, upper: Any) -> Matrix:
        with terms_of(self.view.terms):
            width = len(rate(Around(self, lower))[0])
        start = [[flint.arb(int(i == j)) for j in range(width)] for i in range(rows)]

        def series(centre: Any, value: Matrix) -> list[Matrix]:
            with terms_of(self.view.terms):
                top = rate(Around(self, centre))
                zero = flint.arb_series([0])
                return linear(value, self.view.terms, M=[*top, *([[zero] * width for _ in range(width - rows)])])

        return self.view.flow(lower, start, series).value(upper)

    def spread(self, linear_part: sp.Matrix, noise: sp.Matrix, lower: Any, upper: Any) -> Matrix:
        """Backward from upper to lower: C' = -(linear C + C linear^T) - G G^T, C = 0 at upper."""

        def series(centre: Any, value: Matrix) -> list[Matrix]:
            with terms_of(self.view.terms):
                around = Around(self, centre)
                L, G = around.of(-linear_part), around.of(noise)
                return linear(value, self.view.terms, L, transpose(L), scaled(mul(G, transpose(G)), -1))

        return self.view.flow(upper, scaled(eye(self.n), 0), series).value(lower)

    def _time_of(self, target: Any) -> Any:
        """The zero of log(alpha/sigma) - lambda, which falls in t: halving, then Newton's iteration."""
        psi, sigma = self.view._flows
        low, high = (arb(end) for end in self.view.sde.time)

        def gap(time: Any) -> Any:
            return (psi.value(time)[0][0] ** 2 / sigma.value(time)[0][0]).log() / 2 - target

        for _ in range(60):
            middle = ((low + high) / 2).mid()
            low, high = (middle, high) if gap(middle) > 0 else (low, middle)
        time = ((low + high) / 2).mid()
        for _ in range(6):  # each doubles the digits
            with terms_of(2):
                power = term(Around(self, time).V, 0)[0][0]
            time = (time + 2 * gap(time) * sigma.value(time)[0][0] / power).mid()
        return time


def _phi(k: int, value: Any) -> Any:
    """phi_k by its recurrence, whose cancellation 400 bits outlast."""
    result = value.exp()
    for j in range(k):
        result = (result - 1 / flint.arb(math.factorial(j))) / value
    return result


@dataclass(frozen=True)
class Reference:
    """The exact coefficients of a method at given parameters, a row at a time."""

    method: Method
    view: NumericSDE
    params: Mapping[str, Any]  # arb, the sampler's and the network's own included

    def row(self, times: Sequence[Any], i: int) -> Row:
        """The columns of step i of the grid ``times`` (arb), made by the program of that row."""
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            return self._columns(self.method.rows.at(i, len(times) - 1), self._scalars(times, i))

    def scalars(self, times: Sequence[Any], i: int, exprs: Sequence[sp.Expr]) -> list[Any]:
        """Host expressions of the program of step i."""
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            return list(map(self._scalars(times, i), exprs))

    def _scalars(self, times: Sequence[Any], i: int) -> Callable[[sp.Expr], Any]:
        reading = BallReading(self.view, self.params, times[-1])
        values: dict[str, Any] = {**self.params, **reading.functions(), "t0": times[i], "t1": times[i + 1]}
        values |= {time.name: times[i - k] for k, time in enumerate(EARLIER, start=1) if k <= i}
        host_values(reading, self.method.rows.at(i, len(times) - 1), values)
        return lambda expr: reading.scalar(sp.sympify(expr), values)

    def _columns(self, program: StepProgram, scalar: Callable[[sp.Expr], Any]) -> Row:
        columns: Row = {}
        for ops, plan in ((program.ops, layout(program)), (program.last, last_layout(program))):
            forms = unit_rows(ops, plan.bases, program, scalar)
            if plan.noisy:
                names = [op.output for op in ops if not isinstance(op, Update | Evaluate)]
                rows = [[forms[v].get(name, flint.arb(0)) for name in names] for v in plan.noisy]
                first = rows[: len(plan.draws)]  # independent
                inverse = forward(factor(mul(first, transpose(first))))
                merged = mul(mul(rows, transpose(first)), transpose(inverse))
                for value, row in zip(plan.noisy, merged, strict=True):
                    forms[value].update(dict(zip(plan.draws, row, strict=True)))
            elif plan.draws:
                names = [op.output for op in ops if not isinstance(op, Update | Evaluate)]
                for own in forms.values():
                    own.update({short: own[name] for short, name in zip(plan.draws, names, strict=True) if name in own})
            for form in plan.forms:
                columns |= {column: forms[form.value].get(base, flint.arb(0)) for base, column in form.terms if column}
            columns |= {name: scalar(time) for name, time in plan.times.items()}
        return columns


def unit_rows(
    ops: Sequence[Op], bases: Sequence[str], program: StepProgram, scalar: Callable[[sp.Expr], Any]
) -> dict[str, dict[str, Any]]:
    """Every value as its coefficients in the bases: the program's own lines, run on unit rows."""
    first = (*program.components, UNIT, *program.history)
    forms: dict[str, dict[str, Any]] = {base: {base: flint.arb(1)} for base in first}
    for op in ops:
        if not isinstance(op, Update):
            forms.update({value: {value: flint.arb(1)} for value in outputs(op)})
            continue
        row: dict[str, Any] = {}
        for c, value in op.terms:
            weight = scalar(c)
            for base, coefficient in forms[value].items():
                row[base] = row.get(base, flint.arb(0)) + weight * coefficient
        forms[op.output] = row
    return forms


# -- the comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worst:
    """The worst update of a table: its column, the two times of its step, its error relative to its largest coefficient."""

    column: str
    t0: float
    t1: float
    error: float


Views = dict[Any, NumericSDE]  # the flows of an SDE at given parameters, shared between its modules


def reference(method: Method, params: Mapping[str, Any], views: Views | None = None, **setting: int) -> Reference:
    """The reference of a method at these parameters (arb or float; all of the program's); ``setting`` as of NumericSDE."""
    exact = {name: arb(value) for name, value in params.items()}
    own = {name: exact.get(name, arb(method.sde.params.get(name, 0.0))) for name in method.sde.symbols}
    spelled = (f"{name} {value.str(60)}" for name, value in own.items())
    key = (method.sde.name, method.sde.F, method.sde.G, *spelled, *setting.items())
    shared = views if views is not None else {}
    if key not in shared:
        shared[key] = NumericSDE(method.sde, own, **setting)
    return Reference(method, shared[key], {**own, **exact})


OTHER = {"terms": 128, "precision": 520, "accuracy": 340}  # the second setting, which bounds truncation


def groups(program: StepProgram) -> list[tuple[str, ...]]:
    """The columns of each update, and each time by itself: what one error is relative to."""
    plans = (layout(program), last_layout(program))
    forms: list[Form] = [form for plan in plans for form in plan.forms]
    return [form.columns for form in forms if form.columns] + [(name,) for plan in plans for name in plan.times]


def truncation(method: Method, times: Sequence[float], i: int, views: Views | None = None, field: float = 0.0) -> float:
    """The largest difference of two settings (terms, precision, accuracy of the series) in row i, in the same measure."""
    params = {**method.params, **({method.sde.field: field} if method.sde.field else {})}
    exact = [arb(time) for time in times]
    one, other = (reference(method, params, views, **setting).row(exact, i) for setting in ({}, OTHER))
    with flint.ctx.workprec(OTHER["precision"]):
        return max(error for _, error in _errors(method.rows.at(i, len(times) - 1), one, other))


def _errors(program: StepProgram, row: Mapping[str, Any], exact: Row) -> list[tuple[str, float]]:
    """(worst column, error) of every update of a row."""
    worst = []
    for columns in groups(program):
        size = max((abs(exact[c]) for c in columns), key=lambda ball: float(ball.mid()))
        gaps = {c: abs(arb(row[c]) - exact[c]) for c in columns}
        column = max(gaps, key=lambda c: float(gaps[c].mid()))
        worst.append((column, float((gaps[column] / size).mid()) if size > 0 else float(gaps[column].mid())))
    return worst


def worst(
    method: Method, times: Sequence[float], table: Sequence[Mapping[str, float]], rows: Sequence[int],
    views: Views | None = None, field: float = 0.0, params: Mapping[str, float] | None = None,
) -> Worst:  # fmt: skip
    """The worst update of the chosen rows of a float64 table, each row given by column name.

    ``field`` is the value of the SDE's field, where it has one, to which the table belongs.
    """
    params = {**method.params, **(params or {}), **({method.sde.field: field} if method.sde.field else {})}
    exact = [arb(time) for time in times]
    base = reference(method, params, views)
    found = Worst("-", 0.0, 0.0, 0.0)
    for i in rows:
        with flint.ctx.workprec(base.view.precision):
            true = base.row(exact, i)
            for column, error in _errors(method.rows.at(i, len(times) - 1), table[i], true):
                if not math.isfinite(error):
                    raise Unsupported(
                        f"the reference of {method.name} lost its digits in row {i}", "take milder rates or times"
                    )
                if error > found.error:
                    found = Worst(column, times[i], times[i + 1], error)
    return found
