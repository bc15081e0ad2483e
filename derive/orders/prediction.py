"""The leading error of lines of text on one block, in the derivatives of the data prediction D in lambda = log(alpha/sigma)."""

from __future__ import annotations

import math
import random
from typing import Any

import sympy as sp
from sympy.polys.fields import field
from sympy.polys.rings import ring

from ..sde.load import load_sde
from .history import reach
from .local import MARGINS, local_error_at, step_chain
from .point import Point
from .symbolic import ErrorTerm, Symbols, tidy
from .taylor import Network, Setting, exact_flow

LONGEST = 4  # a power beyond which a step that calls the network at carried values is expanded for equal steps alone
CLOCK = {
    "name": "log", "state": ["x"], "data": ["x"], "time": [0.0, 1.0],
    "F": [["0"]], "G": [["sqrt(2)*exp(t)"]], "initial": {"x": "1"},
}  # fmt: skip


def by_data(method: Any, power: int) -> tuple[ErrorTerm, ...] | None:
    """The term in the derivatives D1 = dD/dlambda, D2, ... of the data prediction along the flow.

    z/alpha as a function of rho = sigma/alpha obeys the same equation on every diffusion of one block, so one of them,
    alpha = 1 and sigma = exp(t), at t0 = 0 says it for all, and z = 0 too, as z + c and D + c do the same.  h is the step in
    lambda, e is in units of alpha, steps before were r1, r2 times as long (all equal where pages would not hold the term).
    """
    long = power > LONGEST and reach(method.program) is None  # the network is called at carried values
    key = (repr(method.sampler.formula), tuple(method.sampler.params.items()), power)
    if key not in FOUND:
        other = method.on(load_sde(CLOCK), "x0")
        term = _of_equal_steps(other, power) if long else _by_data(other, power)
        before = "" if not other.program.history else "were as long" if long else "were r1 h, r1 r2 h"
        FOUND[key] = term, before and f"; the steps before it {before}"
    term, before = FOUND[key]
    if term is None:
        return None
    where = (
        f"e is in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma){before}",
        "D1, D2, ... = the derivatives of the data prediction D in lambda along the flow; D_x = its derivative in x/alpha",
    )
    return (ErrorTerm(method.sde.state[0], power, term, where),)


FOUND: dict[Any, tuple[sp.Expr | None, str]] = {}  # the same on every diffusion: the term, and what the steps before were


def _by_data(other: Any, power: int) -> sp.Expr:
    names = [*_along(power), *(_partial(i, j) for i, j in _across(power)), "r1", "r2", *other.params]
    K, *_ = field(list(dict.fromkeys(names)), sp.ZZ)
    return _expanded(other, power, K, {str(g): K.from_expr(g.as_expr()) for g in K.gens})


def _of_equal_steps(other: Any, power: int) -> sp.Expr | None:
    """The term where the steps before were as long, in D1, D2, ... and D_x.  The other partial derivatives are numbers, drawn
    twice; None where the term changes with them, or the sampler has parameters."""
    if other.params:
        return None
    names = [*_along(power), _partial(1, 0)]
    K, *gens = ring(names, sp.QQ)
    rng, found = random.Random(1), []
    for _ in range(2):
        drawn = {_partial(i, j): K(sp.Rational(rng.randint(1, 99), rng.randint(1, 99))) for i, j in _across(power)}
        symbols = {**drawn, "r1": K(1), "r2": K(1), **dict(zip(names, gens, strict=True))}
        found.append(_expanded(other, power, K, symbols))
    return found[0] if found[0] == found[1] else None


def _expanded(other: Any, power: int, K: Any, symbols: dict[str, Any]) -> sp.Expr:
    """The coefficient of h^power, with the elements of K that ``symbols`` gives."""
    terms = power + 1 + MARGINS[1]
    point = Point(Symbols(K), other.sde, {k: symbols[k] for k in other.params}, K(0), [[K(1)]], [[K(1)]], terms)
    at = _data_setting(point, other, symbols, power)
    steps = [symbols["r1"], *[symbols["r1"] * symbols["r2"]] * 8]
    found = local_error_at(at, step_chain(other), power, steps).coefficients[power][0][0]
    return tidy(found.as_expr(), [sp.Symbol(name) for name in _along(power + 1)])


def _along(power: int) -> list[str]:
    """D and its derivatives along the flow."""
    return [f"D{k}" for k in range(power)]


def _across(power: int) -> list[tuple[int, int]]:
    """How often D is derived in x, at least once, and in lambda."""
    return [(i, j) for i in range(1, power) for j in range(power - i)]


def _partial(i: int, j: int) -> str:
    return f"D_{'x' * i}{'l' * j}"


def _data_setting(point: Point, other: Any, symbols: dict[str, Any], power: int) -> Setting:
    """The network whose prediction along the flow has the derivatives D1, D2, ... in lambda = -t: its pure derivatives in time
    are chosen one after the other so that it has.
    """
    zero = point.ring.number(0)
    index = [
        (i, j) for i in range(power) for j in range(power) if i + j < power
    ]  # an output meets at least one factor h
    known = {
        (i, j): symbols[_partial(i, j)] * (-1) ** j / (math.factorial(i) * math.factorial(j)) for i, j in index if i
    }
    rows = {(i, j): known.get((i, j), zero) for i, j in index}
    rows[0, 0] = symbols["D0"]
    state = [[zero]]
    for k in range(1, power):
        at = _with(point, other, state, rows)
        flow = exact_flow(at, point.ring.number(1, 2))
        seen = at.net([[e for e in block] for block in flow], point.time)[0][0]
        rows[0, k] = symbols[f"D{k}"] * (-1) ** k / math.factorial(k) - seen.c[k]
    return _with(point, other, state, rows)


def _with(point: Point, other: Any, state: list[list[Any]], rows: dict[tuple[int, int], Any]) -> Setting:
    net = Network([state[0][0], point.ring.number(0)], tuple(rows), [[c] for c in rows.values()], 1)
    return Setting(point, other, state, [], net)
