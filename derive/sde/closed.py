"""What follows from F and G alone, spelled in the lets and their integrals: transition, covariance, stationary law.

    d Psi(t, s)/dt = F(t) Psi(t, s),  Psi(s, s) = I            transition
    d Sigma/dt = F Sigma + Sigma F^T + G G^T                   covariance given the data point
    F S_inf + S_inf F^T + G G^T = 0                            stationary law
    Sigma_t = S_inf + Psi(t, 0) (Sigma_0 - S_inf) Psi(t, 0)^T

Where F(t) and F(s) do not commute, exp of the integral of F is NOT the transition; that case is refused here and takes
the ordered numeric route of numeric.py and of the emitted modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.bounded import cancelled, tame
from ..maths.calculus import exact, increment, is_zero_matrix, plain, s, sums, t
from ..maths.entire import exponential
from ..maths.point import Point
from . import stationary as law
from .equations import Equations
from .smooth import defaults

NUMERIC = "it is computed numerically; in Python, use sde.at(...)"


def commutes(F: sp.Matrix) -> bool:
    """Whether F(t) F(s) = F(s) F(t) identically (see ``calculus.is_zero``)."""
    if F.shape == (1, 1) or t not in F.free_symbols:
        return True
    early = F.xreplace({t: s})
    return is_zero_matrix(F * early - early * F)


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


def integral(
    sde: Equations, entry: sp.Expr, upper: sp.Expr, lower: sp.Expr, closed: Callable[..., sp.Expr | None] = increment
) -> tuple[sp.Expr, dict[sp.Symbol, sp.Expr]] | None:
    """The integral of an entry (in the words of let) over (lower, upper), that of ``beta`` spelled ``int_beta``, and what
    these are; None where the entry has no row in the table of integrals.
    """
    parts = in_lets(sde, entry)
    pieces = {name: closed(sde.let[name], upper, lower) for name in parts or () if name}
    if parts is None or any(value is None for value in pieces.values()):
        written = closed(sde.written_out(entry), upper, lower)
        return None if written is None else (written, {})
    words = {name: sp.Symbol(f"int_{name}", real=True) for name in pieces}
    total = sum((c * words.get(name, upper - lower) for name, c in parts.items()), sp.S.Zero)
    return total, {words[name]: value for name, value in pieces.items()}


def generator(sde: Equations, F: sp.Matrix, upper: sp.Expr, lower: sp.Expr) -> Words:
    """The integral of F (in the words of let) over (lower, upper); Unsupported where an entry has none in closed form."""
    each = [integral(sde, entry, upper, lower, _increment) for entry in F]
    known = [pair for pair in each if pair is not None]
    if len(known) < len(each):
        raise Unsupported(f"an entry of {sde.name} has no closed integral here", NUMERIC)
    words = {symbol: value for _, integrals in known for symbol, value in integrals.items()}
    return Words(sp.Matrix(*F.shape, [entry for entry, _ in known]), words)


def _increment(expr: sp.Expr, upper: sp.Expr, lower: sp.Expr) -> sp.Expr | None:
    closed = increment(expr, upper, lower)
    return closed if closed is not None else increment(sums(expr), upper, lower)


def transition_words(sde: Equations, upper: sp.Expr, lower: sp.Expr) -> Words:
    """Psi(upper, lower) in closed form for one or two blocks whose F commutes with itself, in words."""
    if sde.schedule is not None:
        alpha = sde.written_out(sde.schedule[0])
        return Words(sp.Matrix([[alpha.subs(t, upper) / alpha.subs(t, lower)]]), {})
    if not commutes(sde.F):
        what = f"F of {sde.name} does not commute with itself at two times, so exp of its integral is wrong"
        raise Unsupported(what, NUMERIC)
    if sde.n > 2:
        raise Unsupported(f"no closed exponential for {sde.n} blocks", NUMERIC)
    words = generator(sde, sde.F_let, upper, lower)
    meaning = lambda e: Words(sp.Matrix([[e]]), words.integrals).written_out(sde)[0]  # noqa: E731
    return Words(exponential(words.entries, meaning), words.integrals)


def stationary_words(sde: Equations) -> sp.Matrix:
    """The constant S with F S + S F^T + G G^T = 0, in the words of let."""
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


def stationary(sde: Equations) -> sp.Matrix:
    """The constant S with F S + S F^T + G G^T = 0, written out; Unsupported where it is no covariance at the defaults."""
    S = sde.written_out(stationary_words(sde)).applyfunc(cancelled)
    at = Point(defaults(sde))
    spread = np.linalg.eigvalsh([[float(at(e).real.mid()) for e in row] for row in S.tolist()])
    if not spread[0] > -1e-9 * abs(spread).max():
        raise Unsupported(f"{sde.name} has no stationary law", law.NONE)
    return S
