"""Values of expressions at points, as complex balls (Arb): what decides questions that SymPy may ponder for ever.

SymPy's own substitution rebuilds an expression and evaluates it on the way, so a large one, or a tower of exponentials,
need not come back.  Here every node is visited once and becomes a ball that surely holds its value; exp(exp(exp(100)))
is the ball of everything, at once.  A ball without zero proves that an expression is not zero.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import flint
import sympy as sp

from .entire import C
from .values import FUNCTIONS, combined

Ball = Any  # flint.acb
BITS = 260  # 78 digits: the precision of a first look
WIDE = 16  # what the precision may grow by, in factors of 2, before a question is left open: BITS * WIDE

_FUNCTIONS: dict[Any, Callable[..., Ball]] = {
    **FUNCTIONS, sp.cot: lambda x: x.cot(), sp.coth: lambda x: x.coth(), sp.Abs: lambda x: flint.acb(abs(x)),
    C: lambda k, x: (x / 4).hypgeom_0f1(k + flint.acb(0.5)),
}  # fmt: skip


def ball(number: sp.Rational) -> Ball:
    """A rational number as a ball of the working precision."""
    return flint.acb(flint.arb(flint.fmpq(int(number.p), int(number.q))))


class Point:
    """A point of the symbols, and the values of expressions there; what was visited once is kept."""

    def __init__(self, values: Mapping[sp.Symbol, sp.Rational], bits: int = BITS) -> None:
        self.bits = bits
        with flint.ctx.workprec(bits):
            self.seen: dict[sp.Basic, Ball] = {symbol: ball(value) for symbol, value in values.items()}
            self.seen.update({sp.pi: flint.acb.pi(), sp.E: flint.acb(1).exp(), sp.I: flint.acb(0, 1)})

    def __call__(self, expr: sp.Basic) -> Ball:
        """The value of an expression over the symbols of the point.  KeyError names a symbol without one."""
        if expr in self.seen:
            return self.seen[expr]
        todo = [expr]
        with flint.ctx.workprec(self.bits):
            while todo:
                parts = [part for part in todo[-1].args if part not in self.seen]
                if parts:
                    todo += parts
                elif (node := todo.pop()) not in self.seen:
                    self.seen[node] = self._value(node)
        return self.seen[expr]

    def _value(self, node: Any) -> Ball:
        if node.is_Rational:
            return ball(node)
        if node.is_Float:
            return ball(sp.Rational(node))
        if node in (sp.nan, sp.zoo, sp.oo, -sp.oo):
            return flint.acb("nan")
        return combined(node, [self.seen[part] for part in node.args], _FUNCTIONS)


def random_point(symbols: Any, rng: random.Random) -> dict[sp.Symbol, sp.Rational]:
    """A rational of 64 random bits in (0.1, 2) for each symbol, in the order of their names."""
    return {
        symbol: sp.Rational(rng.randint(1, 2**64), 2**64) * sp.Rational(19, 10) + sp.Rational(1, 10)
        for symbol in sorted(symbols, key=str)
    }


def vanishes(expr: sp.Expr, values: Mapping[sp.Symbol, sp.Rational]) -> bool | None:
    """Whether an expression is 0 at a point: False is a proof, True holds to 40 digits of its terms; None: not defined.

    True asks for a ball that holds 0 and is smaller than 1e-40 times the largest term of the sum; the precision grows
    until the question is answered, by a factor of 16 at most.
    """
    bits = BITS
    while bits <= BITS * WIDE:
        point = Point(values, bits)
        value = point(expr)
        if value.is_finite():
            if not value.contains(0):
                return False
            with flint.ctx.workprec(bits):
                size = sum((abs(point(term)) for term in sp.Add.make_args(expr)), flint.arb(1)).upper()
                if abs(value).upper() < size * flint.arb("1e-40"):
                    return True
        bits *= 4
    return None


def sign(expr: sp.Expr, values: Mapping[sp.Symbol, sp.Rational]) -> int | None:
    """-1, 0 or 1 at a point, 0 as in ``vanishes``; None where the expression has no real finite value there."""
    zero = vanishes(expr, values)
    if zero is None or zero:
        return None if zero is None else 0
    for bits in (BITS, BITS * 4, BITS * WIDE):
        value = Point(values, bits)(expr)
        if not value.imag.contains(0):
            return None
        if not value.real.contains(0):
            return 1 if value.real > 0 else -1
    return None
