"""Noise whose rows begin alike: over a short interval of an exact part they are parallel, and what tells them apart is small.

    Psi(t, r) G(r) = sum_{k < K} (r - t)^k / k! G_k(t) + the K-fold integral of Psi(t, r) G_K(r) from t on,

    G_0 = G,   G_{k+1} = G_k' + A G_k

for a part dz = A z dtau: each term is known to its own digits, which a value at a node of quadrature, their sum, is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import TYPE_CHECKING, Any

import flint
import sympy as sp

from .calculus import exact, t
from .point import Point
from .schedule import slope
from .smooth import defaults

if TYPE_CHECKING:
    from .host import Library
    from .sde import LinearSDE
    from .split import Part

Ball = Any  # flint.acb
PLACE = sp.Rational(3, 7)  # of the span, where the rows are looked at


def slopes(sde: LinearSDE, entries: sp.Matrix, count: int) -> list[sp.Matrix]:
    """A matrix and its first ``count`` derivatives in t, in the words of let."""
    found = [sp.Matrix(entries)]
    for _ in range(count):
        found.append(found[-1].applyfunc(lambda e: sp.factor_terms(slope(e, sde.let))))
    return found


def terms_apart(sde: LinearSDE, linear: sp.Matrix, noise: sp.Matrix, params: Mapping[str, float]) -> int:
    """The K of the module docstring that brings the rows apart, at the defaults; 0 where the first term of each does.

    0 too where a derivative has no value at an end of the span: a root at the data has no such series.
    """
    n = linear.shape[0]
    known = {**defaults(sde), **{sp.Symbol(name, real=True): exact(value) for name, value in params.items()}}
    start, end = map(exact, sde.time)
    tables = [[sde.written_out(M) for M in slopes(sde, entries, n - 1)] for entries in (linear, noise)]
    ends = [Point({**known, t: time}) for time in (start, end)]
    if not all(at(e).is_finite() for at in ends for table in tables for M in table for e in M):
        return 0
    at = Point({**known, t: start + PLACE * (end - start)})
    with flint.ctx.workprec(at.bits):
        terms = _terms(*([[[at(e) for e in row] for row in M.tolist()] for M in table] for table in tables))
        first = [next((k for k, term in enumerate(terms) if _begin(term[i]) is not None), None) for i in range(n)]
        levels = {k for k in first if k is not None}
        if all(None not in _begins([terms[k][i] for i in range(n) if first[i] == k]) for k in levels):
            return 0
        begins = _begins([[e for term in terms for e in term[i]] for i in range(n)])
    return max(begin // noise.shape[1] for begin in begins if begin is not None)


def noise_terms(lib: Library, part: Part, noise: str, count: int) -> str:
    """The host function of G_0, ..., G_count of a part, ``noise`` the name of that of G_0."""
    linear = slopes(lib.sde, part.linear, count - 1)
    change = slopes(lib.sde, lib.functions[noise].data["entries"], count)[1:]
    while len(linear) > 1 and linear[-1].is_zero_matrix:
        linear.pop()
    timeless = len(linear) == 1 and all(M.is_zero_matrix for M in change)
    written = [e for M in (*linear, *([] if timeless else change)) for e in M]
    return lib.add(
        f"{noise}_terms", "noise_terms", written, (lib.static("matrix"), noise), letter=part.letter, noise=noise, count=count,
        linear=tuple(linear), change=tuple(change), timeless=timeless, lets=lib.lets(written),
    )  # fmt: skip


def _terms(A: list[Any], G: list[Any]) -> list[list[list[Ball]]]:
    """[G_0, ..., G_{n-1}] from A and G and their derivatives."""
    A, G = ([flint.acb_mat(M) for M in table] for table in (A, G))
    found = [G[0]]
    while len(G) > 1:
        G = [sum((comb(m, k) * A[k] * G[m - k] for k in range(m + 1)), G[m + 1]) for m in range(len(G) - 1)]
        found.append(G[0])
    return [M.tolist() for M in found]


def _begin(row: Sequence[Ball]) -> int | None:
    return next((k for k, e in enumerate(row) if not e.contains(0)), None)


def _begins(rows: Sequence[Sequence[Ball]]) -> list[int | None]:
    """The column in which each row begins once the rows above are taken out of it; None where nothing is left."""
    above: dict[int, list[Ball]] = {}
    found = []
    for row in rows:
        left = list(row)
        for column in sorted(above):
            share = left[column] / above[column][column]
            left = [a - share * b for a, b in zip(left, above[column], strict=True)]
            left[column] = flint.acb(0)
        begin = _begin(left)
        found.append(begin)
        if begin is not None:
            above[begin] = left
    return found
