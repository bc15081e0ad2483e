"""Weak and strong order of one step that draws noise, by the moments of the displacement dz = z_1 - z(t0).

Everything is expanded in r = sqrt(h); a draw is a Gaussian variable of the coefficients.  With the generator of the
reverse SDE dz = b dtau + G dw, b = -F z - offset + G G^T s,

    L = b . grad + G G^T : grad^2 / 2 + d/dtau,      E f(dz(h)) = sum_k h^k (L^k f)(0) / k!,

a step is of weak order p where E of every product of up to 2p components of dz agrees through h^p (longer products are
O(h^(p+1)) on both sides).  Strong order is that of the best coupling of the draws with the Brownian path: with additive
noise dz = r X_1 + r^2 m + r^3 X_3 + ..., X_1 and X_3 Gaussian.  Order 1 needs the law of X_1 and the mean m; order 3/2 the mean
of the r^4 term as well, and that the draws can be turned, by an orthogonal map I + r^2 A + ... of theirs, so that X_3 agrees:
Cov(X_1, X_3) + Cov(X_3, X_1), and on the rows N with N X_1 = 0 also N Cov(X_3, X_1) and N Cov(X_3) N^T.
(methods.md 3.2, numerics.md 5b; Milstein and Tretyakov 2004, theorem 1.1.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import flint

from ..program import Normal, StepProgram
from .local import TIMES
from .point import Point, composed
from .polynomial import Polynomial, mean
from .rings import PRECISION, Balls
from .series import Series, constant
from .taylor import AwayError, Setting, Value, run, setting

WIDTH = 2
MOST_DRAWS = 8  # of a step: the moments are polynomials in all of them


def around(method: Any, seed: int, powers: int, width: int = WIDTH) -> Setting:
    """A random setting good for expansions up to r^powers.

    An output of the network meets at least one factor h, so a polynomial of degree powers - 2 is as generic as any; a
    chain of n blocks has noise of size r^(2n - 1), whose division costs as many terms.
    """
    terms = powers // 2 + 2 + 3 * method.sde.n
    return setting(method, Balls(), seed, terms, width, max(1, powers - 2))


def weak_order(method: Any, seeds: Sequence[int] = (1, 2), most: int = 2) -> int:
    """The weak order (at most ``most``, which is 1 or 2) of a run that draws noise; 0 where it is not consistent.

    A first or last row adds its local error h^2 once, which a run of order 2 bears, so consistency is all that is asked of it.
    """
    with flint.ctx.workprec(PRECISION):
        try:
            return min(_weak(method, seed, most) for seed in seeds)
        except AwayError:
            return 0


def _weak(method: Any, seed: int, most: int) -> int:
    """One coordinate a block shows most failures, and a failure there is one; two confirm what passes."""
    for width in (1, WIDTH):
        at = around(method, seed, 2, width)
        chains = [opening(method), *([(*opening(method), *method.ending)] if method.ending else [])]
        if any(not at.point.ring.is_zero(gap) for rows in chains for _, gap in moment_gaps(at, 1, rows)):
            return 0
    for width in (1, WIDTH) if most > 1 else ():
        at = around(method, seed, 4, width)
        if any(not at.point.ring.is_zero(gap) for gap in _added(at, method)):
            return 1
    return most


def opening(method: Any) -> tuple[StepProgram, ...]:
    """The rows of a run up to the first common step that has all its history from common rows and first rows."""
    return (*method.warmup, *((method.program,) * (1 + len(method.program.history) * bool(method.warmup))))


def _added(at: Setting, method: Any) -> Iterator[Any]:
    """What one more common step adds to the gaps at h^2: nothing, where its own local error begins with h^3.

    To this power the errors of the steps add up: each is carried on by the identity.
    """
    rows = opening(method)
    if len(rows) == 1:
        yield from (gap for _, gap in moment_gaps(at, 2, rows))
        return
    for (_, less), (_, more) in zip(moment_gaps(at, 2, rows), moment_gaps(at, 2, (*rows, rows[-1])), strict=True):
        yield more - less


def moment_gaps(at: Setting, p: int, rows: Sequence[StepProgram]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Exact minus numerical coefficient of h^p in E dz^index over some rows, for the indices of degree 1 to 2p, low degrees
    first.
    """
    steps = displacement(at, 2 * p, rows)
    span = sum(_lengths(at, len(rows)), at.point.ring.number(0)) ** p
    drift, noise = generator(at, max(1, 2 * p - 2))
    count = len(steps)
    numerical: dict[tuple[int, ...], Series] = {}
    one = constant(at.point.ring, at.point.ring.number(1), 2 * p + 1)
    numerical[(0,) * count] = one
    for index in _indices(count, 2 * p):
        axis = next(i for i, k in enumerate(index) if k)
        below = tuple(k - (i == axis) for i, k in enumerate(index))
        numerical[index] = numerical[below] * Series(steps[axis].c[: 2 * p + 1], at.point.ring)
        yield index, _expected(index, drift, noise, p) * span - mean(numerical[index].c[2 * p])


