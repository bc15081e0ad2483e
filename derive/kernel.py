"""What follows from F and G alone: transition, covariance, stationary law, reverse dynamics.

    d Psi(t, s)/dt = F(t) Psi(t, s),  Psi(s, s) = I            transition
    d Sigma/dt = F Sigma + Sigma F^T + G G^T                   covariance given the data point
    F S_inf + S_inf F^T + G G^T = 0                            stationary law
    Sigma_t = S_inf + Psi(t, 0) (Sigma_0 - S_inf) Psi(t, 0)^T

Where F(t) and F(s) do not commute, exp of the integral of F is NOT the transition; that case is refused here and takes
the ordered numeric route of numeric.py and of the emitted modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from stepsmith.errors import Unsupported

from .calculus import increment, is_zero_matrix, plain, s, t
from .entire import exponential

if TYPE_CHECKING:
    from .sde import LinearSDE

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


def commutes(F: sp.Matrix) -> bool:
    """Whether F(t) F(s) = F(s) F(t) identically."""
    other = F.subs(t, s)
    return F.shape == (1, 1) or is_zero_matrix(F * other - other * F)


def generator(F: sp.Matrix, upper: sp.Expr = t, lower: sp.Expr = s) -> sp.Matrix | None:
    """The integral of F over (lower, upper), entry by entry, or None where an entry has no row in the table."""
    entries = [increment(entry, upper, lower) for entry in F]
    return None if any(entry is None for entry in entries) else sp.Matrix(*F.shape, entries)


def transition(sde: LinearSDE, upper: sp.Expr, lower: sp.Expr) -> sp.Matrix:
    """Psi(upper, lower) in closed form for one or two blocks whose F commutes with itself."""
    if not sde.commutes():
        raise Unsupported(
            f"F of {sde.name} does not commute with itself at two times, so exp of its integral is wrong", NUMERIC
        )
    if sde.n > 2:
        raise Unsupported(f"no closed exponential for {sde.n} blocks", NUMERIC)
    integral = generator(sde.F, upper, lower)
    if integral is None:
        raise Unsupported(f"an entry of F of {sde.name} has no closed integral here", NUMERIC)
    return exponential(plain(integral).applyfunc(sp.factor_terms))


def stationary(sde: LinearSDE) -> sp.Matrix:
    """The constant S with F S + S F^T + G G^T = 0."""
    n = sde.n
    unknown = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"S{min(i, j)}{max(i, j)}"))
    equations = sde.F * unknown + unknown * sde.F.T + sde.GG
    rows = [equations[i, j] for i in range(n) for j in range(i, n)]
    symbols = [unknown[i, j] for i in range(n) for j in range(i, n)]
    solutions = list(sp.linsolve(rows, symbols))
    if not solutions:
        raise Unsupported(f"{sde.name} has no stationary law", "F must be stable and G G^T in proportion to it")
    law = unknown.subs(dict(zip(symbols, map(sp.cancel, solutions[0]), strict=True)))
    if law.free_symbols & {t, *symbols}:
        raise Unsupported(
            f"the law that F and G of {sde.name} would keep changes with t", "F and G G^T must share one clock"
        )
    return law


def covariance(sde: LinearSDE, time: sp.Expr) -> sp.Matrix:
    """Sigma at ``time``, from Sigma at the start of the span = diag(initial)."""
    start = sp.nsimplify(repr(sde.time[0]), rational=True)
    psi = transition(sde, time, start)
    if sde.F.is_zero_matrix:
        growth = generator(sde.GG, time, start)
        if growth is None:
            raise Unsupported(f"an entry of G G^T of {sde.name} has no closed integral here", NUMERIC)
        return sde.initial + plain(growth)
    law = stationary(sde)
    return law + psi * (sde.initial - law) * psi.T


def reverse(sde: LinearSDE, eta: sp.Expr) -> Reverse:
    """The reverse dynamics of ``Reverse`` with V = eta^2 G G^T."""
    noise = eta**2 * sde.GG
    return Reverse(sp.Matrix(sde.F), sp.Matrix(sde.offset), (sde.GG + noise) / 2, sp.Matrix(noise))
