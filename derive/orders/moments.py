"""The weak order of one step that draws noise, by the moments of the displacement dz = z_1 - z(t0).

Everything is expanded in r = sqrt(h); a draw is a Gaussian variable of the coefficients.  With the generator of the
reverse SDE dz = b dtau + G dw, b = -F z - offset + G G^T s (with sqrt(eta) G and (1 + eta) G G^T s/2 where the sampler
has an eta),

    L = b . grad + G G^T : grad^2 / 2 + d/dtau,      E f(dz(h)) = sum_k h^k (L^k f)(0) / k!,

a step is of weak order p where E of every product of up to 2p components of dz agrees through h^p (longer products are
O(h^(p+1)) on both sides).  (Milstein and Tretyakov 2004, theorem 1.1.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import flint
import sympy as sp

from ..lower.frames import STEP, noise_of
from ..maths.matrix import scaled
from ..program import Normal, StepProgram
from ..program.meaning import effective
from .history import lengths, times_of
from .local import poles
from .point import composed
from .polynomial import Polynomial, mean
from .rings import PRECISION, Balls
from .series import Series, constant, nil
from .taylor import AwayError, Setting, Value, multi_indices, row, run, setting

WIDTH = 2
MOST_DRAWS = 8  # of a step: the moments are polynomials in all of them


def around(method: Any, seed: int, powers: int, width: int = WIDTH) -> Setting:
    """A random setting good for expansions up to r^powers.

    An output of the network meets at least one factor h, so a polynomial of degree powers - 2 is as generic as any; a
    chain of n blocks has noise of size r^(2n - 1), whose division costs as many terms; so do the differences of a history.
    """
    terms = powers // 2 + 1 + 4 * method.sde.n + (2 * len(method.program.history) if method.sampler.adams else 0)
    return setting(method, Balls(), seed, terms, width, max(1, powers - 2))


def weak_order(method: Any, seeds: Sequence[int] = (1, 2), most: int = 2) -> int:
    """The weak order (at most ``most``, which is 1 or 2) of a run that draws noise; 0 where its common step is not consistent.

    A first or last row adds its local error once: h^2, which a run of order 2 bears, or h where it is not consistent, which one
    of order 1 does.
    """
    with flint.ctx.workprec(PRECISION):
        try:
            return min(_weak(method, seed, most) for seed in seeds)
        except AwayError:
            return 0
        except ZeroDivisionError:
            raise poles(method) from None


def _weak(method: Any, seed: int, most: int) -> int:
    """One coordinate a block shows most failures, and half powers of h; a failure there is one, and two confirm what passes."""
    rows = opening(method)
    steps = lengths(seed, len(rows) + 1 + len(method.ending))
    for width, powers in ((1, (2, 3)), (WIDTH, (2,))):
        at = around(method, seed, 2, width)
        zero = at.point.ring.is_zero
        if not all(zero(gap) for power in powers for gap in _added(at, power, rows, steps)):
            return 0
        for run_of in (rows, (*rows, *method.ending)) if method.ending else (rows,):
            if len(run_of) > 1 and not all(zero(gap) for _, gap in moment_gaps(at, 2, run_of, steps)):
                if not all(zero(e.c[0]) for e in displacement(at, 2, run_of, steps)):
                    return 0
                most = 1
    for width, powers in ((1, (4, 5)), (WIDTH, (4,))) if most > 1 else ():
        at = around(method, seed, 4, width)
        if not all(at.point.ring.is_zero(gap) for power in powers for gap in _added(at, power, rows, steps)):
            return 1
    return most


def opening(method: Any) -> tuple[StepProgram, ...]:
    """The rows of a run up to the first common step that has all its history from common rows and first rows."""
    return (*method.warmup, *((method.program,) * (1 + len(method.program.history) * bool(method.warmup))))


def _added(at: Setting, power: int, rows: Sequence[StepProgram], steps: Sequence[Any]) -> Iterator[Any]:
    """What one more common step adds to the gaps at r^power: nothing below the power that its own local error begins with.

    To the power 5 the errors of the steps add up: each is carried on by the identity.
    """
    if len(rows) == 1:
        yield from (gap for _, gap in moment_gaps(at, power, rows, steps))
        return
    both = (moment_gaps(at, power, run_of, steps) for run_of in (rows, (*rows, rows[-1])))
    yield from (more - less for (_, less), (_, more) in zip(*both, strict=True))


def moment_gaps(
    at: Setting, power: int, rows: Sequence[StepProgram], steps: Sequence[Any]
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Exact minus numerical coefficient of r^power in E dz^index over rows of these lengths, in h, for the indices of degree 1 to
    the power, low degrees first.  Of an odd power none, where r and the draws with their signs turned give the same step.
    """
    moved = [cleared(series, power + 1) for series in displacement(at, power, rows, steps)]
    if power % 2 and all(map(turns, moved)):
        return
    p = power // 2
    span = sum(steps[: len(rows)], flint.fmpq(0)) ** p
    drift, noise = generator(at, max(1, 2 * p - 2))
    count = len(moved)
    numerical: dict[tuple[int, ...], Series] = {}
    one = constant(at.point.ring, at.point.ring.number(1), power + 1)
    numerical[(0,) * count] = one
    for index in _indices(count, power):
        axis = next(i for i, k in enumerate(index) if k)
        below = tuple(k - (i == axis) for i, k in enumerate(index))
        numerical[index] = numerical[below] * moved[axis]
        exact = 0 if power % 2 else _expected(index, drift, noise, p) * span
        yield index, exact - mean(numerical[index].c[power])


