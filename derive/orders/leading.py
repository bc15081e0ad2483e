"""The leading local error of a deterministic method, in the variables that suit its family.

    splitting, runge-kutta on the score    the drifts and the partial derivatives of the score (symbolic.by_drift)
    conjugate, conjugate-splitting         the frozen output n and its derivatives in z and t                       (by_frame)
    adams                                  the derivatives of the interpolated quantity in its clock          (clock.by_clock)
    lines of text on x0 or eps, one block  the derivatives of the data prediction D in lambda = log(alpha/sigma)   (by_data)

In the second, L = F - G G^T C_skip/2, K = -G G^T C_out/2, score = C_skip (z - o) + C_out n.  One conjugate step of all rows has

    e = h^2/2 ((B^2 + [B, L] + B') (z - o) + B K n + K dn/dt) + O(h^3)

with dn/dt the change of n along the flow (methods.md F6).  In a composition of kicks, each of the rows of a part p, which has
L_p, K_p, B_p and the drift d_p = dz/dtau, over a share c of the step, a kick misses c^2/2 of the bracket without dn/dt.  With the
h^2 terms of the composed flows, w = sum c d_p of the kicks before, and n' = n_z w - n_t @ of the last call,

    e = h^2 (K dn/dt/2 - L d/2 + sum (c L_p w + c^2 L_p d_p/2 + c K_p n' + c^2/2 (...))).

The terms are held to the expansion of the program at random points at each call.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import flint
import sympy as sp
from sympy.polys.fields import field
from sympy.polys.rings import ring

from ..lower import conjugation
from ..maths.calculus import t
from ..maths.matrix import add, inverse_of, mul, scaled, transpose
from ..sampler.network import kind_of
from ..sampler.split import bind
from ..sde.load import load_sde
from ..spec.formula import ONE_BLOCK
from . import symbolic
from .clock import by_clock
from .history import reach
from .local import MARGINS, local_error_at, step_chain
from .point import Point, composed
from .rings import PRECISION, Balls, IrrationalError
from .series import Series
from .symbolic import ErrorTerm, Symbols
from .taylor import Network, Setting, combined, exact_flow, setting


def leading_error(method: Any, order: int) -> tuple[ErrorTerm, ...] | None:
    """One ErrorTerm a block for a method whose common step has this order; None where no closed form is written for it."""
    family, formula = method.sampler.family, method.sampler.formula
    if order < 1 or method.nfe > MOST_CALLS:  # not consistent, or too long to be written down
        return None
    if family.startswith("conjugate"):
        steps = kicks(method)
        return by_frame(method, steps) if steps and order == 1 else None
    if family == "adams":
        return by_clock(method, order)
    if formula is not None and formula.words & set(ONE_BLOCK):
        return by_data(method, order + 1)
    if family in ("splitting", "runge-kutta") and order <= 2:
        try:
            return symbolic.by_drift(method, lambda sde: method.on(sde, "score"), order + 1)
        except IrrationalError:
            return None
    return None


MOST_CALLS = 8  # of a step whose error is written in symbols
LONGEST = 4  # a power beyond which a step that calls the network at carried values is expanded for equal steps alone


# -- conjugate -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kick:
    """A conjugate step of the rows ``mask`` (a diagonal of ones and zeros) with its B, over a share of the step."""

    mask: sp.Matrix
    B: sp.Matrix
    share: sp.Expr
    fresh: bool  # a network call comes before it, at t0 - at h
    at: sp.Expr


def kicks(method: Any) -> list[Kick] | None:
    """The step as conjugate kicks that share out the rows; None where it is something else."""
    sde, sampler = method.sde, method.sampler
    if sampler.family == "conjugate":
        return [Kick(sp.eye(sde.n), sp.Matrix(conjugation(sampler, sde)), sp.S.One, True, sp.S.Zero)]
    parts = bind(sampler, sde).parts if sampler.family == "conjugate-splitting" else {}
    rows = [i for part in parts.values() for i in part.rows]
    plain = all(part.solve == "conjugate" and not part.noise_rows for part in parts.values())
    if not parts or not plain or sorted(rows) != list(range(sde.n)) or any(k.predict for k in sampler.composition):
        return None
    masks = {name: sp.diag(*(int(i in part.rows) for i in range(sde.n))) for name, part in parts.items()}
    return [
        Kick(masks[token.letter], masks[token.letter] * parts[token.letter].B, token.share, token.fresh, token.at)
        for token in sampler.composition
    ]


def by_frame(method: Any, steps: list[Kick]) -> tuple[ErrorTerm, ...]:
    """The terms of conjugate kicks, held to the program at random points before they are returned."""
    sde = method.sde
    names, width = sde.state, kind_of(_frame(method)).outputs(sde)
    shifted = not sde.offset_let.is_zero_matrix
    z = sp.Matrix([sp.Symbol(f"({b} - o_{b})" if shifted else b) for b in names])
    tags = [f"_{names[k]}" for k in range(width)] if width > 1 else [""]
    n, dn, nt = (sp.Matrix([sp.Symbol(f"{stem}{tag}") for tag in tags]) for stem in ("n", "dn", "nt"))
    nz = sp.Matrix(width, sde.n, lambda k, j: sp.Symbol(f"n{tags[k]}_{names[j]}"))
    d = sp.Matrix([sp.Symbol(f"d{b}") for b in names])
    reached = [any(e != 0 for e in sde.GG_let.row(i)) for i in range(sde.n)]
    K = sp.Matrix(sde.n, width, lambda i, k: sp.Symbol(f"K_{names[i]}{tags[k].removeprefix('_')}") * int(reached[i]))
    L = sp.Matrix(sde.n, sde.n, lambda i, j: sp.Symbol(f"L_{names[i]}{names[j]}"))
    moved, again = sp.zeros(sde.n, 1), sp.zeros(width, 1)  # h-terms of the state, and of the output that is in use
    total = (K * dn - L * d) / 2
    for step in steps:
        M, c, B = step.mask, step.share, step.B
        if step.fresh:
            again = nz * moved - nt * step.at
        own, gain = M * L, M * K
        change = B * B + B * own - own * B + sde.written_out(B).diff(t)
        total += c * own * (moved + c * M * d / 2) + c * gain * again + c * c * (change * z + B * gain * n) / 2
        moved += c * M * d
    if sum(step.fresh for step in steps) > 1:
        total = total.subs(dict(zip(dn, nt - nz * d, strict=True)))
    total = total.applyfunc(sp.expand)
    terms = tuple(
        ErrorTerm(b, 2, symbolic.tidy(e, [*dn, *nt, *n, *z, *d]), _legend(method, steps, total))
        for b, e in zip(names, total, strict=True)
    )
    _hold(method, terms)
    return terms


def _frame(method: Any) -> Any:
    return method.frame if method.frame is not None else method.network


def _legend(method: Any, steps: list[Kick], total: sp.Matrix) -> tuple[str, ...]:
    """What the symbols of a conjugate error are."""
    names = {symbol.name for symbol in total.free_symbols}
    free = "(z - o)" if not method.sde.offset_let.is_zero_matrix else "z"
    turning = ", L = F - G G^T C_skip/2" if any(name.startswith("L_") for name in names) else ""
    first, last = method.sde.state[0], method.sde.state[-1]
    lines = [
        f"n = the output in the frame {method.frame_name} at t0, frozen over the step; dn = its rate dn/dt along the flow",
        f"K = -G G^T C_out/2{turning} of that frame; score = C_skip {free} + C_out n",
    ]
    if len(steps) > 1:
        lines.append(f"{', '.join(f'd{b}' for b in method.sde.state)} = dz/dtau, tau = -t")
    if sum(step.fresh for step in steps) > 1:
        one = "" if kind_of(_frame(method)).outputs(method.sde) == 1 else f"_{first}"
        lines[-1] += f"; n{one}_{last} = dn{one}/d{last}, nt{one} = dn{one}/dt at a fixed z"
    return tuple(lines)


def _hold(method: Any, terms: tuple[ErrorTerm, ...]) -> None:
    """Hold the terms to the h^2 coefficient of the program at random points; ArithmeticError where they differ."""
    for seed in (1, 2):
        with flint.ctx.workprec(PRECISION):
            at = setting(method, Balls(), seed, 3, 1, 1)
            error = local_error_at(at, step_chain(method), 2, ()).coefficients[2]
            values = conjugate_values(at)
            for term, (e,) in zip(terms, error, strict=True):
                if not at.point.ring.is_zero(term.number(values, at.point.ring) - e):
                    raise ArithmeticError(f"the conjugate error formula does not hold for {method.name}")


def conjugate_values(at: Setting) -> dict[str, Any]:
    """The numbers that the symbols of a conjugate error stand for at a point, one coordinate a block."""
    point, method = at.point, at.method
    ring, names = point.ring, method.sde.state
    skip, out, _, _ = point.parameterization(_frame(method))
    half, zero, clock = ring.number(1, 2), Series([0, 0], ring), Series([0, ring.number(1)], ring)

    def output(z: list[list[Series]], time: Series) -> list[Series]:
        """n with C_out n = s - C_skip (z - o), at the time t0 + ``time``; by least squares where C_out is tall."""
        C, D = (composed(M, time) for M in (skip, out))
        shift = combined(composed(point.offset, time), at.carried(2))
        free = [[a - b for a, b in zip(p, q, strict=True)] for p, q in zip(z, shift, strict=True)]
        gap = [
            [a - b for a, b in zip(p, q, strict=True)]
            for p, q in zip(at.score(z, time), combined(C, free), strict=True)
        ]
        D_T = transpose(D)
        return [value for (value,) in combined(mul(inverse_of(mul(D_T, D)), D_T), gap)]

    flow = [[Series(e.c[:2], ring) for e in block] for block in exact_flow(at, half)]
    still = [[Series([e.c[0], 0], ring) for e in block] for block in flow]
    K, L = scaled(mul(point.V, out), -half), add(point.F, scaled(mul(point.V, skip), -half))
    tags = [f"_{names[k]}" for k in range(len(K[0]))] if len(K[0]) > 1 else [""]
    known = {**point.params, "t": point.t0, **{name: point.one(e).c[0] for name, e in method.sde.let.items()}}
    for i, b in enumerate(names):
        known |= {f"L_{b}{c}": L[i][j].c[0] for j, c in enumerate(names)}
        known |= {f"K_{b}{tag.removeprefix('_')}": K[i][k].c[0] for k, tag in enumerate(tags)}
        o = combined(point.offset, at.carried(2))[i][0].c[0]
        known |= {b: flow[i][0].c[0], f"({b} - o_{b})": flow[i][0].c[0] - o, f"d{b}": -flow[i][0].c[1]}
        pushed = [[e + clock if j == i else e for e in block] for j, block in enumerate(still)]
        known |= {f"n{tag}_{b}": e.c[1] for tag, e in zip(tags, output(pushed, zero), strict=True)}
    for tag, along, alone in zip(tags, output(flow, clock), output(still, clock), strict=True):
        known |= {f"n{tag}": along.c[0], f"dn{tag}": along.c[1], f"nt{tag}": alone.c[1]}
    return known


# -- lines of text on one block --------------------------------------------------------------------------------------------

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
        f"e in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma){before}",
        "D1, D2, ... = derivatives in lambda, along the flow, of the data prediction D; D_x = its derivative in x/alpha",
    )
    return (ErrorTerm(method.sde.state[0], power, term, where),)


FOUND: dict[Any, tuple[sp.Expr | None, str]] = {}  # the same on every diffusion: the term, and what the steps before were


def _by_data(other: Any, power: int) -> sp.Expr:
    names = [*_along(power), *(_partial(i, j) for i, j in _across(power)), "r1", "r2", *other.params]
    K, *_ = field(list(dict.fromkeys(names)), sp.QQ)
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
    return symbolic.tidy(found.as_expr(), [sp.Symbol(name) for name in _along(power + 1)])


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
