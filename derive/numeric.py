"""The numeric view of a LinearSDE: any number of blocks, any F(t), to far more digits than float64 holds.

Psi and Sigma come from their Taylor series at a chain of centres a_0 = time[0] < a_1 < ..., in ball arithmetic (Arb):

    Psi' = F Psi,   Sigma' = F Sigma + Sigma F^T + G G^T,   (k + 1) c_{k+1} = sum_j F_j c_{k-j} + ...

Starting at time[0] keeps the relative size of small entries, which an error control in a norm would lose.  The panels
are cut where the last kept terms fall below 2^-PRECISION; balls bound rounding, and a second setting (terms, precision)
bounds truncation (tests/test_numeric.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import InputError, Unsupported

from .budget import check, within
from .calculus import plain, t

if TYPE_CHECKING:
    from .sde import LinearSDE

PRECISION = 400  # bits carried
ACCURACY = 260  # bits to which a panel's series is summed
TERMS = 64
Series = Any  # flint.arb_series
Matrix = list[list[Any]]

_FUNCTIONS: dict[Any, Callable[[Any], Any]] = {
    sp.exp: lambda x: x.exp(), sp.log: lambda x: x.log(), sp.sin: lambda x: x.sin(), sp.cos: lambda x: x.cos(),
    sp.tan: lambda x: x.tan(), sp.sinh: lambda x: (x.exp() - (-x).exp()) / 2, sp.cosh: lambda x: (x.exp() + (-x).exp()) / 2,
    sp.tanh: lambda x: 1 - 2 / ((2 * x).exp() + 1), sp.atan: lambda x: x.atan(), sp.asin: lambda x: x.asin(),
    sp.acos: lambda x: x.acos(),
}  # fmt: skip


def jet(expr: sp.Expr, values: Mapping[sp.Symbol, Any], clock: Series) -> Series:
    """The Taylor series of an expression in t along ``clock``, parameters replaced by ``values`` (arb)."""
    if expr == t:
        return clock
    if expr.is_Rational:
        return flint.arb_series([flint.fmpq(int(expr.p), int(expr.q))])
    if expr.is_Symbol:
        value = values[expr]
        return value if isinstance(value, flint.arb_series) else flint.arb_series([value])
    if expr == sp.pi:
        return flint.arb_series([flint.arb.pi()])
    if expr == sp.E:
        return flint.arb_series([flint.arb(1).exp()])
    args = [jet(arg, values, clock) for arg in expr.args]
    if expr.is_Add:
        return sum(args[1:], args[0])
    if expr.is_Mul:
        product = args[0]
        for arg in args[1:]:
            product = product * arg
        return product
    if expr.is_Pow:
        return _power(args[0], expr.exp, args[1])
    if expr.func in _FUNCTIONS:
        return _FUNCTIONS[expr.func](args[0])
    raise Unsupported(
        f"no Taylor series for {expr.func.__name__}",
        "write the entry with exp, log, sqrt and the trigonometric functions",
    )


def _power(base: Series, exponent: sp.Expr, power: Series) -> Series:
    if exponent.is_Integer:
        return base ** int(exponent) if exponent >= 0 else 1 / base ** int(-exponent)
    if exponent == sp.Rational(1, 2):
        return base.sqrt()
    if exponent == -sp.Rational(1, 2):
        return 1 / base.sqrt()
    return (power * base.log()).exp()


def _arb(value: Any) -> Any:
    """The float64 itself, exactly: parameters and times are taken as given.  A ball stays what it is."""
    return value if isinstance(value, flint.arb) else flint.arb(float(value))


def _float(entries: Matrix) -> np.ndarray:
    return np.array([[float(e.mid()) for e in row] for row in entries])


def _mul(A: Matrix, B: Matrix) -> Matrix:
    zero = flint.arb(0)
    return [[sum((a * b for a, b in zip(row, col, strict=True)), zero) for col in zip(*B, strict=True)] for row in A]


def _size(A: Matrix) -> Any:
    """The largest entry by magnitude as a ball; None where all vanish.  (A float would overflow near t = 0.)"""
    sizes = [abs(e).mid() for row in A for e in row if e != 0]
    largest = None
    for size in sizes:
        largest = size if largest is None or size > largest else largest
    return largest if largest is not None and largest > 0 else None


def _transpose(A: Matrix) -> Matrix:
    return [list(col) for col in zip(*A, strict=True)]


def _inverse(A: Matrix) -> Matrix:
    return [[e for e in row] for row in flint.arb_mat(A).inv().tolist()]


def cholesky(S: Matrix) -> Matrix:
    """The lower triangular L with positive diagonal and L L^T = S."""
    n = len(S)
    L = [[flint.arb(0)] * n for _ in range(n)]
    for j in range(n):
        L[j][j] = (S[j][j] - sum((L[j][k] ** 2 for k in range(j)), flint.arb(0))).sqrt()
        for i in range(j + 1, n):
            L[i][j] = (S[i][j] - sum((L[i][k] * L[j][k] for k in range(j)), flint.arb(0))) / L[j][j]
    return L


@dataclass(frozen=True)
class Panel:
    """Taylor coefficients of a matrix-valued function at ``centre``, good up to ``centre + width``."""

    centre: Any
    width: Any
    coefficients: list[Matrix]

    def value(self, time: Any) -> Matrix:
        x = time - self.centre
        total = self.coefficients[-1]
        for c in reversed(self.coefficients[:-1]):
            total = [[a * x + b for a, b in zip(ra, rb, strict=True)] for ra, rb in zip(total, c, strict=True)]
        return total


@dataclass
class Flow:
    """The chain of panels of a linear matrix equation X' = right(jets, X), grown as far as it is asked for."""

    start: Any
    initial: Matrix
    series: Callable[[Any, Matrix], list[Matrix]]  # (centre, value there) -> coefficients
    panels: list[Panel] = field(default_factory=list)

    def value(self, time: Any) -> Matrix:
        sign = 1 if not self.panels else (1 if self.panels[0].width > 0 else -1)
        if not self.panels:
            sign = 1 if time >= self.start else -1
        while not self.panels or sign * (self.panels[-1].centre + self.panels[-1].width - time) < 0:
            self._grow(sign)
        low, high = 0, len(self.panels) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sign * (time - self.panels[middle].centre) >= 0 else (low, middle - 1)
        return self.panels[low].value(time)

    def _grow(self, sign: int) -> None:
        last = self.panels[-1] if self.panels else None
        centre = last.centre + last.width if last else self.start
        value = last.value(centre) if last else self.initial
        if len(self.panels) > 4000:
            raise Unsupported("the SDE is too stiff or singular for the Taylor route", "shorten the time span")
        check()
        coefficients = self.series(centre, value)
        width = None
        scale = _size(coefficients[0]) or flint.arb(1)
        for k in (len(coefficients) - 1, len(coefficients) - 2, len(coefficients) - 3):
            if size := _size(coefficients[k]):
                bound = float((((scale / size).log() - ACCURACY * flint.arb(2).log()) / k).exp().mid())
                width = bound if width is None else min(width, bound)
        if width is not None and not width > 0:
            raise Unsupported(
                f"the coefficients are not analytic near t = {float(centre.mid()):.6g}", "shorten the time span"
            )
        self.panels.append(Panel(centre, flint.arb(sign * min(width or 1e6, 1e6)), coefficients))


