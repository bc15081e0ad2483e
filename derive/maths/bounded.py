"""SymPy's rewriting within limits: what is larger stays as it is written, or is refused by name.

``cancel``, ``simplify``, ``factor``, ``expand`` and linear solves multiply an expression out over one denominator.  Their
time grows with the monomials of the result, so these are counted first, without multiplying anything:

    monomials(a + b) <= monomials(a) m(den_b) + monomials(b) m(den_a),    monomials(a b) <= monomials(a) monomials(b)

and never more than the box of degrees, prod_g (1 + deg_g) over the generators g: names, and whatever is no sum,
product or integer power.  Denominators are kept as powers of factors as they stand, so that equal ones count once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import sympy as sp

from stepsmith.errors import Unsupported

MAX_MONOMIALS = 500  # of an expression that may be multiplied out
MAX_TIDY = 40  # nodes of an expression that simplify may work on, monomials of a quotient made canonical
MAX_CLOSED = 200  # terms of an integrand that is integrated term by term
MAX_DEGREE = 24  # in t of a polynomial that is integrated in closed form


@dataclass(frozen=True)
class Extent:
    """Bounds on a rational function over one denominator: degrees in its generators, and monomials of the numerator."""

    degrees: Counter[Any]
    monomials: int
    below: Counter[Any]  # factor of the denominator -> power

    @property
    def terms(self) -> int:
        """Monomials of the numerator, multiplied out."""
        return min(self.monomials, math.prod(1 + d for d in self.degrees.values()))


class Counting:
    """Counts what expressions would be, multiplied out; each part once."""

    def __init__(self) -> None:
        self.seen: dict[sp.Basic, Extent] = {}

    def __call__(self, expr: sp.Expr) -> Extent:
        if expr not in self.seen:
            self.seen[expr] = self._count(expr)
        return self.seen[expr]

    def _count(self, expr: Any) -> Extent:
        if expr.is_Rational:
            return Extent(Counter(), 1, Counter())
        if expr.is_Add:
            return self._sum([self(part) for part in expr.args])
        if expr.is_Mul:
            return _product((self(part), 1) for part in expr.args)
        if expr.is_Pow and expr.exp.is_Integer:
            above = _product([(self(expr.base), abs(int(expr.exp)))])
            if expr.exp > 0:
                return above
            return replace(self._factors(above.below), below=Counter({expr.base: abs(int(expr.exp))}))
        return Extent(Counter({expr: 1}), 1, Counter())

    def _factors(self, factors: Counter[Any]) -> Extent:
        """The product of the numerators of these powers."""
        return replace(_product((self(f), power) for f, power in factors.items()), below=Counter())

    def _sum(self, parts: list[Extent]) -> Extent:
        below: Counter[Any] = Counter()
        for part in parts:
            below |= part.below
        degrees, monomials = Counter[Any](), 0
        for part in parts:
            missing = self._factors(below - part.below)
            monomials += part.monomials * missing.monomials
            degrees |= part.degrees + missing.degrees
        return Extent(degrees, monomials, below)

    def terms(self, expr: sp.Expr) -> int:
        """Monomials of the numerator or of the denominator, whichever has more."""
        extent = self(expr)
        return max(extent.terms, self._factors(extent.below).terms)


def _product(powers: Iterable[tuple[Extent, int]]) -> Extent:
    """The product of some powers; that of a sum of m terms to the power k has as many as there are products of k of m."""
    degrees, below, monomials = Counter[Any](), Counter[Any](), 1
    for part, power in powers:
        degrees.update({g: d * power for g, d in part.degrees.items()})
        below.update({f: k * power for f, k in part.below.items()})
        monomials *= math.comb(part.monomials + power - 1, power)
    return Extent(degrees, monomials, below)


def monomials(expr: sp.Expr) -> int:
    """A bound on the monomials of numerator and denominator, were the expression multiplied out over one denominator."""
    return Counting().terms(sp.sympify(expr))


def tame(expr: sp.Expr) -> bool:
    """Whether SymPy may multiply the expression out, over one denominator."""
    return monomials(expr) <= MAX_MONOMIALS


def cancelled(expr: sp.Expr) -> sp.Expr:
    """The quotient of two coprime polynomials that the expression is; a large one stays as it is written."""
    return sp.cancel(expr) if tame(expr) else expr


def small(expr: sp.Basic, most: int) -> bool:
    """Whether an expression has at most so many nodes, a shared part counted each time."""
    return sum(1 for _ in islice(sp.preorder_traversal(expr), most + 1)) <= most


def tidied(expr: sp.Expr) -> sp.Expr:
    """The expression after simplify, if it has at most MAX_TIDY nodes and is tame; else as it is written."""
    return sp.simplify(expr) if small(expr, MAX_TIDY) and tame(expr) else expr


def inverse(M: sp.Matrix) -> sp.Matrix:
    """The inverse of a matrix; Unsupported where its cofactors could have more than MAX_MONOMIALS monomials each.

    One or two rows, and a diagonal, are inverted as they stand.
    """
    if not solvable(M):
        what = f"the inverse of a matrix of {M.shape[0]} rows has too many terms"
        raise Unsupported(what, "state the matrix instead")
    return M.inv()


def solvable(M: sp.Matrix) -> bool:
    """Whether equations with this matrix are solved in symbols: it is diagonal, has two rows, or small cofactors."""
    count = Counting()
    widths = [sum(count.terms(e) for e in row if e != 0) for row in M.tolist()]
    return M.shape[0] <= 2 or M.is_diagonal() or math.prod(sorted(widths)[1:]) <= MAX_MONOMIALS**2
