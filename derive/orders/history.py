"""What a step carries on: the linear map of state and carried values as h -> 0, and the history that a long run comes to.

A small change d of the state z and of the carried values H becomes M(h) d after a step.  Each variable is measured in a power
of h of its own, such that M(0) is finite.  A run is zero-stable if products of M(0) over many steps stay bounded.  That holds
for equal steps if no root of M(0) is larger than 1 and those of modulus 1 are simple; for uneven grids it is asked of periodic
sequences of random steps, neighbours of which differ by a factor of 7/5 at most.  The network may have any slope.

Where H is made from H of the step before, a long run on equal steps h through exact states comes to H = q_0 + q_1 h + ..., with
q_k(i) a polynomial of degree k in the number i of steps back.  With A the part of M(0) that takes H to H,

    q_k(i) = A q_k(i + 1) + g_k(i),    so    q_k = (1 - A)^-1 (g_k + A (q_k(i + 1) - q_k(i))),

g_k being what the row makes of q_0, ..., q_(k-1) alone: a linear recurrence that is solved, not cut off.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import flint
import numpy as np

from ..maths.matrix import Matrix, add, inverse_of, mul, scaled
from ..program import EARLIER, Evaluate, StepProgram, Update
from ..program.program import sources
from .rings import Ring, exactly, in_balls, small_rational
from .series import Series, constant
from .taylor import Row, Setting, Value, row, run, setting

TIMES = ("t1", "t0", *(time.name for time in EARLIER))
TERMS = 20  # of the series that M(0) is read off
PERIOD = 6  # steps of a random sequence that repeats
STEEP = 64  # the slope of the network that zero-stability is asked with
SLACK = 1e-6  # by which a root may exceed 1 in float64; a double root is found to half the digits


def lengths(seed: int, count: int) -> list[flint.fmpq]:
    """Random steps, rationals from 1 to 7/5: the ratio of neighbours lies between 5/7 and 7/5."""
    rng = random.Random(f"steps {seed}")
    return [1 + abs(small_rational(rng)) * flint.fmpq(2, 5) for _ in range(count)]


def times_of(at: Setting, start: Any, own: Any, before: Sequence[Any], unit: int = 1) -> dict[str, Series]:
    """The times of a row as offsets from the point's, series in x with h = x^unit.  It begins at ``start`` h and is ``own`` h
    long; the steps before it are ``before``, the latest first, and all before those are like the last.
    """
    ends = [start - own, start]
    for length in (*before, *[[own, *before][-1]] * len(TIMES))[: len(TIMES) - 2]:
        ends.append(ends[-1] + length)
    return {name: times_h(at, end, unit) for name, end in zip(TIMES, ends, strict=True)}


def times_h(at: Setting, factor: Any, unit: int = 1) -> Series:
    """factor * h, h = x^unit."""
    ring = at.point.ring
    return Series([*[0] * unit, ring.number(1) * factor, *[0] * (unit * (at.point.terms - 2))], ring)


def reach(program: StepProgram) -> int | None:
    """The steps after which nothing of a carried value is left; None where a network call sees one, or it remembers itself."""
    seen: dict[str, set[str]] = {name: {name} for name in program.history}
    for op in program.ops:
        read = set().union(*(seen.get(value, set()) for value in sources(op)))
        if read and isinstance(op, Evaluate):
            return None
        if isinstance(op, Update):
            seen[op.output] = read
    makes = [(name, seen.get(out, set())) for name, out in zip(program.history, program.carry, strict=True)]
    left = set(program.history)
    for steps in range(len(makes) + 1):
        if not left:
            return steps
        left = {name for name, read in makes if read & left}
    return None


# -- the linear map --------------------------------------------------------------------------------------------------------


def tangent(at: Setting, row: Row, slope: Matrix) -> Matrix:
    """M(h) on the state and the carried values, coordinate by coordinate, a series or 0 an entry.

    ``slope``: the derivative of the network at the point, a row an output; how it changes is felt at higher powers of h.
    """
    program, width, n = row.program, len(at.state[0]), len(at.state)
    names = (*program.components[:n], *program.history)
    one = constant(at.point.ring, at.point.ring.number(1), at.point.terms)
    nothing: list[dict[int, Series]] = [{}] * width
    forms = {name: [{k * width + c: one} for c in range(width)] for k, name in enumerate(names)}
    for op, numbers in zip(program.ops, row.numbers, strict=True):
        if isinstance(op, Evaluate):
            seen = [form for name in op.inputs for form in forms.get(name, nothing)]
            made = [_combined(each, seen) for each in slope]
            forms |= {name: made[k * width : (k + 1) * width] for k, name in enumerate(op.outputs)}
        elif isinstance(op, Update):
            read = [forms.get(name, nothing) for _, name in op.terms]
            forms[op.output] = [_combined(numbers, [form[k] for form in read]) for k in range(width)]
    ends = [form for name in (*program.result[:n], *program.carry) for form in forms.get(name, nothing)]
    return [[form.get(j, 0) for j in range(len(ends))] for form in ends]


def _combined(factors: Sequence[Any], forms: Sequence[dict[int, Series]]) -> dict[int, Series]:
    total: dict[int, Series] = {}
    for c, form in zip(factors, forms, strict=True):
        for j, e in form.items():
            total[j] = total[j] + c * e if j in total else c * e
    return total


def network_slope(at: Setting, factor: int = 1) -> Matrix:
    """The derivative of the outputs by the inputs at the point, coordinate by coordinate, times a factor."""
    inputs, width = len(at.net.centre) - 1, len(at.net.coefficients[0])
    rows = dict(zip(at.net.monomials, at.net.coefficients, strict=True))
    columns = [rows.get(tuple(int(i == j) for j in range(inputs + 1)), [0] * width) for i in range(inputs)]
    return [[column[o] * factor for column in columns] for o in range(width)]


def measures(maps: Sequence[Matrix]) -> list[int] | None:
    """The least powers d >= 0 of h such that the maps of h^d times each variable are finite at h = 0; None where none are."""
    size = len(maps[0])
    lowest = [[min(_lowest(M[i][j]) for M in maps) for j in range(size)] for i in range(size)]
    d = [0] * size
    for _ in range(size + 1):
        new = [int(max(0, *(e - v for e, v in zip(d, row, strict=True)))) for row in lowest]
        if new == d:
            return d
        d = new
    return None


def _lowest(entry: Any) -> float:
    """The power of h that an entry of a map begins with."""
    if not isinstance(entry, Series):
        return math.inf
    return next((k + entry.v for k, c in enumerate(entry.c) if not entry.ring.is_zero(c)), math.inf)


def at_zero(M: Matrix, d: Sequence[int]) -> Matrix:
    """M(0) of the variables times h^d."""
    return [[coefficient(e, d[j] - d[i]) for j, e in enumerate(row)] for i, row in enumerate(M)]


def coefficient(entry: Any, power: int) -> Any:
    """The coefficient of a power of h."""
    k = power - entry.v if isinstance(entry, Series) else -1
    return entry.c[k] if 0 <= k < len(entry.c) else 0


# -- zero-stability ----------------------------------------------------------------------------------------------------------


def growth(method: Any, seeds: Sequence[int]) -> str:
    """Why a run is not zero-stable, in words; empty where it is.  ZeroDivisionError where TERMS are too few for a step."""
    if not method.program.history:
        return ""
    read = in_balls if method.sampler.adams else exactly
    return next(filter(None, (read(partial(_growth, method, seed)) for seed in seeds)), "")


def _growth(method: Any, seed: int, ring: Ring) -> str:
    terms = 4 + 2 * len(method.program.history) if method.sampler.adams else TERMS  # a division a step of its history
    terms += 3 * method.sde.n if method.sampler.adams and method.random else 0  # and by the noise of a chain of blocks
    at = setting(method, ring, seed, terms, 1, 1)
    one, far = flint.fmpq(1), flint.fmpq(7, 5)
    unit = 2 if method.random else 1  # draws enter with sqrt(h)
    made = lambda steps: [row(at, method.program, times) for times in _periodic(at, steps, unit)]  # noqa: E731
    periods = [made([one, far]), made(lengths(seed, PERIOD))]
    try:
        periods = [made([one]), *periods]
    except ZeroDivisionError:
        return "its coefficients divide by zero on equal steps"
    for factor, where in ((0, ""), (STEEP, " where the network is steep")):
        maps = [[tangent(at, each, network_slope(at, factor)) for each in rows] for rows in periods]
        d = measures([M for rows in maps for M in rows])
        if d is None:
            return f"not zero-stable{where}: what it carries grows like a power of 1/h"
        for rows in maps:
            product = np.eye(len(d))
            for M in rows:
                product = np.array([[float(flint.arb(e).mid()) for e in row] for row in at_zero(M, d)]) @ product
            if said := _said(product, len(rows)):
                return f"not zero-stable{where}{said}"
    return ""


def _periodic(at: Setting, steps: list[flint.fmpq], unit: int) -> list[dict[str, Series]]:
    """The times of the rows of a sequence of steps that repeats."""
    before = [[steps[(i - k) % len(steps)] for k in range(1, len(TIMES))] for i in range(len(steps))]
    return [times_of(at, 0, own, past, unit) for own, past in zip(steps, before, strict=True)]


def _said(product: np.ndarray, period: int) -> str:
    """What is wrong with the roots of a period; empty where nothing is."""
    roots = np.linalg.eigvals(product)
    largest = roots[np.abs(roots).argmax()]
    size = float(abs(largest))
    if size > 1 + SLACK and period == 1:
        shown = float(largest.real) if abs(largest.imag) < SLACK else size
        return f": root {shown:.5g}" if shown % 1 else f": root {shown:.1f}"
    if size > 1 + SLACK:
        return f" on uneven grids: a factor {size ** (1 / period):.5g} a step"
    long = np.linalg.matrix_power(product, 512)
    return ": a root of modulus 1 is multiple" if np.linalg.norm(long @ long) > 1.5 * np.linalg.norm(long) else ""


# -- the history of a long run ---------------------------------------------------------------------------------------------


class UnsettledError(Exception):
    """A history that a long run does not come to by itself: it keeps what it started with."""


def settled(at: Setting, program: StepProgram, flow: list[Value], start: Any, length: Any, top: int) -> list[Value]:
    """What is carried into a row that begins at ``start`` h, after a long run of equal steps, right up to h^top."""
    ring, width, terms = at.point.ring, len(at.state[0]), at.point.terms
    times = [times_of(at, start + (i + 1) * length, length, ()) for i in range(top + 1)]
    rows = [row(at, program, each) for each in times]
    states = [[[e.at(each["t0"]) for e in block] for block in flow] for each in times]
    maps = [tangent(at, rows[0], network_slope(at, factor)) for factor in (0, 1)]
    if (d := measures(maps)) is None:
        raise UnsettledError
    first = width * len(at.state)
    own = d[first:]
    still, moving = ([row[first:] for row in at_zero(M, d)[first:]] for M in maps)
    q: list[list[list[Any]]] = []  # q[k][i]: the vector q_k(i)
    for k in range(top + 1):  # all calls see the same state at h = 0, and how it changes from h^1 on
        A, seen = (moving, at) if k else (still, replace(at, net=at.net.still))
        g = []
        for i in range(k + 1):
            past = [[q[m][i + 1][j] for m in range(k)] for j in range(len(own))]
            made = run(seen, rows[i], states[i], _series(past, own, width, ring, terms)).carried
            g.append([coefficient(e, k - v) for e, v in zip((e for value in made for e in value), own, strict=True)])
        q.append(_recurrence(A, g, top + 2, ring))
    return _series([[q[m][0][j] for m in range(top + 1)] for j in range(len(own))], own, width, ring, terms)


def _series(vectors: list[list[Any]], own: list[int], width: int, ring: Ring, terms: int) -> list[Value]:
    """The carried values of given coefficients."""
    flat = [Series([*c, *[0] * (terms - len(c))], ring, -v) for c, v in zip(vectors, own, strict=True)]
    return [flat[k : k + width] for k in range(0, len(flat), width)]


def _recurrence(A: Matrix, g: list[list[Any]], count: int, ring: Ring) -> list[list[Any]]:
    """The polynomial q with q(i) = A q(i + 1) + g(i), at i = 0, ..., count - 1."""
    size = len(A)
    one = [[ring.number(int(i == j)) for j in range(size)] for i in range(size)]
    try:
        B = inverse_of(add(one, scaled(A, -1)))
    except ZeroDivisionError:
        raise UnsettledError from None
    if any(isinstance(e, flint.arb) and not e.is_finite() for row in B for e in row):
        raise UnsettledError
    apply = lambda M, v: [row[0] for row in mul(M, [[e] for e in v])]  # noqa: E731
    q = [apply(B, v) for v in g]
    for _ in g[1:]:
        steps = [[b - a for a, b in zip(p, r, strict=True)] for p, r in pairwise(_longer(q, len(g) + 1))]
        q = [apply(B, [a + b for a, b in zip(v, apply(A, s), strict=True)]) for v, s in zip(g, steps, strict=True)]
    return _longer(q, count)


def _longer(values: list[list[Any]], count: int) -> list[list[Any]]:
    """More values of polynomials of degree len(values) - 1, whose differences of one order more vanish."""
    found, weights = list(values), [(-1) ** j * math.comb(len(values), j + 1) for j in range(len(values))]
    while len(found) < count:
        last = zip(*found[: -len(values) - 1 : -1], strict=True)
        found.append([sum(w * e for w, e in zip(weights, past, strict=True)) for past in last])
    return found