def turns(series: Series) -> bool:
    """Whether each power of r has monomials of its own parity in the draws alone."""
    indices = [(k, c.terms if isinstance(c, Polynomial) else [()] * (not nil(c))) for k, c in enumerate(series.c)]
    return all((k - sum(index)) % 2 == 0 for k, found in indices for index in found)


def cleared(series: Series, length: int) -> Series:
    """The first terms without what vanishes, which would cost most of the time of the products."""
    zero = series.ring.is_zero
    kept = (c.without(zero) if isinstance(c, Polynomial) else c for c in series.c[:length])
    return Series([0 if zero(c) else c for c in kept], series.ring)


def _indices(count: int, degree: int) -> list[tuple[int, ...]]:
    """Multi-indices of degree 1 to ``degree``, lower degrees first."""
    return [index for total in range(1, degree + 1) for index in multi_indices(count, total)]


def displacement(at: Setting, top: int, rows: Sequence[StepProgram], steps: Sequence[Any]) -> list[Series]:
    """dz over the rows up to r^top, series whose coefficients are polynomials in the draws, block by block."""
    point, width = at.point, len(at.state[0])
    count = width * sum(program.draws for program in rows)
    state = start = [[constant(point.ring, v, top + 1) for v in block] for block in at.state]
    history: list[Value] = [[constant(point.ring, 0, top + 1)] * width for _ in rows[0].history]
    one, drawn = point.ring.number(1), itertools.count()
    for k, program in enumerate(rows):
        names = [op.output for op in program.ops if isinstance(op, Normal)]
        draws = {
            name: [constant(point.ring, Polynomial.variable(next(drawn), count, one), top + 1) for _ in range(width)]
            for name in names
        }
        times = times_of(at, -sum(steps[:k], flint.fmpq(0)), steps[k], steps[:k][::-1], unit=2)
        made = run(at, row(at, program, times), state, history, draws)
        state, history = made.state, made.carried
    return [new - old for p, q in zip(state, start, strict=True) for new, old in zip(p, q, strict=True)]


def generator(at: Setting, degree: int) -> tuple[list[Polynomial], list[list[Polynomial]]]:
    """b and eta G G^T as polynomials in (dz, tau), up to a degree; blocks and coordinates in the order of ``displacement``."""
    point, n, width = at.point, at.method.sde.n, len(at.state[0])
    count, one = n * width + 1, at.point.ring.number(1)
    length = degree + 1
    variable = [Polynomial.variable(i, count, one) for i in range(count)]
    state = [
        [Series([v, variable[b * width + c], *([0] * (length - 2))], point.ring) for c, v in enumerate(block)]
        for b, block in enumerate(at.state)
    ]
    ahead = Series([0, -variable[-1], *([0] * (length - 2))], point.ring)
    eta = level(at).at(ahead)
    V = scaled(composed(point.V, ahead), eta)
    drift = [_collected(-e, count) for row in at.drift(state, (1 + eta) / 2, ahead) for e in row]
    zero = Polynomial({(0,) * count: point.ring.number(0)})
    power = [
        [_collected(V[i][j], count) if a == b else zero for j in range(n) for b in range(width)]
        for i in range(n) for a in range(width)
    ]  # fmt: skip
    return drift, power


def level(at: Setting) -> Series:
    """eta of the reverse SDE dz = (F z - (1 + eta) G G^T s/2) dt + sqrt(eta) G dw that is sampled, around t0."""
    sampler, point = at.method.sampler, at.point
    if sampler.adams is None:
        return point.one(sp.S.One)
    eta = sp.limit(noise_of(sampler, at.method.sde).rewrite(sp.exp), STEP, 0)  # a step that tends to 0 has its limit
    return point.of(sp.Matrix([[eta]]), "", effective(point)[-1])[0][0]


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
