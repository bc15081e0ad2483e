"""The strong order of one step that draws noise, by the displacement dz = z_1 - z(t0) in r = sqrt(h) (moments.py).

It has two meanings: that of the best coupling of the draws with the Brownian path (``strong_order``), and that of draws which
are the increments of the path (``strong_order_of_increments``).  With additive noise dz = r X_1 + r^2 m + r^3 X_3 + ..., X_1 and
X_3 Gaussian.  Order 1 needs the law of X_1 and the mean m; order 3/2 the mean of the r^4 term as well, and that the draws can be
turned, by an orthogonal map I + r^2 A + ... of theirs, so that X_3 agrees: Cov(X_1, X_3) + Cov(X_3, X_1), and on the rows N with
N X_1 = 0 also N Cov(X_3, X_1) and N Cov(X_3) N^T.  (Milstein and Tretyakov 2004, theorem 1.1.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import flint

from ..maths.matrix import Matrix, add, mul, scaled, transpose
from .local import poles
from .moments import around, cleared, displacement, generator, moment_gaps, turns
from .polynomial import Polynomial, mean
from .rings import PRECISION
from .taylor import AwayError, Setting


def strong_order(method: Any, seeds: Sequence[int] = (1, 2)) -> float:
    """0, 1/2, 1 or 3/2: the strong order of a one-step program with additive noise, its draws coupled with the path at best."""
    with flint.ctx.workprec(PRECISION):
        try:
            return min(_strong(around(method, seed, 4)) for seed in seeds)
        except AwayError:
            return 0.0
        except ZeroDivisionError:
            raise poles(method) from None


def strong_order_of_increments(method: Any, seeds: Sequence[int] = (1, 2)) -> float:
    """The strong order where the draws are the increments W(h) of the path, which say nothing more of Z: 3/2 only where the
    exact X_3 has no Z in it, that is J G = G'.
    """
    best = method.strong_order
    with flint.ctx.workprec(PRECISION):
        points = [around(method, seed, 4) for seed in seeds]
        apart = (add(JG, scaled(G1, -1)) for _, G1, JG in (noise_at(at, generator(at, 2)[0]) for at in points))
        seen = any(not at.point.ring.is_zero(e) for at, M in zip(points, apart, strict=True) for row in M for e in row)
    return min(best, 1.0) if seen else best


def _strong(at: Setting) -> float:
    ring = at.point.ring
    rows, steps = (at.method.program,), (flint.fmpq(1),)
    moved = [cleared(series, 4) for series in displacement(at, 3, rows, steps)]
    drift, _ = generator(at, 2)
    count = len(at.state[0]) * at.method.program.draws
    X1, X3 = ([_linear(s.c[k], count) for s in moved] for k in (1, 3))
    want11, want13, want33 = brownian_levels(at, drift)
    nil = lambda *matrices: all(ring.is_zero(e) for M in matrices for row in M for e in row)  # noqa: E731
    means = [[mean(s.c[2]) - b.at_zero()] for s, b in zip(moved, drift, strict=True)]
    if not nil(means, _gap(X1, X1, want11)):
        return 0.0
    if not all(map(turns, moved)):  # a power of sqrt(h) that is not of the draws: an error h or h^(3/2) that is not evened out
        return 0.5
    N, gap13, gap33 = quiet_rows(at), _gap(X1, X3, want13), _gap(X3, X3, want33)
    unseen = (
        (mul(N, transpose(gap13)), mul(mul(N, gap33), transpose(N))) if N else ()
    )  # N Cov(X_3, X_1), N Cov(X_3) N^T
    if not nil(add(gap13, transpose(gap13)), *unseen):
        return 1.0
    fourth = itertools.takewhile(lambda pair: sum(pair[0]) == 1, moment_gaps(at, 4, rows, steps))
    return 1.5 if all(ring.is_zero(gap) for _, gap in fourth) else 1.0


def _linear(value: Any, count: int) -> list[Any]:
    """The coefficients of a linear form in the draws."""
    terms = value.terms if isinstance(value, Polynomial) else {}
    return [terms.get(tuple(int(i == k) for i in range(count)), 0) for k in range(count)]


def _gap(X: Matrix, Y: Matrix, wanted: Matrix) -> Matrix:
    """Cov(X, Y) less what it should be."""
    return add(mul(X, transpose(Y)), scaled(wanted, -1))


def quiet_rows(at: Setting) -> Matrix:
    """Rows N that span what G does not reach at t0, N G = 0, by elimination; a row a combination of components."""
    ring, width = at.point.ring, len(at.state[0])
    G = [[e.c[0] for e in row] for row in at.point.of(at.method.sde.G_let)]
    n, columns = len(G), len(G[0])
    rows = [[*row, *(ring.number(int(i == j)) for j in range(n))] for i, row in enumerate(G)]
    for column in range(columns):
        pivot = next((row for row in rows if not ring.is_zero(row[column])), None)
        if pivot is not None:
            others = (row for row in rows if row is not pivot)
            rows = [[a - b * (row[column] / pivot[column]) for a, b in zip(row, pivot, strict=True)] for row in others]
    return [[e if c == k else 0 for e in row[columns:] for k in range(width)] for row in rows for c in range(width)]


def noise_at(at: Setting, drift: list[Polynomial]) -> tuple[Matrix, Matrix, Matrix]:
    """G, G' (in tau, which runs against t) and J G at t0, J the derivative of the drift, each coordinate a row."""
    width = len(at.state[0])
    G0, G1 = (
        [
            [sign * e.c[k] if a == b else 0 for e in row for b in range(width)]
            for row in at.point.of(at.method.sde.G_let)
            for a in range(width)
        ]
        for k, sign in ((0, 1), (1, -1))
    )
    J = [[b.derivative(j).at_zero() for j in range(len(drift))] for b in drift]
    return G0, G1, mul(J, G0)


def brownian_levels(at: Setting, drift: list[Polynomial]) -> tuple[Matrix, Matrix, Matrix]:
    """Cov(X_1), Cov(X_1, X_3), Cov(X_3) of the exact solution: with w = W(1) of a Brownian motion on (0, 1) and Z its integral,

    X_1 = G w,   X_3 = J G Z + G' (w - Z),   Var w = 1, Var Z = 1/3, Cov(w, Z) = 1/2.
    """
    G0, G1, JG = noise_at(at, drift)
    half, third = at.point.ring.number(1, 2), at.point.ring.number(1, 3)
    cross = mul(JG, transpose(G1))
    own = scaled(add(mul(JG, transpose(JG)), mul(G1, transpose(G1))), third)
    return (
        mul(G0, transpose(G0)),
        scaled(mul(G0, transpose(add(JG, G1))), half),
        add(own, scaled(add(cross, transpose(cross)), half - third)),
    )
