"""One random rational point of a method: parameters, a time, the law of z there, the state; and what is expanded around it.

The law at t0 is a random pair (Psi, Sigma): whatever the initial law, Psi' = F Psi and Sigma' = F Sigma + Sigma F^T + G G^T
carry it on, so an order found here holds for every start.  Everything is a power series in x = t - t0.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.calculus import plain, t
from ..maths.matrix import Matrix, add, mul, scaled, solve, transpose
from ..maths.values import evaluate
from ..program.meaning import Around
from ..sampler.network import KINDS, ScoreParameterization, scalar
from ..sde.linear import LinearSDE
from ..sde.offset import reached
from .rings import Ring, small_rational
from .series import Series, clock, constant, nil

UNIT = {1: ((1,), 1), 2: ((3, 4), 5), 3: ((2, 3, 6), 7), 4: ((1, 1, 1, 1), 2)}  # rational points of spheres


@dataclass(frozen=True, eq=False)
class Point(Around):
    """Numbers of a ring: ``params``, ``t0``, ``psi`` and ``low`` (n x n; Sigma = low low^T); ``terms`` of every series."""

    ring: Ring
    sde: LinearSDE
    params: Mapping[str, Any]
    t0: Any
    psi: list[list[Any]]
    low: list[list[Any]]
    terms: int

    @cached_property
    def time(self) -> Series:
        """t0 + x."""
        return clock(self.ring, self.t0, self.terms)

    def number(self, expr: sp.Expr, length: int = 0) -> Series:
        """A rational, pi or e as a constant series."""
        value = self.ring.of(expr) if expr.is_Rational else self.ring.constant("pi" if expr == sp.pi else "e")
        return constant(self.ring, value, length or self.terms)

    @cached_property
    def known(self) -> dict[str, Any]:
        """What an expression in t may name: the parameters, t, and alpha and sigma of one block."""
        own = {name: constant(self.ring, value, self.terms) for name, value in self.params.items()}
        start = constant(self.ring, self.t0, self.terms)
        functions = {
            "alpha": lambda time: self.Psi[0][0].at(time - start),
            "sigma": lambda time: self.Sigma[0][0].sqrt().at(time - start),
        }
        return {**own, **functions, "t": self.time}

    def one(self, expr: Any) -> Series:
        return self.of(sp.Matrix([[expr]]))[0][0]

    @cached_property
    def Psi(self) -> Matrix:
        if self.sde.schedule is not None:
            return [[self.one(self.sde.schedule[0])]]
        return grow(self, self.psi, left=self.F)

    @cached_property
    def Sigma(self) -> Matrix:
        if self.sde.schedule is not None:
            sigma = self.one(self.sde.schedule[1])
            return [[sigma * sigma]]
        if (
            self.sde.n == 1 and self.sde.F.is_zero_matrix
        ):  # programs may say log(sigma) in closed form: the law is the actual one
            try:
                return [[self.one(plain(self.sde.covariance(t)[0, 0]))]]
            except Unsupported:
                pass
        start = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in self.low] for p in self.low]
        return grow(self, start, left=self.F, right=transpose(self.F), inhomogeneous=self.V)

    @cached_property
    def b(self) -> Matrix:
        """What multiplies the constant components and 1 in the offset, n x (m + 1)."""
        return self.of(self.sde.offset_terms_let)

    @cached_property
    def offset(self) -> Matrix:
        """o(t, start), n x (m + 1): o' = F o + b.  Random at t0 like the law, zero where the SDE has no offset."""
        mask = reached(self.sde.F_let, self.sde.offset_terms_let)
        rows, columns = mask.shape
        start = [[self.ring.number(2 * i + j + 1, 7) * int(mask[i, j]) for j in range(columns)] for i in range(rows)]
        return grow(self, start, left=self.F, inhomogeneous=self.b)

    @cached_property
    def R(self) -> Matrix:
        """gDDIM's R, R' = (F + G G^T Sigma^-1 / 2) R (arXiv 2206.05564), anchored at t0: as good as anywhere."""
        rate = add(self.F, scaled(mul(self.V, solve(self.Sigma)), self.ring.number(1, 2)))
        return mul(grow(self, unit(self), left=rate), constants(self, self.low))

    @cached_property
    def parameterization(self) -> Callable[[str | ScoreParameterization], tuple[Matrix, Matrix, Matrix, Series]]:
        """(C_skip, C_out, C_in, C_noise) of a network; asked for at every pass of ``taylor.exact_flow``."""
        return cache(self._parameterization)

    def _parameterization(self, network: str | ScoreParameterization) -> tuple[Matrix, Matrix, Matrix, Series]:
        if isinstance(network, ScoreParameterization):
            return self.of(network.skip), self.of(network.out), self.of(network.inp), self.one(network.noise)
        n = self.sde.n
        zero, one = constants(self, [[0] * n] * n), constants(self, unit(self))
        kind = KINDS[network]
        if kind.law == "":
            return zero, one, one, self.time
        if n == 1:
            a, s, d = sp.symbols("a_ s_ d_")
            known = {"a_": self.Psi[0][0], "s_": self.Sigma[0][0].sqrt(), "t": self.time}
            known["d_"] = constant(self.ring, self.params.get("sigma_data", self.ring.number(1)), self.terms)
            skip, out, inp, noise = (evaluate(e, known, self.number) for e in scalar(network, a, s, t, d))
            return [[skip]], [[out]], [[inp]], noise
        if kind.single:
            assert kind.law is not None
            law: Any = self.tables(kind.law)
            return law if kind.bridge else (law[0], law[1], one, self.time)
        return zero, self.tables(network)[0], one, self.time


