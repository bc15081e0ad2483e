"""The coefficients of a program once more, by another route: Taylor series in ball arithmetic, 400 bits, from t = 0.

Each host function is evaluated from its definition (Psi, Sigma and their series; nothing of host.py's pull-back, quadrature
or collocation is used), each host scalar from its expression.  ``errors`` holds a float64 table of an emitted module to it,
entry by entry, in the measure of DESIGN section 8:

    |c_float64 - c| / max(|c|, sum_i |p_i dc/dp_i|),   p the times and the parameters, which are float64 taken as exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from .balls import Matrix, arb, factor, jet, joined, mul, series_of, terms_of, transpose
from .calculus import plain
from .numeric import PRECISION, NumericSDE
from .program import EARLIER, Call, Factor, Function, Scalar, table_of
from .rules import RULES

if TYPE_CHECKING:
    from .method import Method

Value = Any  # flint.arb


@dataclass(frozen=True)
class Reference:
    """The exact coefficients of a method at given parameters, a step at a time."""

    method: Method
    view: NumericSDE
    params: Mapping[str, Any]  # arb, the sampler's and the network's own included

    @property
    def functions(self) -> dict[str, Function]:
        return {f.name: f for f in self.method.rows.functions}

    def row(self, times: Sequence[Any], i: int, columns: Sequence[sp.Expr]) -> list[Value]:
        """The columns of step i of the grid ``times`` (arb), made by the program of that row."""
        with flint.ctx.workprec(self.view.precision), terms_of(self.view.terms):
            values: dict[str, Any] = {"t0": times[i], "t1": times[i + 1], **self.params}
            values |= {time.name: times[i - k] for k, time in enumerate(EARLIER, start=1) if k <= i}
            functions = self.functions
            for statement in self.method.rows.at(i, len(times) - 1).host:
                if isinstance(statement, Scalar):
                    values[statement.name] = self.scalar(statement.expr, values)
                elif isinstance(statement, Factor):
                    rows = [[self.scalar(e, values) for e in row] for row in statement.rows.tolist()]
                    values[statement.name] = factor(mul(rows, transpose(rows)))
                else:
                    self._call(statement, functions[statement.function], values, times)
            return [self.scalar(c, values) for c in columns]

    def _call(self, call: Call, function: Function, values: dict[str, Any], times: Sequence[Any]) -> None:
        arguments = [self.scalar(time, values) for time in call.times]
        rule = RULES.get(function.template)
        if rule is None:
            raise Unsupported(f"no reference for the host function {function.template}", "add it to reference.RULES")
        results = rule(self, function, arguments, times)
        for name, value in zip(call.targets, results, strict=True):
            values[name] = value

    def scalar(self, expr: sp.Expr, values: Mapping[str, Any]) -> Value:
        """A host expression at these values."""
        known = {symbol: _entry(symbol, values) for symbol in expr.free_symbols}
        with terms_of(1):
            return jet(plain(expr), known, flint.arb_series([0]))[0]

    # -- the law of z_t as series around a time ------------------------------------------------------------------------

    def series(self, entries: sp.Matrix, centre: Any) -> Matrix:
        """Arb series of a matrix of expressions in t, lets and parameters."""
        known = {sp.Symbol(name, real=True): value for name, value in self.params.items()}
        return series_of(self.view.sde.written_out(entries), known, centre, self.view.terms)

    def law(self, centre: Any) -> tuple[Matrix, Matrix]:
        """Psi(t, start) and Sigma_t as series around ``centre``."""
        psi, sigma = self.view._flows
        return joined(self.view.psi_series(centre, psi.value(centre))), joined(
            self.view.sigma_series(centre, sigma.value(centre))
        )

    def offset(self, centre: Any) -> Matrix:
        """o(t, start) as series around ``centre``."""
        return joined(self.view.offset_series(centre, self.view._offset_flow.value(centre)))

    def rotated(self, end: Any) -> Any:
        """gDDIM's R with O = I at ``end``, made once."""
        known = self.view.__dict__.setdefault("_rotated", {})
        key = end.str(60)
        if key not in known:
            known[key] = self.view.rotated(end)
        return known[key]

    def psi(self, time: Any) -> Matrix:
        return self.view._flows[0].value(time)

    def sigma(self, time: Any) -> Matrix:
        return self.view._flows[1].value(time)


def _entry(symbol: sp.Symbol, values: Mapping[str, Any]) -> Any:
    value = values[table_of(symbol)]
    if "[" not in symbol.name:
        return value
    i, j = (int(part) for part in symbol.name.split("[..., ")[1].rstrip("]").split(", "))
    return value[i][j]


# -- the comparison ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worst:
    """The worst entry of a table: its column, the two times of its step, its relative error and its error in the measure."""

    column: str
    t0: float
    t1: float
    relative: float
    measured: float


STEP = flint.arb(2) ** -120  # of the differences that measure the sensitivity to the float64 inputs
DOUBTFUL = 5e-14  # below this relative error the sensitivity is not asked for


