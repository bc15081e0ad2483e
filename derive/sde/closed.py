"""What follows from F and G alone: transition, covariance, stationary law, reverse dynamics.

    d Psi(t, s)/dt = F(t) Psi(t, s),  Psi(s, s) = I            transition
    d Sigma/dt = F Sigma + Sigma F^T + G G^T                   covariance given the data point
    F S_inf + S_inf F^T + G G^T = 0                            stationary law
    Sigma_t = S_inf + Psi(t, 0) (Sigma_0 - S_inf) Psi(t, 0)^T

Where F(t) and F(s) do not commute, exp of the integral of F is NOT the transition; that case is refused here and takes
the ordered numeric route of numeric.py and of the emitted modules.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.bounded import cancelled, tame
from ..maths.calculus import exact, increment, plain, s, sums, t
from ..maths.entire import exponential
from ..maths.point import BITS, Point, random_point
from . import stationary as law
from .equations import Equations
from .smooth import defaults

NUMERIC = "use sde.at(...), which takes the numeric route under the same interface"


@dataclass(frozen=True)
class Reverse:
    """Reverse-time dynamics, time running down from T: dz = (F z + b - score s) dt + noise^(1/2) dw, dt < 0.

    ``score`` = (G G^T + V)/2 multiplies the score s = grad log p_t(z); ``noise`` = V = eta^2 G G^T (arXiv 2206.05564).
    """

    linear: sp.Matrix
    offset: sp.Matrix
    score: sp.Matrix
    noise: sp.Matrix


def _commutator_vanishes(F: sp.Matrix, values: Mapping[sp.Symbol, sp.Rational]) -> bool:
    """Whether F(t) F(s) - F(s) F(t) is 0 at a point, to 40 digits of its terms."""
    bits = 2 * BITS
    early, late = Point({**values, t: values[s]}, bits), Point(values, bits)
    with flint.ctx.workprec(bits):
        A, B = (flint.acb_mat([[at(e) for e in row] for row in F.tolist()]) for at in (early, late))
        gap, size = A * B - B * A, sum((abs(e) for e in (*A.entries(), *B.entries())), flint.arb(1)) ** 2
        return all(abs(e).upper() < size * flint.arb("1e-40") for e in gap.entries())


def commutes(F: sp.Matrix) -> bool:
    """Whether F(t) F(s) = F(s) F(t) identically, as far as three random points show (see ``calculus.is_zero``)."""
    if F.shape == (1, 1) or t not in F.free_symbols:
        return True
    rng = random.Random(0)
    return all(_commutator_vanishes(F, random_point({*F.free_symbols, s}, rng)) for _ in range(3))


@dataclass(frozen=True)
class Words:
    """A matrix spelled with the SDE's lets and with the symbols of their integrals; ``integrals`` says what those are."""

    entries: sp.Matrix
    integrals: dict[sp.Symbol, sp.Expr]

    def written_out(self, sde: Equations) -> sp.Matrix:
        return sde.written_out(self.entries.subs({name: plain(value) for name, value in self.integrals.items()}))


def in_lets(sde: Equations, expr: sp.Expr) -> dict[str, sp.Expr] | None:
    """An expression as c_0 + sum_k c_k let_k with c free of t, {let or "": c}; None where it is none."""
    timed = [name for name, value in sde.let.items() if value.has(t) and expr.has(sp.Symbol(name, real=True))]
    symbols = [sp.Symbol(name, real=True) for name in timed]
    if not timed:
        return None if expr.has(t) else {"": expr}
    poly = sp.Poly(expr, *symbols) if expr.is_polynomial(*symbols) and tame(expr) else None
    if poly is None or poly.total_degree() > 1 or any(c.has(t) for c in poly.coeffs()):
        return None
    parts = {name: poly.coeff_monomial(x) for name, x in zip(timed, symbols, strict=True)}
    return {"": poly.coeff_monomial(1), **parts}


def timeless(sde: Equations, M: sp.Matrix) -> sp.Matrix:
    """A matrix in the words of let that is free of t; written out where lets that change with t cancel in it."""
    timed = {sp.Symbol(name, real=True) for name, value in sde.let.items() if value.has(t)}
    return sde.written_out(M).applyfunc(cancelled) if M.free_symbols & timed else M


def generator(sde: Equations, F: sp.Matrix, upper: sp.Expr, lower: sp.Expr) -> Words:
    """The integral of F (in the words of let) over (lower, upper), the integral of ``beta`` spelled ``int_beta``.

    Raises Unsupported where an entry has no row in the table of integrals.
    """
    integrals: dict[sp.Symbol, sp.Expr] = {}

    def integral(entry: sp.Expr) -> sp.Expr:
        parts = in_lets(sde, entry)
        closed = {name: _increment(sde.let[name], upper, lower) for name in parts or () if name}
        if parts is None or any(value is None for value in closed.values()):
            whole = _increment(sde.written_out(entry), upper, lower)
            if whole is None:
                raise Unsupported(f"an entry of {sde.name} has no closed integral here", NUMERIC)
            return whole
        integrals.update({sp.Symbol(f"int_{name}", real=True): value for name, value in closed.items()})
        return sum(
            (c * sp.Symbol(f"int_{k}", real=True) if k else c * (upper - lower) for k, c in parts.items()), sp.S.Zero
        )

    return Words(sp.Matrix(F.applyfunc(integral)), integrals)


