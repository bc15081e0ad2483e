"""Matrices of balls (Arb) and of their Taylor series, and linear matrix equations followed by Taylor series.

    X' = L X + X M + N,   (k + 1) X_{k+1} = sum_j (L_{k-j} X_j + X_j M_{k-j}) + N_k

from a chain of centres a_0, a_1, ..., each panel cut where its last terms fall below 2^-accuracy of the first.  Starting at
a time where entries are small keeps their relative size, which an error control in a norm would lose.  Balls bound
rounding; truncation is bounded by a second setting (terms, accuracy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import Unsupported

from .budget import check
from .calculus import plain, t

PATIENCE, PANELS = 300, 1500  # panels before a chain is asked how many more it needs, and how many more it may need
STIFF = "too large, or too far apart, for its time span (stiff or singular)"
SHORTEN = "shorten the time span, or start it later"
Series = Any  # flint.arb_series
Matrix = list[list[Any]]

_FUNCTIONS: dict[Any, Callable[[Any], Any]] = {
    sp.exp: lambda x: x.exp(), sp.log: lambda x: x.log(), sp.sin: lambda x: x.sin(), sp.cos: lambda x: x.cos(),
    sp.tan: lambda x: x.tan(), sp.sinh: lambda x: (x.exp() - (-x).exp()) / 2, sp.cosh: lambda x: (x.exp() + (-x).exp()) / 2,
    sp.tanh: lambda x: 1 - 2 / ((2 * x).exp() + 1), sp.atan: lambda x: x.atan(), sp.asin: lambda x: x.asin(),
    sp.acos: lambda x: x.acos(), sp.Abs: lambda x: (x * x).sqrt(),
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


def arb(value: Any) -> Any:
    """The float64 itself, exactly: parameters and times are taken as given.  A ball stays what it is."""
    return value if isinstance(value, flint.arb) else flint.arb(float(value))


def floats(entries: Matrix) -> np.ndarray:
    return np.array([[float(e.mid()) for e in row] for row in entries])


@contextmanager
def terms_of(count: int) -> Iterator[None]:
    """Series of this many terms inside the block."""
    before, flint.ctx.cap = flint.ctx.cap, count
    try:
        yield
    finally:
        flint.ctx.cap = before


def series_of(entries: sp.Matrix, values: Mapping[sp.Symbol, Any], centre: Any, terms: int) -> Matrix:
    """Taylor series of the entries of a matrix of expressions, at ``centre``."""
    with terms_of(terms):
        clock = flint.arb_series([centre, 1])
        try:
            return [[jet(plain(e), values, clock) for e in row] for row in entries.tolist()]
        except (ValueError, ZeroDivisionError):  # a pole, or a branch point, at the centre
            place = f"t = {float(arb(centre).mid()):.6g}"
            raise Unsupported(f"an entry has no Taylor series at {place}", "shorten the time span") from None


# -- matrices of numbers or of series alike --------------------------------------------------------------------------------


def mul(A: Matrix, B: Matrix) -> Matrix:
    columns = transpose(B)
    products = [[[a * b for a, b in zip(row, col, strict=True)] for col in columns] for row in A]
    return [[sum(terms[1:], terms[0]) for terms in row] for row in products]


def add(A: Matrix, B: Matrix) -> Matrix:
    return [[a + b for a, b in zip(ra, rb, strict=True)] for ra, rb in zip(A, B, strict=True)]


def scaled(A: Matrix, c: Any) -> Matrix:
    return [[c * e for e in row] for row in A]


def transpose(A: Matrix) -> Matrix:
    return [list(col) for col in zip(*A, strict=True)]


def inverse(A: Matrix) -> Matrix:
    """The inverse of a matrix of numbers."""
    return [list(row) for row in flint.arb_mat(A).inv().tolist()]


def zeros(rows: int, columns: int) -> Matrix:
    return [[flint.arb_series([0])] * columns for _ in range(rows)]


def eye(n: int) -> Matrix:
    return [[flint.arb(int(i == j)) for j in range(n)] for i in range(n)]


def term(series: Matrix, k: int) -> Matrix:
    return [[e[k] for e in row] for row in series]


def joined(found: list[Matrix]) -> Matrix:
    """A list of matrix coefficients as a matrix of series."""
    n, m = len(found[0]), len(found[0][0])
    return [[flint.arb_series([c[i][j] for c in found]) for j in range(m)] for i in range(n)]


def factor(A: Matrix, upper: bool = False) -> Matrix:
    """The lower (upper) Cholesky factor, positive diagonal, of a matrix of numbers or of series."""
    if upper:
        return [row[::-1] for row in factor([row[::-1] for row in A[::-1]])[::-1]]
    n = len(A)
    if not n:  # of noise that reaches no row
        return []
    zero = A[0][0] - A[0][0]
    L = [[zero] * n for _ in range(n)]
    for j in range(n):
        L[j][j] = (A[j][j] - sum((L[j][k] * L[j][k] for k in range(j)), zero)).sqrt()
        for i in range(j + 1, n):
            L[i][j] = (A[i][j] - sum((L[i][k] * L[j][k] for k in range(j)), zero)) / L[j][j]
    return L


def forward(L: Matrix) -> Matrix:
    """The inverse of a lower triangular matrix of numbers or of series."""
    n = len(L)
    zero = L[0][0] - L[0][0]
    Z = [[zero] * n for _ in range(n)]
    for j in range(n):
        Z[j][j] = 1 / L[j][j]
        for i in range(j + 1, n):
            Z[i][j] = -sum((L[i][k] * Z[k][j] for k in range(j, i)), zero) / L[i][i]
    return Z


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
                held = rows[i][k]
                rows[i] = [a - held * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


def invert(A: Matrix) -> Matrix:
    """The inverse of any regular matrix of numbers or of series, by way of the positive definite A^T A."""
    return mul(solve(mul(transpose(A), A)), transpose(A))


def size(A: Matrix) -> Any:
    """What no entry passes in magnitude, as a ball; None where all vanish.  (A float would overflow near t = 0.)"""
    largest = None
    for value in (abs(e).upper() for row in A for e in row if not e.is_zero()):
        largest = value if largest is None or value > largest else largest
    return largest if largest is not None and largest > 0 else None


# -- linear equations --------------------------------------------------------------------------------------------------------


def linear(
    value: Matrix, terms: int, L: Matrix | None = None, M: Matrix | None = None, N: Matrix | None = None
) -> list[Matrix]:
    """The Taylor coefficients of X' = L X + X M + N from X = value; L, M, N are matrices of series, None for zero.

    The sums over j are one product of balls a term: [L_0 ... L_k] [X_k; ...; X_0] and [X_k ... X_0] [M_0; ...; M_k].
    """
    left, right = (_terms_of(series, terms) for series in (L, M))
    found = [value]
    for k in range(terms - 1):
        slope = flint.arb_mat(term(N, k)) if N is not None else flint.arb_mat(len(value), len(value[0]))
        if left:
            near = left[: k + 1]
            wide = [[e for A in near for e in A[i]] for i in range(len(value))]
            slope += flint.arb_mat(wide) * flint.arb_mat([row for X in found[: -len(near) - 1 : -1] for row in X])
        if right:
            near = right[: k + 1]
            wide = [[e for X in found[: -len(near) - 1 : -1] for e in X[i]] for i in range(len(value))]
            slope += flint.arb_mat(wide) * flint.arb_mat([row for A in near for row in A])
        found.append([[e / (k + 1) for e in row] for row in slope.tolist()])
    return found


def _terms_of(series: Matrix | None, terms: int) -> list[Matrix]:
    """The coefficients of a matrix of series, the trailing zeros left out: F is often a polynomial."""
    found = [term(series, k) for k in range(terms)] if series is not None else []
    while found and all(e == 0 for row in found[-1] for e in row):
        found.pop()
    return found


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
    accuracy: int  # bits to which a panel's series is summed
    panels: list[Panel] = field(default_factory=list)

    def value(self, time: Any) -> Matrix:
        """X(time).  Raises Unsupported where the panels become too short for the way that is left."""
        sign = 1 if not self.panels else (1 if self.panels[0].width > 0 else -1)
        if not self.panels:
            sign = 1 if time >= self.start else -1
        while not self.panels or sign * (self.panels[-1].centre + self.panels[-1].width - time) < 0:
            self._grow(sign)
            last = self.panels[-1]
            if len(self.panels) > PATIENCE and abs(time - last.centre) > PANELS * abs(last.width):
                raise Unsupported(f"the rates of the SDE are {STIFF}", SHORTEN)
        low, high = 0, len(self.panels) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sign * (time - self.panels[middle].centre) >= 0 else (low, middle - 1)
        return self.panels[low].value(time)

    def _grow(self, sign: int) -> None:
        last = self.panels[-1] if self.panels else None
        centre = last.centre + last.width if last else self.start
        value = last.value(centre) if last else self.initial
        check()
        coefficients = self.series(centre, value)
        width = None
        scale = size(coefficients[0]) or flint.arb(1)
        for k in (len(coefficients) - 1, len(coefficients) - 2, len(coefficients) - 3):
            if last_size := size(coefficients[k]):
                bound = float((((scale / last_size).log() - self.accuracy * flint.arb(2).log()) / k).exp().mid())
                width = bound if width is None else min(width, bound)
        if width is not None and not width > 0:
            raise Unsupported(
                f"the coefficients are not analytic near t = {float(centre.mid()):.6g}", "shorten the time span"
            )
        self.panels.append(Panel(centre, flint.arb(sign * min(width or 1e6, 1e6)), coefficients))
