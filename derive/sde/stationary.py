"""The stationary law F S + S F^T + G G^T = 0: first in numbers at random points, then in symbols if it is small enough.

Numbers show at once where no law is (the equations are singular) or where it changes with t; SymPy's elimination
would find neither before it had multiplied everything out.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.bounded import MAX_MONOMIALS, MAX_TIDY, Counting
from ..maths.budget import check
from ..maths.calculus import t
from ..maths.point import BITS, Point, random_point

MAX_BLOCKS = 12  # of a law that is solved for
MAX_LAW = 5_000  # monomials of an intermediate result
NONE = "F must be stable and G G^T in proportion to it"


def equations(F: sp.Matrix, GG: sp.Matrix) -> tuple[list[sp.Expr], list[sp.Symbol], sp.Matrix]:
    """The upper triangle of F S + S F^T + G G^T, the unknowns, and S made of them."""
    n = F.shape[0]
    unknown = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"S[{min(i, j)},{max(i, j)}]"))
    residual = F * unknown + unknown * F.T + GG
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    return [residual[i, j] for i, j in pairs], [unknown[i, j] for i, j in pairs], unknown


@functools.lru_cache(64)  # the kernel, its proof and every part of a splitting ask for the same law
def solve(name: str, F: sp.Matrix, GG: sp.Matrix, F_let: sp.Matrix, GG_let: sp.Matrix) -> sp.Matrix:
    """The constant S, in the words of F_let and GG_let; F and GG are the same written out in t.

    Raises Unsupported where there is none, where it changes with t, and where it is too large to be written down.
    """
    if F.shape[0] > MAX_BLOCKS:
        raise Unsupported(f"no stationary law of more than {MAX_BLOCKS} blocks is derived", "state the matrix instead")
    _look(name, F, GG)
    rows, unknowns, unknown = equations(F_let, GG_let)
    return unknown.subs(dict(zip(unknowns, _eliminated(name, rows, unknowns), strict=True)))


def _look(name: str, F: sp.Matrix, GG: sp.Matrix) -> None:
    """Solve the equations at two times and the same random parameters."""
    values = random_point({*F.free_symbols, *GG.free_symbols, t}, random.Random(0))
    laws = [_law_at(F, GG, {**values, t: time}) for time in (values[t], values[t] / 3 + sp.Rational(1, 7))]
    if any(law is None for law in laws):
        raise Unsupported(f"{name} has no stationary law", NONE)
    if any(not (a - b).contains(0) for a, b in zip(laws[0].entries(), laws[1].entries(), strict=True)):
        what = f"the law that F and G of {name} would keep changes with t"
        raise Unsupported(what, "F and G G^T must share one clock")


def _law_at(F: sp.Matrix, GG: sp.Matrix, values: dict[sp.Symbol, sp.Rational]) -> Any:
    """The entries of S at a point, as a column of balls; None where the equations are singular to 1000 bits."""
    n = range(F.shape[0])
    for bits in (BITS, 4 * BITS):
        point = Point(values, bits)
        with flint.ctx.workprec(bits):
            f, g = ([[point(e) for e in row] for row in M.tolist()] for M in (F, GG))
            # (F S + S F^T)[i, j] = sum over k, m of (F[i, k] [j = m] + F[j, m] [i = k]) S[k, m]
            left = [[f[i][k] * (j == m) + f[j][m] * (i == k) for k in n for m in n] for i in n for j in n]
            try:
                return flint.acb_mat(left).solve(flint.acb_mat([[-e] for row in g for e in row]))
            except ZeroDivisionError:
                continue
    return None


def _eliminated(name: str, rows: list[sp.Expr], unknowns: list[sp.Symbol]) -> list[sp.Expr]:
    """The solution of linear equations over the rational functions of their names, by elimination without fractions.

    Every entry of a step is a minor of the equations (Bareiss), an integer polynomial; one of more than MAX_LAW
    monomials ends the work.  What is no sum, product or integer power counts as a name.
    """
    count = Counting()
    if any(count.terms(row) > MAX_MONOMIALS for row in rows):
        raise _too_large(name)
    generators = {g for row in rows for e in sp.fraction(sp.together(row)) for g in count(e).degrees}
    names = sorted(generators - {*unknowns}, key=str)
    context = flint.fmpz_mpoly_ctx.get(tuple(f"x{k}" for k in range(max(1, len(names)))), flint.Ordering.degrevlex)
    table = [_row(row, unknowns, names, context) for row in rows]
    last = context.from_dict({(0,) * context.nvars(): 1})
    for k in range(len(table)):
        check()
        pivot = min((r for r in range(k, len(table)) if table[r][k] != 0), key=lambda r: len(table[r][k]), default=None)
        if pivot is None:
            raise Unsupported(f"{name} has no stationary law", NONE)
        table[k], table[pivot] = table[pivot], table[k]
        top = table[k]
        for i, row in enumerate(table):
            if i != k:
                factor = row[k]
                row[:] = [_minor(name, top[k], a, factor, b) // last for a, b in zip(row, top, strict=True)]
        last = top[k]
    return [_quotient(name, row[-1], row[k], names) for k, row in enumerate(table)]


def _row(row: sp.Expr, unknowns: list[sp.Symbol], names: list[Any], context: Any) -> list[Any]:
    """The integer polynomials of an equation: the factors of the unknowns, and minus the rest."""
    try:
        poly = sp.Poly(sp.numer(sp.together(row)), *unknowns, *names, domain=sp.QQ).clear_denoms(convert=True)[1]
    except sp.CoercionFailed:  # an exponential of several terms is not among the names
        raise Unsupported("the stationary law is no rational function", NONE) from None
    parts: list[dict[tuple[int, ...], int]] = [{} for _ in range(len(unknowns) + 1)]
    for powers, c in poly.terms():
        own, rest = powers[: len(unknowns)], powers[len(unknowns) :] or (0,)
        place = own.index(1) if any(own) else len(unknowns)
        parts[place][rest] = int(c) if any(own) else -int(c)
    return [context.from_dict(part) for part in parts]


def _minor(name: str, p: Any, a: Any, q: Any, b: Any) -> Any:
    """p a - q b, its size looked at before and after."""
    if max(len(p) * len(a), len(q) * len(b)) > MAX_LAW**2 // 25:
        raise _too_large(name)
    result = p * a - q * b
    if len(result) > MAX_LAW:
        raise _too_large(name)
    return result


def _quotient(name: str, above: Any, below: Any, names: list[Any]) -> sp.Expr:
    common = above.gcd(below)
    parts = [(p // common).to_dict() for p in (above, below)]
    if max(map(len, parts)) > MAX_MONOMIALS:
        raise _too_large(name)
    products = (
        [int(c) * sp.Mul(*(g**d for g, d in zip(names, powers, strict=False))) for powers, c in part.items()]
        for part in parts
    )
    top, bottom = (sp.Add(*terms) for terms in products)
    return sp.cancel(top / bottom) if max(map(len, parts)) <= MAX_TIDY else top / bottom


def _too_large(name: str) -> Unsupported:
    return Unsupported(f"the stationary law of {name} has too many terms", "state it, or use sde.at(...)")