def _increment(expr: sp.Expr, upper: sp.Expr, lower: sp.Expr) -> sp.Expr | None:
    closed = increment(expr, upper, lower)
    return closed if closed is not None else increment(sums(expr), upper, lower)


def transition_words(sde: Equations, upper: sp.Expr, lower: sp.Expr) -> Words:
    """Psi(upper, lower) in closed form for one or two blocks whose F commutes with itself, in words."""
    if sde.schedule is not None:
        alpha = sde.written_out(sde.schedule[0])
        return Words(sp.Matrix([[alpha.subs(t, upper) / alpha.subs(t, lower)]]), {})
    if not commutes(sde.F):
        raise Unsupported(
            f"F of {sde.name} does not commute with itself at two times, so exp of its integral is wrong", NUMERIC
        )
    if sde.n > 2:
        raise Unsupported(f"no closed exponential for {sde.n} blocks", NUMERIC)
    integral = generator(sde, sde.F_let, upper, lower)
    return Words(
        exponential(integral.entries, lambda e: Words(sp.Matrix([[e]]), integral.integrals).written_out(sde)[0]),
        integral.integrals,
    )


def _check_at_rest(sde: Equations) -> None:
    """Refuse in numbers, before any algebra, a law that would change between two times."""
    if not sde.F.has(t) and not sde.GG.has(t):
        return
    values = {symbol: sde.params.get(name, 0.0) for name, symbol in sde.symbols.items()}
    low, high = sde.time
    laws = []
    for share in (0.31, 0.67):
        point = {**values, t: low + share * (high - low)}
        F, V = (np.array(M.subs(point).evalf().tolist(), dtype=np.float64) for M in (sde.F, sde.GG))
        one = np.eye(sde.n)
        equations = np.kron(F, one) + np.kron(one, F)
        if np.linalg.cond(equations) > 1e10:
            return  # the algebra says what holds
        laws.append(np.linalg.solve(equations, -V.flatten()))
    if np.abs(laws[0] - laws[1]).max() > 1e-8 * np.abs(laws[0]).max():
        raise Unsupported(
            f"the law that F and G of {sde.name} would keep changes with t", "F and G G^T must share one clock"
        )


def stationary_words(sde: Equations) -> sp.Matrix:
    """The constant S with F S + S F^T + G G^T = 0, in the words of let."""
    _check_at_rest(sde)
    S = law.solve(sde.name, sde.F, sde.GG, sde.F_let, sde.GG_let)
    written = sde.written_out(S)
    if not written.has(t):
        return timeless(sde, S)
    start, end = map(exact, sde.time)  # constant, but spelled with t, as sin^2 + cos^2 is
    places = (written.subs(t, time) for time in (start, (start + end) / 2))
    return next(at for at in places if not at.has(sp.nan, sp.zoo, sp.oo))


def covariance_words(sde: Equations, time: sp.Expr) -> Words:
    """Sigma at ``time``, from Sigma at the start of the span = diag(initial), in words."""
    if sde.schedule is not None:
        return Words(sp.Matrix([[sde.schedule[1].subs(t, time) ** 2]]), {})
    start = exact(sde.time[0])
    if sde.F.is_zero_matrix:
        growth = generator(sde, sde.GG_let, time, start)
        return Words(sde.initial_let + growth.entries, growth.integrals)
    psi, S = transition_words(sde, time, start), stationary_words(sde)
    return Words(S + psi.entries * (sde.initial_let - S) * psi.entries.T, psi.integrals)


def transition(sde: Equations, upper: sp.Expr, lower: sp.Expr) -> sp.Matrix:
    """Psi(upper, lower), written out in t and the parameters."""
    return transition_words(sde, upper, lower).written_out(sde)


def stationary(sde: Equations) -> sp.Matrix:
    """The constant S with F S + S F^T + G G^T = 0, written out; Unsupported where it is no covariance at the defaults."""
    found = sde.written_out(stationary_words(sde)).applyfunc(cancelled)
    at = Point(defaults(sde))
    spread = np.linalg.eigvalsh([[float(at(e).real.mid()) for e in row] for row in found.tolist()])
    if not spread[0] > -1e-9 * abs(spread).max():
        raise Unsupported(f"{sde.name} has no stationary law", "F must be stable and G G^T in proportion to it")
    return found


def covariance(sde: Equations, time: sp.Expr) -> sp.Matrix:
    """Sigma at ``time``, written out in t and the parameters."""
    return covariance_words(sde, time).written_out(sde)


def reverse(sde: Equations, eta: sp.Expr) -> Reverse:
    """The reverse dynamics of ``Reverse`` with V = eta^2 G G^T."""
    noise = eta**2 * sde.GG
    return Reverse(sp.Matrix(sde.F), sp.Matrix(sde.offset), (sde.GG + noise) / 2, sp.Matrix(noise))
