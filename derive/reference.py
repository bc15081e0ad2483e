"""The coefficients of a program once more, by another route: Taylor series in ball arithmetic, 400 bits, from t = 0.

Each host function is evaluated from its definition (Psi, Sigma and their series; nothing of host.py's pull-back, quadrature
or collocation is used), each host scalar from its expression.  ``errors`` holds a float64 table of an emitted module to it,
entry by entry, in the measure of DESIGN section 8:

    |c_float64 - c| / max(|c|, sum_i |p_i dc/dp_i|),   p the times and the parameters, which are float64 taken as exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from .calculus import plain, t
from .method import Method
from .numeric import PRECISION, Flow, Matrix, NumericSDE, _arb, _inverse, _mul, _transpose, cholesky, jet
from .program import EARLIER, Call, Factor, Function, Scalar, table_of
from .score import scalar

Value = Any  # flint.arb


@contextmanager
def _terms(count: int) -> Iterator[None]:
    """Series of this many terms inside the block."""
    before, flint.ctx.cap = flint.ctx.cap, count
    try:
        yield
    finally:
        flint.ctx.cap = before


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
        with flint.ctx.workprec(PRECISION), _terms(self.view.terms):
            values: dict[str, Any] = {"t0": times[i], "t1": times[i + 1], **self.params}
            values |= {time.name: times[i - k] for k, time in enumerate(EARLIER, start=1) if k <= i}
            functions = self.functions
            for statement in self.method.rows.at(i, len(times) - 1).host:
                if isinstance(statement, Scalar):
                    values[statement.name] = self.scalar(statement.expr, values)
                elif isinstance(statement, Factor):
                    rows = [[self.scalar(e, values) for e in row] for row in statement.rows.tolist()]
                    values[statement.name] = cholesky(_mul(rows, _transpose(rows)))
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
        with _terms(1):
            return jet(plain(expr), known, flint.arb_series([0]))[0]

    # -- the law of z_t as series around a time ------------------------------------------------------------------------

    def series(self, entries: sp.Matrix, centre: Any) -> Matrix:
        """Arb series of a matrix of expressions in t, lets and parameters."""
        with _terms(self.view.terms):
            clock = flint.arb_series([centre, 1])
            known = {sp.Symbol(name, real=True): value for name, value in self.params.items()}
            return [[jet(plain(e), known, clock) for e in row] for row in self.view.sde.written_out(entries).tolist()]

    def law(self, centre: Any) -> tuple[Matrix, Matrix]:
        """Psi(t, start) and Sigma_t as series around ``centre``."""
        psi, sigma = self.view._flows
        return _joined(self.view._psi_series(centre, psi.value(centre))), _joined(
            self.view._sigma_series(centre, sigma.value(centre))
        )

    def offset(self, centre: Any) -> Matrix:
        """o(t, start) as series around ``centre``."""
        return _joined(self.view._offset_series(centre, self.view._offset_flow.value(centre)))

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


def _joined(coefficients: list[Matrix]) -> Matrix:
    """A list of matrix coefficients as a matrix of series."""
    n, m = len(coefficients[0]), len(coefficients[0][0])
    return [[flint.arb_series([c[i][j] for c in coefficients]) for j in range(m)] for i in range(n)]


def _mul_any(A: Matrix, B: Matrix) -> Matrix:
    """The product of matrices of numbers or of series."""
    columns = _transpose(B)
    products = [[[a * b for a, b in zip(row, col, strict=True)] for col in columns] for row in A]
    return [[sum(terms[1:], terms[0]) for terms in row] for row in products]


def solve(A: Matrix) -> Matrix:
    """The inverse of a matrix of numbers or of series, by Gauss-Jordan without pivots (A is positive definite)."""
    n = len(A)
    one, zero = A[0][0] / A[0][0], A[0][0] - A[0][0]
    rows = [[*row, *(one if i == j else zero for j in range(n))] for i, row in enumerate(A)]
    for k in range(n):
        pivot = rows[k][k]
        rows[k] = [e / pivot for e in rows[k]]
        for i in range(n):
            if i != k:
                factor = rows[i][k]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


def factor(A: Matrix, upper: bool = False) -> Matrix:
    """The lower (upper) Cholesky factor of a matrix of numbers or of series."""
    if upper:
        return [row[::-1] for row in factor([row[::-1] for row in A[::-1]])[::-1]]
    n = len(A)
    zero = A[0][0] - A[0][0]
    L = [[zero] * n for _ in range(n)]
    for j in range(n):
        L[j][j] = (A[j][j] - sum((L[j][k] * L[j][k] for k in range(j)), zero)).sqrt()
        for i in range(j + 1, n):
            L[i][j] = (A[i][j] - sum((L[i][k] * L[j][k] for k in range(j)), zero)) / L[j][j]
    return L


# -- one rule a template: the definition of what the host function returns -----------------------------------------------

Rule = Callable[["Reference", Function, list[Any], Sequence[Any]], tuple[Any, ...]]


def grown(
    start: Any, initial: Matrix, end: Any, right: Callable[[Any], tuple[Matrix, Matrix, Matrix]], terms: int
) -> Matrix:
    """X(end) of X' = L X + X M + N from X(start) = initial; ``right`` gives the series of L, M, N around a time."""

    def series(centre: Any, value: Matrix) -> list[Matrix]:
        L, M, N = right(centre)
        shape = range(len(value)), range(len(value[0]))
        X = [[flint.arb_series([e]) for e in row] for row in value]
        coefficients = [value]
        for k in range(terms - 1):
            slope = _sum(_sum(_mul_any(L, X), _mul_any(X, M)), N)
            coefficients.append([[slope[i][j][k] / (k + 1) for j in shape[1]] for i in shape[0]])
            X = [[flint.arb_series([c[i][j] for c in coefficients]) for j in shape[1]] for i in shape[0]]
        return coefficients

    return Flow(start, initial, series).value(end)


