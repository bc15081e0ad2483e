"""Whether entries are smooth, so that Taylor series and Gauss-Legendre rules, in enough panels, integrate them.

Looked at in float64 and at the default parameters.  On a panel where an entry is analytic its Legendre coefficients fall off
geometrically; they do not at a pole, a kink or under an oscillation that the nodes miss, where a rule gives a finite number
that is wrong.  What lies between all nodes is found by bounds in balls: an entry is bisected until its bound over each piece is
narrow, or a piece of the span is short beyond what any panel would see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import flint
import numpy as np
import sympy as sp
from numpy.polynomial import legendre
from sympy.codegen.cfunctions import expm1, log1p

from ..maths.balls import arb, number
from ..maths.calculus import exact, plain, t
from ..maths.values import evaluate
from .equations import Equations

Array = Any  # numpy float64
NODES = 20
FINE = 127  # panels of the span; an odd number, so that a kink at a round time lies inside one
DEEP, NARROW = 18, 0.05  # halvings of the span, and the width of a bound as a share of the entry's largest value
_X, _W = legendre.leggauss(NODES)
_TO_LEGENDRE = (legendre.legvander(_X, NODES - 1) * _W[:, None]).T * (np.arange(NODES) + 0.5)[:, None]
_FUNCTIONS: dict[Any, Callable[..., Array]] = {
    **{getattr(sp, name): getattr(np, name) for name in ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    sp.asin: np.arcsin, sp.acos: np.arccos, sp.atan: np.arctan, sp.Abs: np.abs, expm1: np.expm1, log1p: np.log1p,
    sp.cot: lambda x: 1 / np.tan(x), sp.coth: lambda x: 1 / np.tanh(x), sp.sign: np.sign,
    sp.Add: lambda *terms: sum(terms), sp.Pow: np.power, sp.Mul: lambda *factors: np.prod(np.broadcast_arrays(*factors), 0),
}  # fmt: skip


def defaults(sde: Equations) -> dict[sp.Symbol, sp.Rational]:
    """The default parameters; 1 for a frequency and for the constant components."""
    ones = dict.fromkeys((*sde.constant, *filter(None, [sde.field])), 1.0)
    return {sp.Symbol(name, real=True): exact(value) for name, value in {**ones, **sde.params}.items()}


def sampled(sde: Equations, expr: sp.Expr, times: Array) -> Array:
    """An entry, every let written out, at these times and the default parameters; nan or inf where it has no value."""
    seen: dict[sp.Basic, Array] = {symbol: np.float64(value) for symbol, value in defaults(sde).items()}
    seen[t] = times

    def value(node: sp.Basic) -> Array:
        if node not in seen:
            parts = [value(part) for part in node.args]
            seen[node] = _FUNCTIONS[node.func](*parts) if parts else np.float64(node)
        return seen[node]

    with np.errstate(all="ignore"):
        return np.broadcast_to(value(expr), times.shape)


def tables(sde: Equations, panels: int) -> Iterator[tuple[str, Array]]:
    """F, G, G G^T and the offset at the nodes of equal panels of the span, (rows, columns, panels, 20)."""
    edges = np.linspace(*sde.time, panels + 1)
    times = (edges[:-1] + edges[1:])[:, None] / 2 + (edges[1] - edges[0]) / 2 * _X
    for key, entries in (("F", sde.F), ("G", sde.G), ("offset", sde.offset)):
        values = np.array([[sampled(sde, e, times) for e in row] for row in entries.tolist()])
        yield key, values
        if key == "G":
            with np.errstate(all="ignore"):
                yield "G G^T", np.einsum("ikps,jkps->ijps", values, values)


def rough(values: Array, most: float) -> Array:
    """Whether, on each panel of the values (panels, 20), the last Legendre coefficients pass ``most`` of the largest value."""
    finite = np.isfinite(values).all(-1)
    size = np.abs(values[finite]).max(initial=0.0)
    with np.errstate(all="ignore"):
        last = np.abs(values @ _TO_LEGENDRE.T)[:, -2:].max(-1)
    return ~finite | ~(last <= most * size)


def panels(sde: Equations) -> int:
    """The least number of equal panels, 1, 2, ... 128, on which all entries are smooth to 1e-12, from 4 on but for the ends."""
    for count in (1, 2, 4, 8, 16, 32, 64):
        inner = slice(1, -1) if count > 2 else slice(None)
        found = (values for key, table in tables(sde, count) if key != "G" for row in table for values in row)
        if not any(rough(values, 1e-12)[inner].any() for values in found):
            return count
    return 128


def sudden(sde: Equations, expr: sp.Expr, size: float) -> float | None:
    """Where an entry varies by more than NARROW of ``size`` within 2^-DEEP of the span; None if nowhere, the ends left out."""
    if expr.is_polynomial(t):
        return None
    return _sudden(plain(expr), sde.time, tuple((symbol.name, float(value)) for symbol, value in defaults(sde).items()), size)


@functools.lru_cache(maxsize=1024)
def _sudden(expr: sp.Expr, span: tuple[float, float], params: tuple[tuple[str, float], ...], size: float) -> float | None:
    low, high = span
    edge, shortest = (high - low) / FINE, (high - low) / 2**DEEP
    values = {name: arb(value) for name, value in params}
    pieces = [(low + edge, high - edge)]
    while pieces:
        a, b = pieces.pop()
        bound = evaluate(expr, {**values, "t": flint.arb((a + b) / 2, (b - a) / 2)}, number)
        if not (bound.is_finite() and 2 * bound.rad() <= NARROW * size):
            if b - a < shortest:
                return a
            pieces += [((a + b) / 2, b), (a, (a + b) / 2)]
    return None
