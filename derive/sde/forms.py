"""The functions of one block that an emitted module is printed from: log alpha, alpha, sigma and the offset, in closed form.

    z_t = alpha(t) x_0 + o(t) + sigma(t) eps,   log alpha = int_START^t F,   sigma^2 = int_START^t (alpha(t)/alpha(s))^2 G(s)^2 ds

A form is an expression in t, the parameters and the lets, and in ``LOG_ALPHA`` where the integral of F has no closed form.  It is
None where there is none, or where it would lose its digits near the data: then the positive integrand is integrated instead.
"""

from __future__ import annotations

import sympy as sp
from sympy.codegen.cfunctions import expm1

from stepsmith.errors import InputError

from ..maths.bounded import cancelled, tame, tidied
from ..maths.calculus import careful, exact, increment, is_zero, plain, s, t
from .closed import integral
from .equations import Equations
from .offset import equilibrium
from .smooth import defaults

LOG_ALPHA = sp.Function("log_alpha", real=True)(t)
SMOOTH = 6  # degree of F and G G^T up to which Gauss quadrature of 8 nodes needs no look at how they change


def timed(sde: Equations) -> list[str]:
    """The lets that change with t or with the field: functions of the emitted module, where the others are numbers."""
    return [name for name, e in sde.let.items() if {t, sp.Symbol(sde.field or "t", real=True)} & e.free_symbols]


def smooth(sde: Equations) -> bool:
    """Whether F and G G^T are polynomials of low degree in t, which need no look at how they change."""
    entries = [sde.written_out(e) for e in (*sde.F, *sde.GG, *sde.offset)]
    return (
        bool(sde.field)
        or sde.schedule is not None
        or all(e.is_polynomial(t) and sp.Poly(e, t).degree() <= SMOOTH for e in entries)
    )


def scaled(sde: Equations) -> tuple[sp.Expr, sp.Expr, sp.Matrix] | None:
    """(f, the integral of f over (s, t), A) where F = f A of several blocks, f a polynomial in t and A constant; None elsewhere.

    Then Psi(t, s) = exp(A int_s^t f).  An offset, and what changes fast, are followed by short pieces.
    """
    if sde.n == 1 or sde.constant or not sde.offset.is_zero_matrix or not smooth(sde):
        return None
    entry = next((e for e in sde.F_let if e != 0), sp.S.One)
    f = entry.as_independent(*_running(sde), as_Add=False)[1]
    A, over = multiple(sde, sde.F_let, f), integral(sde, f, t, s)
    return None if A is None or over is None else (f, over[0].subs(over[1]), A)


def multiple(sde: Equations, M: sp.Matrix, f: sp.Expr) -> sp.Matrix | None:
    """B where M = f B, and neither t nor a value of the law at t, spelled name[i, j], is in B; None elsewhere."""
    B = (M / f).applyfunc(cancelled)
    return None if any(e in _running(sde) or "[" in e.name for e in B.free_symbols) else B


def zero_by_default(sde: Equations, rate: sp.Expr) -> bool:
    """Whether a rate is 0 at the default parameters though not 0 itself: no form may divide by it."""
    return rate != 0 and is_zero(sde.written_out(rate).subs(defaults(sde)))


def _running(sde: Equations) -> set[sp.Symbol]:
    return {sp.Symbol(name, real=True) for name in timed(sde)} | {t}


def _from_start(sde: Equations, expr: sp.Expr) -> sp.Expr:
    """An increment over (s, t), taken from s = START."""
    return expr.subs(s, exact(sde.time[0]))


def exponent(sde: Equations) -> sp.Expr | None:
    """log alpha, the integral of F from START to t."""
    closed = integral(sde, sde.F_let[0, 0], t, s)
    if closed is None:
        return None
    found = _from_start(sde, closed[0].subs(closed[1]))
    if found.has(sp.zoo, sp.oo, sp.nan):
        raise InputError(sde.name, "sde.F[0][0]", "has no finite integral from the start of the span", "start the span later")
    return found


def alpha(sde: Equations) -> sp.Expr | None:
    """alpha: the user's own, else exp of the exponent."""
    if sde.schedule is not None:
        return careful(sde.schedule[0])
    log_alpha = exponent(sde)
    return None if log_alpha is None else sp.exp(log_alpha)


def sigma(sde: Equations) -> sp.Expr | None:
    """sigma: the user's own; from the stationary variance v = -G^2/(2F) where that is constant; or, with F = 0, int G^2.

    sigma^2 = sigma_0^2 alpha^2 + v (1 - alpha^2), the last factor written by expm1, so that it keeps its digits near the data.
    """
    if sde.schedule is not None:
        return careful(sde.schedule[1])
    f, g2, variance = sde.F[0, 0], sde.GG[0, 0], sde.initial_let[0, 0]
    law = tidied(-g2 / (2 * f)) if f != 0 and not zero_by_default(sde, f) else None
    if law is not None and t not in law.free_symbols and _constant_mode(sde, law):
        closed = exponent(sde)
        log_alpha = closed if closed is not None else LOG_ALPHA
        return sp.sqrt(variance * sp.exp(2 * log_alpha) - law * expm1(2 * log_alpha))
    if f == 0 and (growth := increment(g2, t, s)) is not None:
        grown = _from_start(sde, growth)
        return sp.sqrt(_collapsed(sde.initial[0, 0] + plain(grown), sde.initial[0, 0] + grown))
    return None


def _constant_mode(sde: Equations, expr: sp.Expr) -> bool:
    """Whether an expression has a value where the field vanishes, which is the mean of every picture."""
    return not sde.field or sp.sympify(expr).subs(sde.symbols[sde.field], 0).is_finite is not False


def _collapsed(simple: sp.Expr, careful_form: sp.Expr) -> sp.Expr:
    """The single power that a variance may collapse to (VE: sigma_min^2 ratio^(2t)), else the careful form."""
    collapsed = sp.powsimp(sp.expand(simple)) if tame(simple) else simple
    return collapsed if not collapsed.is_Add and is_zero(collapsed - simple) else careful_form


def offset(sde: Equations) -> list[sp.Expr] | None:
    """What the constant components and 1 are multiplied with in o(t): (1 - alpha) m for a block drawn to a constant m."""
    kept = equilibrium(sde) if sde.schedule is None and not zero_by_default(sde, sde.F[0, 0]) else None
    if kept is None:
        return None
    closed = exponent(sde)
    log_alpha = closed if closed is not None else LOG_ALPHA
    return [-expm1(log_alpha) * e for e in kept]