def _indices(count: int, degree: int) -> list[tuple[int, ...]]:
    """Multi-indices of degree 1 to ``degree``, lower degrees first."""
    found: list[tuple[int, ...]] = [(0,) * count]
    level = found
    for _ in range(degree):
        level = sorted({tuple(k + (i == j) for j, k in enumerate(index)) for index in level for i in range(count)})
        found = found + level
    return found[1:]


RATIOS = ((1, 1), (8, 7), (7, 9), (6, 5), (9, 10))  # lengths of successive rows in units of h


def _lengths(at: Setting, count: int) -> list[Any]:
    return [at.point.ring.number(*RATIOS[k % len(RATIOS)]) for k in range(count)]


def displacement(at: Setting, top: int, rows: Sequence[StepProgram]) -> list[Series]:
    """dz over the rows up to r^top, series whose coefficients are polynomials in the draws, block by block."""
    point, width = at.point, len(at.state[0])
    ends = [point.ring.number(0)]
    for length in _lengths(at, len(rows)):
        ends.append(ends[-1] - length)
    count = width * sum(program.draws for program in rows)
    state = start = [[constant(point.ring, v, top + 1) for v in block] for block in at.state]
    history: list[Value] = [[constant(point.ring, 0, top + 1)] * width for _ in rows[0].history]
    drawn = 0
    for k, program in enumerate(rows):
        names = [op.output for op in program.ops if isinstance(op, Normal)]
        draws = {name: _normals(point, count, drawn + i * width, width, top) for i, name in enumerate(names)}
        drawn += width * len(names)
        moments = [ends[k + 1], *(ends[j] for j in range(k, -1, -1))]
        times = {name: _late(point, end) for name, end in zip(TIMES, moments, strict=False)}
        found = run(at, program, state, times, history, draws)
        state, history = found.state, found.carried
    return [new - old for p, q in zip(state, start, strict=True) for new, old in zip(p, q, strict=True)]


def _normals(point: Point, count: int, first: int, width: int, top: int) -> Value:
    one = point.ring.number(1)
    return [constant(point.ring, Polynomial.variable(first + c, count, one), top + 1) for c in range(width)]


def _late(point: Point, factor: Any) -> Series:
    """factor * r^2."""
    return Series([0, 0, factor, *([0] * (2 * point.terms - 3))], point.ring)


def generator(at: Setting, degree: int) -> tuple[list[Polynomial], list[list[Polynomial]]]:
    """b and G G^T as polynomials in (dz, tau), up to a degree; blocks and coordinates in the order of ``displacement``."""
    point, n, width = at.point, at.method.sde.n, len(at.state[0])
    count, one = n * width + 1, at.point.ring.number(1)
    length = degree + 1
    variable = [Polynomial.variable(i, count, one) for i in range(count)]
    state = [
        [Series([v, variable[b * width + c], *([0] * (length - 2))], point.ring) for c, v in enumerate(block)]
        for b, block in enumerate(at.state)
    ]
    ahead = Series([0, -variable[-1], *([0] * (length - 2))], point.ring)
    V = composed(point.V, ahead)
    drift = [_collected(-e, count) for row in at.drift(state, 1, ahead) for e in row]
    zero = Polynomial({(0,) * count: point.ring.number(0)})
    power = [
        [_collected(V[i][j], count) if a == b else zero for j in range(n) for b in range(width)]
        for i in range(n) for a in range(width)
    ]  # fmt: skip
    return drift, power


def _collected(series: Series, count: int) -> Polynomial:
    """The sum of the coefficients: the formal small quantity has done its work of counting degrees."""
    total = Polynomial({})
    for c in series.c:
        total = total + (c if isinstance(c, Polynomial) else Polynomial({(0,) * count: c}))
    return total


def _expected(index: tuple[int, ...], drift: list[Polynomial], power: list[list[Polynomial]], p: int) -> Any:
    """The coefficient of h^p in E dz^index: (L^p f)(0) / p!."""
    f = Polynomial({(*index, 0): 1})
    for k in range(1, p + 1):
        f = _applied(f, drift, power).cut(2 * (p - k)) / k
    return f.at_zero()


def _applied(f: Polynomial, drift: list[Polynomial], power: list[list[Polynomial]]) -> Polynomial:
    """L f."""
    m = len(drift)
    total = f.derivative(m)
    slopes = [f.derivative(i) for i in range(m)]
    for i in range(m):
        if slopes[i].terms:
            total = total + drift[i] * slopes[i]
            for j in range(m):
                second = slopes[i].derivative(j)
                if second.terms:
                    total = total + power[i][j] * second / 2
    return total


# -- strong order ----------------------------------------------------------------------------------------------------------


def strong_order(method: Any, seeds: Sequence[int] = (1, 2)) -> float:
    """0, 1 or 3/2: the strong order of a one-step program with additive noise, draws coupled with the path at their best."""
    with flint.ctx.workprec(PRECISION):
        try:
            return min(_strong(around(method, seed, 4)) for seed in seeds)
        except AwayError:
            return 0.0