@dataclass(frozen=True)
class NumericSDE:
    """A LinearSDE at given parameter values; arguments and results are float64, the work between is not.

    ``transition(t, s)`` -> (n, n), ``covariance(t)`` -> (n, n), ``factor(t, kind)`` -> (n, n) with factor @ factor.T =
    covariance, ``effective_sigma(t)`` -> array like t.  Times must lie in the span of the SDE.
    """

    sde: LinearSDE
    params: Mapping[str, float]
    terms: int = TERMS

    @classmethod
    def of(cls, sde: LinearSDE, params: Mapping[str, float]) -> NumericSDE:
        return cls(sde, dict(params))

    @cached_property
    def _values(self) -> dict[sp.Symbol, Any]:
        return {self.sde.symbols[name]: _arb(value) for name, value in self.params.items()}

    def jets(self, entries: sp.Matrix, centre: Any, terms: int | None = None) -> list[list[Series]]:
        """Taylor series of the entries of a matrix of expressions, at ``centre``."""
        cap = flint.ctx.cap
        flint.ctx.cap = terms or self.terms
        try:
            clock = flint.arb_series([centre, 1])
            return [[jet(plain(e), self._values, clock) for e in row] for row in entries.tolist()]
        except (ValueError, ZeroDivisionError):  # a pole, or a branch point, at the centre
            place = f"t = {float(flint.arb(centre).mid()):.6g}"
            raise Unsupported(f"{self.sde.name} has no Taylor series at {place}", "shorten the time span") from None
        finally:
            flint.ctx.cap = cap

    def _coefficients(self, jets: list[list[Series]], k: int) -> Matrix:
        return [[e[k] for e in row] for row in jets]

    def _psi_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        F = self.jets(self.sde.F, centre)
        Fk = [self._coefficients(F, k) for k in range(self.terms)]
        series = [value]
        for k in range(self.terms - 1):
            series.append(_scaled(_summed(_mul(Fk[j], series[k - j]) for j in _nonzero(Fk, k)), k + 1, value))
        return series

    def _sigma_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        F, V = self.jets(self.sde.F, centre), self.jets(self.sde.GG, centre)
        Fk = [self._coefficients(F, k) for k in range(self.terms)]
        series = [value]
        for k in range(self.terms - 1):
            half = _summed(_mul(Fk[j], series[k - j]) for j in _nonzero(Fk, k))
            right = self._coefficients(V, k)
            if half is not None:
                right = [
                    [a + b + c for a, b, c in zip(*rows, strict=True)]
                    for rows in zip(right, half, _transpose(half), strict=True)
                ]
            series.append(_scaled(right, k + 1, value))
        return series

    @cached_property
    def _flows(self) -> tuple[Flow, Flow]:
        with flint.ctx.workprec(PRECISION):
            start = _arb(self.sde.time[0])
            n = self.sde.n
            eye = [[flint.arb(int(i == j)) for j in range(n)] for i in range(n)]
            initial = self._coefficients(self.jets(self.sde.initial, start, 1), 0)
        return Flow(start, eye, self._psi_series), Flow(start, initial, self._sigma_series)

    def _checked(self, time: float) -> float:
        low, high = self.sde.time
        if not low <= time <= high:
            raise InputError(
                self.sde.name, "t", f"{time!r} lies outside the span [{low}, {high}]", "choose a time in the span"
            )
        return float(time)

    def exact_transition(self, upper: float, lower: float) -> Matrix:
        """Psi(upper, lower) as balls of PRECISION bits."""
        with flint.ctx.workprec(PRECISION):
            psi = self._flows[0]
            up = psi.value(_arb(self._checked(upper)))
            return up if lower == self.sde.time[0] else _mul(up, _inverse(psi.value(_arb(self._checked(lower)))))

    def exact_covariance(self, time: float) -> Matrix:
        """Sigma as balls of PRECISION bits."""
        with flint.ctx.workprec(PRECISION):
            return self._flows[1].value(_arb(self._checked(time)))

    @within("the numeric transition")
    def transition(self, t: float, s: float) -> np.ndarray:
        """Psi(t, s), float64 (n, n); t < s is allowed."""
        return _float(self.exact_transition(t, s))

    @within("the numeric covariance")
    def covariance(self, t: float) -> np.ndarray:
        """Sigma_t, float64 (n, n)."""
        return _float(self.exact_covariance(t))

    @within("the numeric factor")
    def factor(self, t: float, kind: str = "lower", end: float = 1e-3) -> np.ndarray:
        """A factor of Sigma_t: ``lower`` or ``upper`` Cholesky, or ``gddim``, R' = (F + G G^T Sigma^-1 / 2) R.

        R is anchored by R = lower Cholesky at the data end ``end`` of the grid (O = I there).
        """
        with flint.ctx.workprec(PRECISION):
            S = self.exact_covariance(t)
            if kind == "lower":
                return _float(cholesky(S))
            if kind == "upper":
                flipped = [row[::-1] for row in S[::-1]]
                return _float([row[::-1] for row in cholesky(flipped)[::-1]])
            if kind == "gddim":
                return _float(self._gddim(end, t))
        raise InputError(self.sde.name, "kind", f"no factor {kind!r}", "choose lower, upper or gddim")

    def _gddim(self, end: float, time: float) -> Matrix:
        key = float(end)
        flows = self.__dict__.setdefault("_gddim_flows", {})
        side = (key, time >= key)
        if side not in flows:
            flows[side] = Flow(_arb(key), cholesky(self.exact_covariance(key)), self._gddim_series)
        R, S = flows[side].value(_arb(self._checked(time))), self.exact_covariance(time)
        for i, row in enumerate(_mul(R, _transpose(R))):
            for j, e in enumerate(row):
                if not abs(e - S[i][j]).mid() < 2.0**-60 * (S[i][i] * S[j][j]).sqrt().mid():
                    raise Unsupported(
                        f"R anchored at t = {end} has lost its digits at t = {time}", "anchor it nearer: end=..."
                    )
        return R

    def _gddim_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        """Series of R from R' = F R + (G G^T / 2) Q with Q = R^-T, that is Q^T R = I.

        A panel starts from the midpoints: carried over many panels the balls would grow until R seemed singular.
        """
        value = [[e.mid() for e in row] for row in value]
        F, V = self.jets(self.sde.F, centre), self.jets(self.sde.GG, centre)
        Fk, Vk = ([self._coefficients(j, k) for k in range(self.terms)] for j in (F, V))
        R, Q = [value], [_transpose(_inverse(value))]
        for k in range(self.terms - 1):
            right = _summed(
                [
                    *(_mul(Fk[j], R[k - j]) for j in _nonzero(Fk, k)),
                    *(_halved(_mul(Vk[j], Q[k - j])) for j in _nonzero(Vk, k)),
                ]
            )
            R.append(_scaled(right, k + 1, value))
            rest = _summed(_mul(_transpose(R[j]), Q[k + 1 - j]) for j in range(1, k + 2))
            Q.append([[-e for e in row] for row in _mul(Q[0], rest)])
        return R

    @within("the effective sigma")
    def effective_sigma(self, t: Any) -> np.ndarray:
        """The standard deviation of the best linear unbiased estimate of the data: (e^T Psi^T Sigma^-1 Psi e)^(-1/2).

        For one block it is sigma / alpha.  Strictly increasing in t; raises Unsupported for more than one data block.
        """
        if len(self.sde.data) != 1:
            raise Unsupported(
                f"{self.sde.name} has {len(self.sde.data)} data blocks", "the effective sigma needs exactly one"
            )
        times = np.asarray(t, dtype=np.float64)
        return np.array([self._effective(float(v)) for v in times.ravel()]).reshape(times.shape)

    def _effective(self, time: float) -> float:
        with flint.ctx.workprec(PRECISION):
            column = [[row[self.sde.data[0]]] for row in self.exact_transition(time, self.sde.time[0])]
            weight = _mul(_transpose(column), _mul(_inverse(self.exact_covariance(time)), column))[0][0]
            return float((1 / weight).sqrt().mid())


def _nonzero(series: list[Matrix], upto: int) -> list[int]:
    return [j for j in range(upto + 1) if any(e != 0 for row in series[j] for e in row)]


def _summed(terms: Any) -> Any:
    total: Matrix | None = None
    for term in terms:
        total = (
            term
            if total is None
            else [[a + b for a, b in zip(ra, rb, strict=True)] for ra, rb in zip(total, term, strict=True)]
        )
    return total


def _scaled(M: Matrix | None, divisor: int, like: Matrix) -> Matrix:
    if M is None:
        return [[flint.arb(0)] * len(row) for row in like]
    return [[e / divisor for e in row] for row in M]


def _halved(M: Matrix) -> Matrix:
    return _scaled(M, 2, M)