def draw(method: Any, ring: Ring, seed: int, terms: int, kept: frozenset[str] | None = None) -> Point:
    """A random point of a method: parameters near their defaults that keep the constraints, a time inside the span.

    Parameters that decide what is sampled (a noise clock, eta) stay at their defaults, or those that are ``kept``.
    """
    rng, sde = random.Random(seed), method.sde
    if kept is None:
        kept = frozenset(
            s.name for part in method.sampler.parts.values() for e in part.noise_clock.values() for s in _symbols(e)
        )
        if method.sampler.formula is not None:
            kept |= set(method.sampler.params)  # such as eta: another value samples another diffusion
    values = _parameters(method, rng, kept)
    low, high = (flint.fmpq(*float(end).as_integer_ratio()) for end in sde.time)
    t0 = low + (high - low) * (flint.fmpq(1, 2) + small_rational(rng, -0.1, 0.1))
    number = lambda q: ring.number(int(q.p), int(q.q))  # noqa: E731
    n = sde.n
    root = [
        [
            number(small_rational(rng) / 2 if j < i else 1 + small_rational(rng) / 3 if i == j else flint.fmpq(0))
            for j in range(n)
        ]
        for i in range(n)
    ]
    psi = [[number(small_rational(rng) / 3 + (1 if i == j else 0)) for j in range(n)] for i in range(n)]
    if (
        n in UNIT and len(sde.data) == 1
    ):  # sigma_eff = 1/|L^-1 Psi e| is then rational, and so is what the bridge makes of it
        size = flint.fmpq(10, rng.randint(7, 13) * UNIT[n][1])
        lead = [number(p * size) for p in UNIT[n][0]]
        for i in range(n):
            psi[i][sde.data[0]] = sum((root[i][j] * lead[j] for j in range(n)), number(flint.fmpq(0)))
    if sde.F.is_zero_matrix:  # the programs of such a diffusion know that Psi is the unit matrix
        psi = [[number(flint.fmpq(int(i == j))) for j in range(n)] for i in range(n)]
    return Point(ring, sde, {k: number(v) for k, v in values.items()}, number(t0), psi, root, terms)


def _symbols(text: Any) -> list[sp.Symbol]:
    return [sp.Symbol(word) for word in str(text).replace("*", " ").replace("+", " ").split() if word.isidentifier()]


def _parameters(method: Any, rng: random.Random, fixed: frozenset[str]) -> dict[str, flint.fmpq]:
    """Defaults times a rational near one; a default of zero becomes a rational between 1/10 and 1."""
    for _ in range(200):
        values = {}
        field = {method.sde.field: 0.0} if method.sde.field else {}
        for name, default in {**method.program.params, **field}.items():
            exact = flint.fmpq(*float(default).as_integer_ratio())
            varied = exact * (1 + small_rational(rng) / 4) if exact else abs(small_rational(rng))
            values[name] = exact if name in fixed else flint.fmpq((2 * varied.p * 10**6 + varied.q) // (2 * varied.q), 10**6)
        exact_values = {sp.Symbol(k, real=True): sp.Rational(repr(v)) for k, v in method.sde.params.items()}
        exact_values |= {sp.Symbol(k, real=True): sp.Rational(int(v.p), int(v.q)) for k, v in values.items()}
        if all(c.holds(exact_values) for c in method.sde.constraints):
            return values
    raise Unsupported(
        f"no parameters near the defaults of {method.sde.name} keep its constraints", "loosen the constraints"
    )


# -- matrices of series ----------------------------------------------------------------------------------------------------


def unit(point: Point) -> list[list[Any]]:
    n = point.sde.n
    return [[point.ring.number(int(i == j)) for j in range(n)] for i in range(n)]


def constants(point: Point, values: list[list[Any]]) -> Matrix:
    return [[constant(point.ring, e, point.terms) for e in row] for row in values]


def composed(A: Matrix, inner: Series) -> Matrix:
    return [[e.at(inner) for e in row] for row in A]


def grow(
    point: Point, start: list[list[Any]], left: Matrix | None = None, right: Matrix | None = None,
    inhomogeneous: Matrix | None = None,
) -> Matrix:  # fmt: skip
    """X' = left X + X right + inhomogeneous from X(t0) = start, coefficient by coefficient."""
    rows, columns = range(len(start)), range(len(start[0]))
    by_left = [_terms(row) for row in left or [[]] * len(start)]
    by_right = [_terms(column) for column in transpose(right)] if right else [[]] * len(start[0])
    X = [[[e] for e in row] for row in start]
    for k in range(point.terms - 1):
        slope = [[inhomogeneous[i][j].c[k] if inhomogeneous else 0 for j in columns] for i in rows]
        for i in rows:
            for j in columns:
                slope[i][j] += sum(c * X[q][j][k - m] for q, m, c in by_left[i] if m <= k)
                slope[i][j] += sum(X[i][q][k - m] * c for q, m, c in by_right[j] if m <= k)
        for i in rows:
            for j in columns:
                X[i][j].append(0 if type(slope[i][j]) is int else slope[i][j] / (k + 1))
    return [[Series(e, point.ring) for e in row] for row in X]


def _terms(entries: list[Series]) -> list[tuple[int, int, Any]]:
    """(q, m, c): the coefficients c of x^m in the q-th of some series, but for integer zeros."""
    return [(q, m, c) for q, e in enumerate(entries) for m, c in enumerate(e.c) if not nil(c)]