def _strong(at: Setting) -> float:
    ring = at.point.ring
    rows = (at.method.program,)
    steps = displacement(at, 3, rows)
    drift, _ = generator(at, 2)
    first, third = ([_linear(s.c[k]) for s in steps] for k in (1, 3))
    X1, X3 = (_padded(rows) for rows in (first, third))
    want11, want13, want33 = brownian_levels(at, drift)
    means = [b.at_zero() for b in drift]
    level = all(ring.is_zero(mean(s.c[2]) - m) for s, m in zip(steps, means, strict=True))
    if not (level and _same(ring, _gram(X1, X1), want11)):
        return 0.0
    N = quiet_rows(at)
    gap13 = _minus(_gram(X1, X3), want13)
    gap33 = _minus(_gram(X3, X3), want33)
    turned = _minus(gap13, [[-e for e in column] for column in zip(*gap13, strict=True)])
    unseen = _gram(N, gap13)  # N Cov(X_3, X_1)
    if not all(ring.is_zero(e) for M in (turned, unseen, _gram(_gram(N, gap33), N)) for row in M for e in row):
        return 1.0
    fourth = itertools.takewhile(lambda found: sum(found[0]) == 1, moment_gaps(at, 2, rows))
    return 1.5 if all(ring.is_zero(gap) for _, gap in fourth) else 1.0


def _linear(value: Any) -> dict[int, Any]:
    """The coefficients of a linear form in the draws."""
    if not isinstance(value, Polynomial):
        return {}
    return {index.index(1): c for index, c in value.terms.items() if sum(index) == 1}


def _padded(rows: list[dict[int, Any]]) -> list[list[Any]]:
    width = 1 + max((k for row in rows for k in row), default=0)
    return [[row.get(k, 0) for k in range(width)] for row in rows]


def _gram(A: list[list[Any]], B: list[list[Any]]) -> list[list[Any]]:
    return [[sum((a * b for a, b in zip(p, q, strict=False)), 0) for q in B] for p in A]


def _minus(A: list[list[Any]], B: list[list[Any]]) -> list[list[Any]]:
    return [[a - b for a, b in zip(p, q, strict=True)] for p, q in zip(A, B, strict=True)]


def quiet_rows(at: Setting) -> list[list[Any]]:
    """Rows N that span what G does not reach at t0, N G = 0, by elimination; a row a combination of components."""
    ring, width = at.point.ring, len(at.state[0])
    G = [[e.c[0] for e in row] for row in at.point.of(at.method.sde.G_let)]
    n = len(G)
    rows = [[*row, *(ring.number(int(i == j)) for j in range(n))] for i, row in enumerate(G)]
    columns = len(G[0])
    for column in range(columns):
        pivot = next((row for row in rows if not ring.is_zero(row[column])), None)
        if pivot is None:
            continue
        rows = [
            [a - b * (row[column] / pivot[column]) for a, b in zip(row, pivot, strict=True)]
            for row in rows
            if row is not pivot
        ]
    return [[e if c == k else 0 for e in row[columns:] for k in range(width)] for row in rows for c in range(width)]


def _same(ring: Any, A: list[list[Any]], B: list[list[Any]]) -> bool:
    return all(ring.is_zero(a - b) for p, q in zip(A, B, strict=True) for a, b in zip(p, q, strict=True))


def brownian_levels(at: Setting, drift: list[Polynomial]) -> tuple[list[list[Any]], list[list[Any]], list[list[Any]]]:
    """Cov(X_1), Cov(X_1, X_3), Cov(X_3) of the exact solution: with w = W(1) of a Brownian motion on (0, 1) and Z its integral,

    X_1 = G w,   X_3 = J G Z + G' (w - Z),   Var w = 1, Var Z = 1/3, Cov(w, Z) = 1/2.
    """
    point = at.point
    G, width = point.of(at.method.sde.G_let), len(at.state[0])
    spread = lambda k, sign: [  # noqa: E731
        [sign * row[j].c[k] if a == b else 0 for j in range(len(row)) for b in range(width)]
        for row in G
        for a in range(width)
    ]
    G0, G1 = spread(0, 1), spread(1, -1)  # tau runs against t
    J = [[b.derivative(j).at_zero() for j in range(len(drift))] for b in drift]
    JG = [[sum((a * G0[k][c] for k, a in enumerate(row)), 0) for c in range(len(G0[0]))] for row in J]
    half, third = point.ring.number(1, 2), point.ring.number(1, 3)
    mixed = lambda *terms: [  # noqa: E731
        [sum((w * M[i][j] for w, M in terms), 0) for j in range(len(J))] for i in range(len(J))
    ]
    cross = _gram(JG, G1)
    turned = [list(column) for column in zip(*cross, strict=True)]
    return (
        _gram(G0, G0),
        mixed((half, _gram(G0, JG)), (half, _gram(G0, G1))),
        mixed((third, _gram(JG, JG)), (half - third, cross), (half - third, turned), (third, _gram(G1, G1))),
    )