def _sum(A: Matrix, B: Matrix) -> Matrix:
    return [[a + b for a, b in zip(ra, rb, strict=True)] for ra, rb in zip(A, B, strict=True)]


def _scaled(A: Matrix, c: Any) -> Matrix:
    return [[c * e for e in row] for row in A]


def zeros(rows: int, columns: int) -> Matrix:
    return [[flint.arb_series([0])] * columns for _ in range(rows)]


def eye(n: int) -> Matrix:
    return [[flint.arb(int(i == j)) for j in range(n)] for i in range(n)]


def _integral(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    upper, lower = args
    lets = ref.view.sde.let
    expr = sp.Matrix([[lets.get(str(function.data["of"]), function.data["of"])]])
    one = zeros(1, 1)
    return (grown(lower, [[flint.arb(0)]], upper, lambda c: (one, one, ref.series(expr, c)), ref.view.terms)[0][0],)


def _transition(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (_propagator(ref, function.data["generator"], args[1], args[0]),)


def _propagator(ref: Reference, generator: sp.Matrix, start: Any, end: Any) -> Matrix:
    n = generator.shape[0]
    none = zeros(n, n)
    return grown(start, eye(n), end, lambda c: (ref.series(generator, c), none, none), ref.view.terms)


def _alpha(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (ref.psi(args[0])[0][0],)


def _sigma(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (ref.sigma(args[0])[0][0].sqrt(),)


def _denoiser(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return bridge(ref.view.sde.data[0], ref.psi(args[0]), ref.sigma(args[0]))


def bridge(data: int, psi: Matrix, sigma: Matrix) -> tuple[Matrix, Matrix, Matrix, Any]:
    """(skip, out, inp, sigma_eff) from Psi and Sigma, numbers or series alike."""
    column = [[row[data]] for row in psi]
    precision = solve(sigma)
    out = _mul_any(precision, column)
    weight = _mul_any(_transpose(column), out)[0][0]
    return [[-e for e in row] for row in precision], out, [[e[0] / weight for e in out]], 1 / weight.sqrt()


def _edm(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return preconditioned(_denoiser(ref, function, args, times), ref.params["sigma_data"])


def preconditioned(found: tuple[Any, ...], d: Any) -> tuple[Any, ...]:
    """The bridge of D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4)."""
    skip, out, inp, sigma = found
    width = (sigma * sigma + d * d).sqrt()
    gain = _scaled(_mul_any(out, inp), d * d / (width * width))
    return _sum(skip, gain), _scaled(out, sigma * d / width), _scaled(inp, 1 / width), sigma.log() / 4


def _eps(upper: bool) -> Rule:
    def rule(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
        L = factor(ref.sigma(args[0]), upper)
        return _scaled(_transpose(_inverse(L)), -1), _scaled(_transpose(L), -1)

    return rule


def _gddim(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    end = times[-1]
    flow = Flow(end, cholesky(ref.sigma(end)), ref.view._gddim_series)
    found = [flow.value(time) if time > end else flow.initial for time in args]
    return tuple(_scaled(_transpose(M), -1) for R in found for M in (_inverse(R), R))


def _transport_score(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    t1, t0 = args
    R0 = cholesky(ref.sigma(t0))
    U = _mul(Flow(t0, R0, ref.view._gddim_series).value(t1), _inverse(R0))
    psi = _mul(ref.psi(t1), _inverse(ref.psi(t0)))
    gap = _mul(_sum(psi, _scaled(U, -1)), ref.sigma(t0))
    kind = function.data["kind"]
    return psi, _mul(gap, _eps(kind == "upper")(ref, function, [t0], times)[0]) if kind else gap


def _tweedie(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    pull = [_inverse(ref.psi(args[0]))[ref.view.sde.data[0]]]
    return pull, _mul(pull, ref.sigma(args[0]))


def _offset(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (ref.view._offset_flow.value(args[0]),)


def _exact(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """Backward from s to t: X' = gen X, C' = gen C + C gen^T - V, C = 0 at s; Y' = gen Y - offset, Y = 0 at s."""
    end, start = args
    functions = ref.functions
    generator, noise = function.data["generator"], functions[function.data["noise"]].data["entries"]
    n = generator.shape[0]

    def right(centre: Any) -> tuple[Matrix, Matrix, Matrix]:
        L, G = ref.series(generator, centre), ref.series(noise, centre)
        return L, _transpose(L), _scaled(_mul_any(G, _transpose(G)), -1)

    C = grown(start, _scaled(eye(n), 0), end, right, ref.view.terms)
    used = function.data["reached"]
    small = factor([[C[i][j] for j in used] for i in used])
    place = {i: a for a, i in enumerate(used)}
    L = [[small[place[i]][place[j]] if i in place and j in place else flint.arb(0) for j in range(n)] for i in range(n)]
    if "drift" not in function.data:
        return _propagator(ref, generator, start, end), L
    drift = functions[function.data["drift"]].data["entries"]
    m = drift.shape[1]
    none = [[flint.arb(0)] * m for _ in range(n)]

    def moving(centre: Any) -> tuple[Matrix, Matrix, Matrix]:
        return ref.series(generator, centre), zeros(m, m), _scaled(ref.series(drift, centre), -1)

    return _propagator(ref, generator, start, end), L, grown(start, none, end, moving, ref.view.terms)


def _conjugate(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """[Q | C | Phi | D]' = Q [rate | full_others | score out | drift] from [I | 0 | 0 | 0] at t1."""
    t1, t0 = args
    functions = ref.functions
    rows, others = function.data["rows"], function.data["others"]
    r, n = len(rows), ref.view.sde.n
    linear, score = (function.data[f"{word}_entries"] for word in ("linear", "score"))
    B = function.data["B_entries"]
    frame = functions[function.data["frame"]] if function.data["frame"] else None
    own = function.data.get("shift_entries")

    def drift(centre: Any, S: Matrix, skip: Matrix | None) -> Matrix:
        if own is None:
            return [[] for _ in rows]
        origin = ref.offset(centre)
        found = _sum(ref.series(own, centre), _scaled(_mul_any(ref.series(B, centre), [origin[i] for i in rows]), -1))
        return _sum(found, _scaled(_mul_any(_mul_any(S, skip), origin), -1)) if skip is not None else found

    def right(centre: Any) -> tuple[Matrix, Matrix, Matrix]:
        S, full = ref.series(score, centre), ref.series(linear, centre)
        skip, out = _frame(ref, frame, centre)
        full = _sum(full, _mul_any(S, skip)) if skip is not None else full
        rate = _sum([[row[j] for j in rows] for row in full], ref.series(B, centre))
        blocks = [
            [*a, *(row[j] for j in others), *c, *d]
            for a, row, c, d in zip(rate, full, _mul_any(S, out) if out else S, drift(centre, S, skip), strict=True)
        ]
        width = len(blocks[0])
        M = [*blocks, *zeros(width - r, width)]
        return zeros(r, r), M, zeros(r, width)

    m = own.shape[1] if own is not None else 0
    width = r + len(others) + (len(_frame(ref, frame, t1)[1][0]) if frame else n) + m
    start = [[*row, *([flint.arb(0)] * (width - r))] for row in eye(r)]
    X = grown(t1, start, t0, right, ref.view.terms)
    cuts = [0, r, r + len(others), width - m, width]
    return tuple([row[a:b] for row in X] for a, b in pairwise(cuts))[: 4 if m else 3]


def _frame(ref: Reference, frame: Function | None, centre: Any) -> tuple[Matrix | None, Any]:
    """Series of C_skip (None where it is zero) and of C_out (None where it is I) around a time."""
    if frame is None:
        return None, None
    if frame.template == "frame":
        functions = ref.functions
        skip, out = (ref.series(functions[name].data["entries"], centre) for name in ("frame_skip", "frame_out"))
        return skip, out
    psi, sigma = ref.law(centre)
    if frame.template in ("eps_lower", "eps_upper"):
        inverse = invert(factor(sigma, frame.template == "eps_upper"))
        return None, [[-e for e in row] for row in _transpose(inverse)]
    found = bridge(ref.view.sde.data[0], psi, sigma)
    return (preconditioned(found, ref.params["sigma_data"]) if frame.template == "edm" else found)[:2]


def invert(L: Matrix) -> Matrix:
    """The inverse of a triangular matrix of series, by way of the positive definite L^T L."""
    return _mul_any(solve(_mul_any(_transpose(L), L)), _transpose(L))


def _phi(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """One block: Q' = Q (b - F + G^2 C_skip / 2), Phi' = Q G^2 C_out / 2."""
    t1, t0 = args

    def right(centre: Any) -> tuple[Matrix, Matrix, Matrix]:
        psi, variance = ref.law(centre)
        a, s, d = sp.symbols("a s d")
        skip, out, _, _ = scalar(function.data["parameterization"], a, s, t, d)
        known = {a: psi[0][0], s: variance[0][0].sqrt(), d: ref.params.get("sigma_data", flint.arb(1))}
        clock = flint.arb_series([centre, 1])
        C_skip, C_out = (jet(sp.sympify(e), known, clock) for e in (skip, out))
        F, V, b = (
            ref.series(sp.Matrix([[e]]), centre)[0][0]
            for e in (ref.view.sde.F_let[0, 0], ref.view.sde.GG_let[0, 0], function.data["b"])
        )
        return zeros(1, 1), [[b - F + V * C_skip / 2, V * C_out / 2], [flint.arb_series([0])] * 2], zeros(1, 2)

    return (grown(t1, [[flint.arb(1), flint.arb(0)]], t0, right, ref.view.terms)[0][1],)


def _time_of(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """The zero of log(alpha/sigma) - lambda, which falls in t: halving, then Newton's iteration."""
    low, high = (_arb(end) for end in ref.view.sde.time)

    def gap(time: Any) -> Any:
        return (ref.psi(time)[0][0] ** 2 / ref.sigma(time)[0][0]).log() / 2 - args[0]

    for _ in range(60):
        middle = ((low + high) / 2).mid()
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    time = ((low + high) / 2).mid()
    for _ in range(6):  # each doubles the digits
        with _terms(2):
            power = ref.series(sp.Matrix([[ref.view.sde.GG_let[0, 0]]]), time)[0][0][0]
        time = (time + 2 * gap(time) * ref.sigma(time)[0][0] / power).mid()
    return (time,)


def _phi_function(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """phi_k by its recurrence, whose cancellation 400 bits outlast."""
    value = args[0].exp()
    for k in range(function.data["order"]):
        value = (value - 1 / flint.arb(math.factorial(k))) / args[0]
    return (value,)


RULES: dict[str, Rule] = {
    "integral": _integral, "integral_by_quadrature": _integral, "alpha": _alpha, "alpha_given": _alpha,
    "denoiser": _denoiser, "edm": _edm,
    "denoiser_scalar": _denoiser, "eps_lower": _eps(False), "eps_upper": _eps(True), "eps_gddim": _gddim,
    "offset": _offset, "offset_scalar": _offset, "transport_score": _transport_score, "tweedie": _tweedie,
    "exact": _exact, "exact_ordered": _exact, "conjugate_closed": _conjugate, "conjugate_bridge": _conjugate,
    "conjugate_ordered": _conjugate, "phi_scalar": _phi, "time_of": _time_of, "phi_function": _phi_function,
    **{f"transition_{kind}": _transition for kind in ("scalar", "pair", "n", "clock", "ordered", "ratio")},
    **{f"sigma_{kind}": _sigma for kind in ("stationary", "grown", "by_quadrature", "given")},
}  # fmt: skip


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


def reference(method: Method, params: Mapping[str, Any]) -> Reference:
    """The reference of a method at these parameters (arb or float; all of the program's)."""
    exact = {name: value if isinstance(value, flint.arb) else _arb(value) for name, value in params.items()}
    own = {name: exact.get(name, _arb(default)) for name, default in method.sde.params.items()}
    return Reference(method, NumericSDE(method.sde, own), exact)


def worst(
    method: Method,
    columns: Callable[[int], Sequence[tuple[str, sp.Expr]]],
    times: Sequence[float],
    table: Sequence[Sequence[float]],
    rows: Sequence[int],
) -> Worst:
    """The worst entry of the chosen rows of a float64 table; ``columns(i)`` are the (name, host expression) of row i."""
    params = method.params
    exact = [_arb(time) for time in times]
    base = reference(method, params)
    with flint.ctx.workprec(PRECISION):
        shifted = {
            name: tuple(reference(method, {**params, name: _arb(value) * (1 + sign * STEP)}) for sign in (1, -1))
            for name, value in params.items()
            if value
        }
    found = Worst("-", 0.0, 0.0, 0.0, 0.0)
    for i in rows:
        names, exprs = zip(*columns(i), strict=True)
        true = base.row(exact, i, exprs)
        gaps = [abs(_arb(value) - c) for value, c in zip(table[i], true, strict=True)]
        relative = [
            float((gap / abs(c)).mid()) if c != 0 else float(gap.mid()) for gap, c in zip(gaps, true, strict=True)
        ]
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
