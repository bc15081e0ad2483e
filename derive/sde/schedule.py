"""One block written as a pair of schedules, z_t = alpha(t) x_0 + sigma(t) eps, in the place of F and G.

F = alpha'/alpha,   G^2 = (sigma^2)' - 2 F sigma^2,   alpha = 1 and sigma = 0 at the start of the span

Where these are long, the diffusion is dx = f x dt + sqrt(g2) dw with two lets more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from typing import Any

import sympy as sp

from stepsmith.errors import InputError

from ..maths.bounded import tame, tidied
from ..maths.calculus import exact, is_zero, t
from ..spec.expression import parse

LONG = 12  # operations in F or in G^2, from which they have names


def read_schedule(
    where: str, table: Mapping[str, Any], n: int, names: Any, lets: Mapping[str, sp.Expr], begin: float
) -> tuple[sp.Expr, sp.Expr]:
    """(alpha, sigma) of z_t = alpha x_0 + sigma eps, one block; they take the place of F and G."""
    if n != 1 or "F" in table or "G" in table or "initial" in table:
        what = "alpha and sigma describe one block and stand for F, G and initial"
        raise InputError(where, "sde.alpha", what, "leave those out")
    pair = tuple(parse(table[key], names, where=where, key=f"sde.{key}") for key in ("alpha", "sigma"))
    start = exact(begin)
    for key, expr, wanted in zip(("alpha", "sigma"), pair, (1, 0), strict=True):
        if not is_zero(written_out(expr, lets).subs(t, start) - wanted):
            what = f"{key} at the start of the span is not {wanted}"
            raise InputError(where, f"sde.{key}", what, f"write one with {key} = {wanted} there")
    return pair[0], pair[1]


def written_out(expr: sp.Expr, lets: Mapping[str, sp.Expr]) -> sp.Expr:
    """An expression with every let replaced by what it stands for."""
    return expr.subs({sp.Symbol(name, real=True): value for name, value in lets.items()})


def slope(expr: sp.Expr, lets: Mapping[str, sp.Expr]) -> sp.Expr:
    """The derivative in t of an expression in the words of let, in the same words."""
    inner = sum((expr.diff(sp.Symbol(name, real=True)) * value.diff(t) for name, value in lets.items()), sp.S.Zero)
    return (expr.diff(t) + inner).replace(sp.sign, lambda x: x / sp.Abs(x))


def of_schedule(
    schedule: tuple[sp.Expr, sp.Expr], lets: Mapping[str, sp.Expr], field: bool = False
) -> tuple[sp.Matrix, sp.Matrix]:
    """F = alpha'/alpha and G^2 = (sigma^2)' - 2 F sigma^2, so that z_t has these alpha and sigma; in the words of let.

    With a field F is left the sum over the factors of alpha: brought together, exp(-k2 tau) may meet its own inverse,
    which overflows at high frequencies.
    """
    alpha, sigma = schedule
    change, spread = slope(alpha, lets), slope(sigma, lets)
    if field:
        F = sp.Add(*(slope(factor, lets) / factor for factor in sp.Mul.make_args(alpha)))
        return sp.Matrix([[F]]), sp.Matrix([[sp.sqrt(2 * sigma * (spread - F * sigma))]])
    F = tidied(change / alpha)
    growth = 2 * sigma * (spread - F * sigma)
    return sp.Matrix([[F]]), sp.Matrix([[sp.sqrt(sp.factor(growth) if tame(growth) else growth)]])


def named(
    schedule: tuple[sp.Expr, sp.Expr], rates: tuple[sp.Matrix, sp.Matrix], lets: Mapping[str, sp.Expr], taken: Collection[str]
) -> tuple[sp.Matrix, sp.Matrix, dict[str, sp.Expr]]:
    """F, G and, where these are long, what the names in them stand for: f = F and g2 = G^2, with _ added while one is taken."""
    F, G = rates
    if max(F[0, 0].count_ops(), (G[0, 0] ** 2).count_ops()) < LONG:
        return F, G, {}
    names = [next(name for k in count() if (name := rate + "_" * k) not in taken) for rate in ("f", "g2")]
    (f, g2), sigma = (sp.Symbol(name, real=True) for name in names), schedule[1]
    found = dict(zip(names, (F[0, 0], sp.Mul(2, sigma, slope(sigma, lets) - f * sigma)), strict=True))
    return sp.Matrix([[f]]), sp.Matrix([[sp.sqrt(g2)]]), found
