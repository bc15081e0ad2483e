"""The stationary law F S + S F^T + G G^T = 0: first in numbers at random points, then in symbols if it is small enough.

The numbers tell at once where no law is (the equations are singular) or where it changes with t; SymPy's elimination
would find neither before it had multiplied everything out.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from .bounded import Counting, cancelled
from .calculus import t
from .point import BITS, Point, random_point

MAX_BLOCKS = 12  # of a law that is solved for
MAX_LAW = 20_000  # bound on the monomials of its entries


def equations(F: sp.Matrix, GG: sp.Matrix) -> tuple[list[sp.Expr], list[sp.Symbol], sp.Matrix]:
    """The upper triangle of F S + S F^T + G G^T, the unknowns, and S made of them."""
    n = F.shape[0]
    unknown = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"S[{min(i, j)},{max(i, j)}]"))
    residual = F * unknown + unknown * F.T + GG
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    return [residual[i, j] for i, j in pairs], [unknown[i, j] for i, j in pairs], unknown


def solve(name: str, F: sp.Matrix, GG: sp.Matrix, F_let: sp.Matrix, GG_let: sp.Matrix) -> sp.Matrix:
    """The constant S, in the words of F_let and GG_let; F and GG are the same written out in t.

    Raises Unsupported where there is none, where it changes with t, and where it is too large to be written down.
    """
    if F.shape[0] > MAX_BLOCKS:
        raise Unsupported(f"no stationary law of more than {MAX_BLOCKS} blocks is derived", "state the matrix instead")
    _look(name, F, GG)
    rows, unknowns, unknown = equations(F_let, GG_let)
    if _extent(rows, unknowns) > MAX_LAW:
        raise Unsupported(f"the stationary law of {name} has too many terms", "state it, or use sde.at(...)")
    solutions = list(sp.linsolve(rows, unknowns))
    law = unknown.subs(dict(zip(unknowns, map(cancelled, solutions[0] if solutions else ()), strict=True)))
    return law


def _look(name: str, F: sp.Matrix, GG: sp.Matrix) -> None:
    """Solve the equations at two times and the same random parameters."""
    values = random_point({*F.free_symbols, *GG.free_symbols, t}, random.Random(0))
    laws = [_law_at(F, GG, {**values, t: time}) for time in (values[t], values[t] / 3 + sp.Rational(1, 7))]
    if any(law is None for law in laws):
        raise Unsupported(f"{name} has no stationary law", "F must be stable and G G^T in proportion to it")
    if any(not (a - b).contains(0) for a, b in zip(laws[0].entries(), laws[1].entries(), strict=True)):
        raise Unsupported(
            f"the law that F and G of {name} would keep changes with t", "F and G G^T must share one clock"
        )


def _law_at(F: sp.Matrix, GG: sp.Matrix, values: dict[sp.Symbol, sp.Rational]) -> Any:
    """The entries of S at a point, as a column of balls; None where the equations are singular to 1000 bits."""
    n = F.shape[0]
    index = {pair: k for k, pair in enumerate((i, j) for i in range(n) for j in range(i, n))}
    for bits in (BITS, 4 * BITS):
        point = Point(values, bits)
        f, g = F.tolist(), GG.tolist()
        with flint.ctx.workprec(bits):
            left, right = flint.acb_mat(len(index), len(index)), flint.acb_mat(len(index), 1)
            for (i, j), row in index.items():
                for k in range(n):
                    left[row, index[min(k, j), max(k, j)]] += point(f[i][k])
                    left[row, index[min(k, i), max(k, i)]] += point(f[j][k])
                right[row, 0] = -point(g[i][j])
            try:
                return left.solve(right)
            except ZeroDivisionError:
                continue
    return None


def _extent(rows: list[sp.Expr], unknowns: list[sp.Symbol]) -> int:
    """A bound on the monomials of a determinant of the equations: the box of the degrees in the names."""
    count = Counting()
    degrees: Counter[Any] = Counter()
    for row in rows:
        degrees.update({g: d for g, d in count(row).degrees.items() if g not in unknowns})
    return math.prod(1 + d for d in degrees.values())
