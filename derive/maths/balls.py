"""Matrices of balls (Arb) and of their Taylor series, and linear matrix equations followed by Taylor series.

    X' = L X + X M + N,   (k + 1) X_{k+1} = sum_j (L_{k-j} X_j + X_j M_{k-j}) + N_k

from a chain of centres a_0, a_1, ..., each panel cut where its last terms fall below 2^-accuracy of the first.  Starting at
a time where entries are small keeps their relative size, which an error control in a norm would lose.  Balls bound
rounding; truncation is bounded by a second setting (terms, accuracy).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import Unsupported

from .budget import check
from .calculus import plain
from .matrix import Matrix
from .values import evaluate

PATIENCE, PANELS = 300, 1500  # panels before a chain is asked how many more it needs, and how many more it may need
STIFF = "too large, or too far apart, for its time span (stiff or singular)"
SHORTEN = "shorten the time span, or start it later"
Series = Any  # flint.arb_series


def number(expr: sp.Expr) -> Any:
    """A rational, pi or e as a ball."""
    if expr is sp.pi:
        return flint.arb.pi()
    return flint.arb(1).exp() if expr is sp.E else flint.arb(flint.fmpq(int(expr.p), int(expr.q)))


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
        return [[_series(e, values, clock) for e in row] for row in entries.tolist()]


def _series(entry: sp.Expr, values: Mapping[sp.Symbol, Any], clock: Series) -> Series:
    """The series of an expression in t along ``clock``, parameters replaced by ``values`` (arb)."""
    known = {k.name: v if isinstance(v, flint.arb_series) else flint.arb_series([v]) for k, v in values.items()}
    try:
        found = evaluate(plain(entry), {**known, "t": clock}, lambda e: flint.arb_series([number(e)]))
        if not found[0].is_nan():  # as a root that is no square root is at its branch point
            return found
        raise ValueError
    except (ValueError, ZeroDivisionError):  # a pole, or a branch point, at the centre
        what = f"the entry {str(entry)[:200]} of F, G G^T or offset has no Taylor series at t = {float(arb(clock[0]).mid()):.6g}"
        raise Unsupported(what, "shorten the time span") from None


# -- matrices of balls and of their series --------------------------------------------------------------------------------------


def inverse(A: Matrix) -> Matrix:
    """The inverse of a matrix of numbers."""
    return [list(row) for row in flint.arb_mat(A).inv().tolist()]


def eye(n: int) -> Matrix:
    return [[flint.arb(int(i == j)) for j in range(n)] for i in range(n)]


def term(series: Matrix, k: int) -> Matrix:
    return [[e[k] for e in row] for row in series]


def joined(coefficients: list[Matrix]) -> Matrix:
    """A list of matrix coefficients as a matrix of series."""
    n, m = len(coefficients[0]), len(coefficients[0][0])
    return [[flint.arb_series([c[i][j] for c in coefficients]) for j in range(m)] for i in range(n)]


def size(A: Matrix) -> Any:
    """What no entry passes in magnitude, as a ball; None where all vanish.  (A float would overflow near t = 0.)"""
    largest = max((abs(e).upper() for row in A for e in row if not e.is_zero()), default=None)
    return largest if largest is not None and largest > 0 else None


# -- linear equations --------------------------------------------------------------------------------------------------------


def linear(
    value: Matrix, terms: int, L: Matrix | None = None, M: Matrix | None = None, N: Matrix | None = None
) -> list[Matrix]:
    """The Taylor coefficients of X' = L X + X M + N from X = value; L, M, N are matrices of series, None for zero."""
    left, right = (_terms_of(series, terms) for series in (L, M))
    X = [flint.arb_mat(value)]
    for k in range(terms - 1):
        slope = flint.arb_mat(term(N, k)) if N is not None else flint.arb_mat(len(value), len(value[0]))
        for j, A in enumerate(left[: k + 1]):
            slope += A * X[k - j]
        for j, B in enumerate(right[: k + 1]):
            slope += X[k - j] * B
        X.append(slope / (k + 1))
    return [[list(row) for row in coefficient.tolist()] for coefficient in X]


def _terms_of(series: Matrix | None, terms: int) -> list[Any]:
    """The coefficients of a matrix of series, the trailing zeros left out: F is often a polynomial."""
    coefficients = [flint.arb_mat(term(series, k)) for k in range(terms)] if series is not None else []
    while coefficients and coefficients[-1] == flint.arb_mat(coefficients[-1].nrows(), coefficients[-1].ncols()):
        coefficients.pop()
    return coefficients


@dataclass(frozen=True)
class Panel:
    """Taylor coefficients of a matrix-valued function at ``centre``, good up to ``centre + width``."""

    centre: Any
    width: Any
    coefficients: list[Matrix]

    def value(self, time: Any) -> Matrix:
        x = time - self.centre
        return [[entry(x) for entry in row] for row in self._entries]

    @cached_property
    def _entries(self) -> Matrix:
        """The entries as polynomials."""
        rows = zip(*self.coefficients, strict=True)
        return [[flint.arb_poly(list(entry)) for entry in zip(*row, strict=True)] for row in rows]


@dataclass
class Flow:
    """The chain of panels of a linear matrix equation X' = right(jets, X), grown as far as it is asked for."""

    start: Any
    initial: Matrix
    series: Callable[[Any, Matrix], list[Matrix]]  # (centre, value there) -> coefficients
    accuracy: int  # bits to which a panel's series is summed
    widest: float  # of a panel
    panels: list[Panel] = field(default_factory=list)

    def value(self, time: Any) -> Matrix:
        """X(time).  Raises Unsupported where the panels become too short for the way that is left."""
        sign = 1 if (self.panels[0].width > 0 if self.panels else time >= self.start) else -1
        while not self.panels or sign * (self.panels[-1].centre + self.panels[-1].width - time) < 0:
            self._grow(sign)
            last = self.panels[-1]
            if len(self.panels) > PATIENCE and abs(time - last.centre) > PANELS * abs(last.width):
                raise Unsupported(f"the rates of the SDE are {STIFF}", SHORTEN)
        place = bisect_right(self.panels, sign * time, lo=1, key=lambda panel: sign * panel.centre)
        return self.panels[place - 1].value(time)

    def _grow(self, sign: int) -> None:
        last = self.panels[-1] if self.panels else None
        centre = last.centre + last.width if last else self.start
        value = last.value(centre) if last else self.initial
        check()
        coefficients = self.series(centre, value)
        scale, bits, terms = (
            size(coefficients[0]) or flint.arb(1),
            self.accuracy * flint.arb(2).log(),
            len(coefficients),
        )
        sizes = ((k, size(coefficients[k])) for k in (terms - 1, terms - 2, terms - 3))
        widths = [float((((scale / e).log() - bits) / k).exp().mid()) for k, e in sizes if e]
        if any(not width > 0 for width in widths):
            what = f"the coefficients are not analytic near t = {float(centre.mid()):.6g}"
            raise Unsupported(what, "shorten the time span")
        self.panels.append(Panel(centre, flint.arb(sign * min([*widths, self.widest])), coefficients))
