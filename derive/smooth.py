"""Whether entries are smooth enough for what integrates them: Taylor series, and Gauss-Legendre rules of 20 nodes a panel.

Looked at in float64 and at the default parameters.  On a panel where an entry is analytic its Legendre coefficients fall off
geometrically; they do not at a pole, a kink or under an oscillation that the nodes miss, where a rule gives a finite number
that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from numpy.polynomial import legendre
from sympy.codegen.cfunctions import expm1, log1p

from stepsmith.errors import Unsupported

from .calculus import exact, t

if TYPE_CHECKING:
    from .sde import LinearSDE

Array = Any  # numpy float64
NODES = 20
FINE = 127  # panels of the span; an odd number, so that a kink at a round time lies inside one
RULES = (2, 4, 8, 16, 32, 64)  # panels of an emitted rule
USUAL = 4  # panels of an integral
_X, _W = legendre.leggauss(NODES)
_TO_LEGENDRE = (legendre.legvander(_X, NODES - 1) * _W[:, None]).T * (np.arange(NODES) + 0.5)[:, None]
_FUNCTIONS: dict[Any, Callable[..., Array]] = {
    **{getattr(sp, name): getattr(np, name) for name in ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    sp.asin: np.arcsin, sp.acos: np.arccos, sp.atan: np.arctan, sp.Abs: np.abs, expm1: np.expm1, log1p: np.log1p,
    sp.cot: lambda x: 1 / np.tan(x), sp.coth: lambda x: 1 / np.tanh(x), sp.sign: np.sign,
    sp.Add: lambda *terms: sum(terms), sp.Pow: np.power, sp.Mul: lambda *factors: np.prod(np.broadcast_arrays(*factors), 0),
}  # fmt: skip


def defaults(sde: LinearSDE) -> dict[sp.Symbol, sp.Rational]:
    """The default parameters; 1 for a frequency and for the constant components."""
    ones = dict.fromkeys((*sde.constant, *filter(None, [sde.field])), 1.0)
    return {sp.Symbol(name, real=True): exact(value) for name, value in {**ones, **sde.params}.items()}


def sampled(sde: LinearSDE, expr: sp.Expr, times: Array) -> Array:
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


def nodes(start: float, end: float, panels: int) -> tuple[Array, Array]:
    """The nodes (panels, 20) of equal panels from start to end, and their weights (20,)."""
    edges = np.linspace(start, end, panels + 1)
    half = (end - start) / panels / 2
    return (edges[:-1] + edges[1:])[:, None] / 2 + half * _X, half * _W


def tables(sde: LinearSDE, panels: int) -> Iterator[tuple[str, Array]]:
    """F, G, G G^T and the offset at the nodes of equal panels of the span, (rows, columns, panels, 20)."""
    times = nodes(*sde.time, panels)[0]
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


def check_resolved(sde: LinearSDE) -> None:
    """Unsupported where F, G G^T or the offset of several blocks are no polynomials of degree 19 on each half of the span."""
    for key, table in tables(sde, 2):
        if key != "G" and any(rough(values, 1e-8).any() for row in table for values in row):
            raise _too_fast(sde, key)


def panels_of_integral(sde: LinearSDE, expr: sp.Expr) -> int:
    """The panels, USUAL at least, that hold the integral of an expression over the span; Unsupported where 64 do not."""
    if not expr.free_symbols <= {t, *defaults(sde)}:  # a sampler's own parameter
        return USUAL
    times, weights = nodes(*sde.time, FINE)
    fine = sampled(sde, expr, times) @ weights

    def gap(rule: tuple[Array, Array]) -> float:
        return abs((sampled(sde, expr, rule[0]) @ rule[1]).sum() - fine.sum()) / (np.abs(fine).sum() or 1.0)

    return _enough(sde, (rule for rule in RULES if rule >= USUAL), gap)


def panels_of_variance(sde: LinearSDE) -> int:
    """The panels that hold the variance of one block, int_start^t Psi(t, s)^2 G(s)^2 ds, for t down to a 64th of the span."""
    start, end = sde.time
    ends = [start + (end - start) / 2**k for k in range(7)]
    return max(_enough(sde, RULES, _variance_gap(sde, time), time) for time in ends)


def _variance_gap(sde: LinearSDE, end: float) -> Callable[[tuple[Array, Array]], float]:
    """How far a rule on (start, end) is from FINE panels, relatively."""
    start, (times, weights) = sde.time[0], nodes(sde.time[0], end, FINE)
    rates = sampled(sde, sde.F[0, 0], times) @ _TO_LEGENDRE.T
    width = (end - start) / FINE
    grown = np.array([legendre.legint(row, lbnd=1) for row in rates]) * width / 2  # from the end of its panel
    whole = -np.array([legendre.legval(-1, row) for row in grown])
    rest = np.append(np.cumsum(whole[::-1])[::-1][1:], 0.0)  # of the panels behind

    def total(rule: tuple[Array, Array]) -> float:
        s = rule[0]
        panel = np.minimum(((s - start) / width).astype(int), FINE - 1)
        place = 2 * (s - start - panel * width) / width - 1
        reach = rest[panel] - legendre.legval(place, np.moveaxis(grown[panel], -1, 0), tensor=False)
        with np.errstate(all="ignore"):
            return float((np.exp(2 * reach) * sampled(sde, sde.GG[0, 0], s) @ rule[1]).sum())

    true = total((times, weights))
    return lambda rule: abs(total(rule) / true - 1) if true > 0 else np.nan


def _enough(
    sde: LinearSDE, rules: Iterable[int], gap: Callable[[tuple[Array, Array]], float], end: float | None = None
) -> int:
    """The first of the rules whose gap is that of rounding."""
    for panels in rules:
        if gap(nodes(sde.time[0], sde.time[1] if end is None else end, panels)) < 1e-13:
            return panels
    raise _too_fast(sde, "F or G")


def _too_fast(sde: LinearSDE, key: str) -> Unsupported:
    what = f"{key} of {sde.name} changes too fast over its span for quadrature, at the defaults"
    return Unsupported(what, "shorten the span, away from a pole or a kink, or write smoother entries")