Views = dict[Any, NumericSDE]  # the flows of an SDE at given parameters, shared between its modules


def reference(method: Method, params: Mapping[str, Any], views: Views | None = None, **setting: int) -> Reference:
    """The reference of a method at these parameters (arb or float; all of the program's); ``setting`` as of NumericSDE."""
    exact = {name: arb(value) for name, value in params.items()}
    own = {name: exact.get(name, arb(method.sde.params.get(name, 0.0))) for name in method.sde.symbols}
    told = (f"{name} {value.str(60)}" for name, value in own.items())
    key = (method.sde.name, method.sde.F, method.sde.G, *told, *setting.items())
    shared = views if views is not None else {}
    if key not in shared:
        shared[key] = NumericSDE(method.sde, own, **setting)
    return Reference(method, shared[key], exact)


OTHER = {"terms": 128, "precision": 520, "accuracy": 340}  # the second setting, which bounds truncation


def truncation(
    method: Method, columns: Sequence[tuple[str, sp.Expr]], times: Sequence[float], i: int,
    views: Views | None = None, field: float = 0.0,
) -> float:  # fmt: skip
    """The largest relative difference of two settings (terms, precision, accuracy of the series) in the columns of row i."""
    params = {**method.params, **({method.sde.field: field} if method.sde.field else {})}
    exact, exprs = [arb(time) for time in times], [expr for _, expr in columns]
    one, other = (reference(method, params, views, **setting).row(exact, i, exprs) for setting in ({}, OTHER))
    with flint.ctx.workprec(OTHER["precision"]):
        gaps = [(abs(a - b).mid(), abs(b).mid()) for a, b in zip(one, other, strict=True)]
        return max(float((gap / whole).mid()) if whole > 0 else float(gap) for gap, whole in gaps)


def worst(
    method: Method,
    columns: Callable[[int], Sequence[tuple[str, sp.Expr]]],
    times: Sequence[float],
    table: Sequence[Sequence[float]],
    rows: Sequence[int],
    views: Views | None = None,
    field: float = 0.0,
) -> Worst:
    """The worst entry of the chosen rows of a float64 table; ``columns(i)`` are the (name, host expression) of row i.

    ``field`` is the value of the SDE's field, where it has one, to which the table belongs.
    """
    params = {**method.params, **({method.sde.field: field} if method.sde.field else {})}
    exact = [arb(time) for time in times]
    base = reference(method, params, views)
    with flint.ctx.workprec(PRECISION):
        shifted = {
            name: tuple(reference(method, {**params, name: arb(value) * (1 + sign * STEP)}, views) for sign in (1, -1))
            for name, value in params.items()
            if value
        }
    found = Worst("-", 0.0, 0.0, 0.0, 0.0)
    for i in rows:
        names, exprs = zip(*columns(i), strict=True)
        true = base.row(exact, i, exprs)
        gaps = [abs(arb(value) - c) for value, c in zip(table[i], true, strict=True)]
        relative = [
            float((gap / abs(c)).mid()) if c != 0 else float(gap.mid()) for gap, c in zip(gaps, true, strict=True)
        ]
        if not all(map(math.isfinite, relative)):
            raise Unsupported(f"the reference of {method.name} lost its digits in row {i}", "take milder rates or times")
        doubtful = [k for k, error in enumerate(relative) if error > DOUBTFUL]
        slopes = _sensitivities(base, shifted, exact, i, [exprs[k] for k in doubtful]) if doubtful else []
        measured = list(relative)
        for k, slope in zip(doubtful, slopes, strict=True):
            measured[k] = min(relative[k], float((gaps[k] / slope).mid()) if slope > 0 else relative[k])
        k = max(range(len(names)), key=measured.__getitem__)
        if measured[k] > found.measured:
            found = Worst(names[k], times[i], times[i + 1], relative[k], measured[k])
    return found


def _sensitivities(
    base: Reference, shifted: Mapping[str, tuple[Reference, ...]], times: list[Any], i: int, exprs: list[sp.Expr]
) -> list[Any]:
    """sum_i |p_i dc/dp_i| of each expression over the times it may read and the parameters: differences at 400 bits."""
    with flint.ctx.workprec(PRECISION):
        pairs = [[ref.row(times, i, exprs) for ref in pair] for pair in shifted.values()]
        for k in range(max(0, i - len(EARLIER)) if base.method.warmup else i, i + 2):
            moved = [[time * (1 + sign * STEP) if j == k else time for j, time in enumerate(times)] for sign in (0, -1)]
            rows = [base.row(grid, i, exprs) for grid in moved]
            pairs.append(
                [[2 * a for a in rows[0]], [2 * b for b in rows[1]]]
            )  # one-sided: the end of the span is an end
        return [sum((abs(up[k] - down[k]) / (2 * STEP) for up, down in pairs), flint.arb(0)) for k in range(len(exprs))]
