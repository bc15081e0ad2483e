"""Integrals over a step that keep their digits, and the test for zero.

An increment int_s^t f is written so that no two nearly equal numbers are subtracted: polynomials carry the factor
(t - s), exponentials an expm1, logarithms a log1p.  What is in no row of the table returns None and is integrated by
Gauss-Legendre quadrature in the emitted module, and so is what has too many terms.  Nothing here searches, and what is
multiplied out is counted before.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable

import sympy as sp
from sympy.codegen.cfunctions import expm1, log1p
from sympy.simplify.fu import TR8

from .bounded import MAX_CLOSED, MAX_DEGREE, monomials
from .point import random_point, vanishes

t = sp.Symbol("t", real=True)
s = sp.Symbol("s", real=True)
t0 = sp.Symbol("t0", real=True)
t1 = sp.Symbol("t1", real=True)
EARLIER = tuple(sp.Symbol(f"t_m{k}", real=True) for k in (1, 2, 3, 4))  # the times of one to four steps ago
SAMPLES = 3  # points at which what is zero is held to be


def symbol(name: str) -> sp.Symbol:
    """What a name stands for in every expression: a real symbol."""
    return sp.Symbol(name, real=True)


@functools.lru_cache(maxsize=512)
def increment(f: sp.Expr, upper: sp.Expr = t, lower: sp.Expr = s) -> sp.Expr | None:
    """int_lower^upper f(t) dt in closed form, or None where the table below has no row for a term of f.

    None also for an f of more than MAX_CLOSED terms, and for a polynomial of a degree above MAX_DEGREE.
    """
    if monomials(f) > MAX_CLOSED:
        return None
    terms = sp.Add.make_args(sp.expand(f))
    polynomial = sp.Add(*(term for term in terms if term.is_polynomial(t)))
    if sp.degree(polynomial, t) > MAX_DEGREE:
        return None
    total = _polynomial(polynomial, upper, lower)
    for term in (term for term in terms if not term.is_polynomial(t)):
        constant, rest = term.as_independent(t, as_Add=False)
        piece = _row(rest, upper, lower)
        if piece is None:
            return None
        total += constant * piece
    return total


def sums(f: sp.Expr) -> sp.Expr:
    """f with each product of two sines or cosines as a sum, for which the table has rows; digits may cancel in it."""
    return f if monomials(f) > MAX_CLOSED else sp.expand(TR8(sp.expand(f)))


def _polynomial(f: sp.Expr, upper: sp.Expr, lower: sp.Expr) -> sp.Expr:
    """(upper - lower) times the divided difference of the antiderivative, which is a polynomial again."""
    total = sp.S.Zero
    for (k,), coef in sp.Poly(f, t).terms():
        total += coef * sum(upper**i * lower ** (k - i) for i in range(k + 1)) / (k + 1)
    return (upper - lower) * total


def _row(f: sp.Expr, upper: sp.Expr, lower: sp.Expr) -> sp.Expr | None:
    """One row of the table of functions of a linear argument u = a t + b."""
    u = f.args[0] if isinstance(f, sp.exp | sp.sin | sp.cos | sp.tan) else None
    if isinstance(f, sp.Pow):
        u = f.exp if f.base.free_symbols.isdisjoint({t}) else f.base
    a = sp.expand(u).coeff(t, 1) if u is not None else sp.S.Zero
    if u is None or a == 0 or not (u - a * t).expand().free_symbols.isdisjoint({t}):
        return None
    high, low = u.subs(t, upper), u.subs(t, lower)
    half, mean = a * (upper - lower) / 2, a * (upper + lower) / 2 + u.subs(t, 0)
    if isinstance(f, sp.exp):
        return sp.exp(low) * expm1(a * (upper - lower)) / a
    if isinstance(f, sp.sin):
        return 2 * sp.sin(mean) * sp.sin(half) / a
    if isinstance(f, sp.cos):
        return 2 * sp.cos(mean) * sp.sin(half) / a
    if isinstance(f, sp.tan):
        return -log1p(-2 * sp.sin(mean) * sp.sin(half) / sp.cos(low)) / a
    if f.exp == -1:
        return log1p(a * (upper - lower) / low) / a
    if u == f.exp:
        rate = a * sp.log(f.base)
        return f.base**low * expm1(rate * (upper - lower)) / rate
    return (high ** (f.exp + 1) - low ** (f.exp + 1)) / (a * (f.exp + 1))


def careful(expr: sp.Expr) -> sp.Expr:
    """The same expression with every 1 - exp(x) written as -expm1(x), so that small x keep their digits."""

    def rewritten(e: sp.Expr) -> sp.Expr:
        for term in e.args:
            c, rest = term.as_coeff_Mul()
            if isinstance(rest, sp.exp) and c in (1, -1) and -c in e.args:
                return e - term + c + c * expm1(rest.args[0])
        return e

    return expr.replace(lambda e: e.is_Add, rewritten)


@functools.lru_cache(4096)  # the same entries are read at every centre of a series
def plain(expr: sp.Expr) -> sp.Expr:
    """The same expression without expm1 and log1p, for algebra and evaluation to many digits."""
    return expr.replace(expm1, lambda x: sp.exp(x) - 1).replace(log1p, lambda x: sp.log(1 + x))


def exact(number: float) -> sp.Rational:
    """A float64 as the rational number that it prints as: 0.1 is 1/10."""
    return sp.Rational(repr(float(number)))


def is_zero(expr: sp.Expr) -> bool:
    """Whether an expression vanishes identically, by its values at random rational points (``point.vanishes``).

    A nonzero verdict is a proof: a ball without zero.  A zero verdict says that at every point the value is below 1e-40
    of the size of its terms; the points have 64 random bits a name, so a polynomial of degree d that is not 0 passes
    with a probability below d 2^-63 a point (Schwartz and Zippel).
    """
    expr = sp.sympify(expr)
    if expr.is_Rational:
        return bool(expr == 0)
    rng = random.Random(0)
    seen: list[bool | None] = []
    while len(seen) < SAMPLES + 7 and seen.count(True) < SAMPLES:  # points where it is not defined do not count
        seen.append(vanishes(expr, random_point(expr.free_symbols, rng)))
        if seen[-1] is False:
            return False
    return seen.count(True) == SAMPLES


def is_zero_matrix(entries: Iterable[sp.Expr]) -> bool:
    return all(is_zero(entry) for entry in entries)
