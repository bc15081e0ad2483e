"""The leading local error of a deterministic method, in the variables that suit its family.

    splitting, runge-kutta on the score    the drifts and the partial derivatives of the score (symbolic.by_drift)
    conjugate                              e = h^2/2 ((B^2 + [B, L] + B') (z - o) + B K n + K dn/dt) + O(h^3)      (by_frame)
    lines of text on x0 or eps, one block  the derivatives of the data prediction D in lambda = log(alpha/sigma)   (by_data)

In the second, L = F - G G^T C_skip/2, K = -G G^T C_out/2, score = C_skip (z - o) + C_out n, and dn/dt is the change of the
frozen output along the flow (methods.md F6; re-derived, and evaluated against the expansion of the program at each call).
"""

from __future__ import annotations

import math
from typing import Any

import flint
import sympy as sp
from sympy.polys.fields import field

from ..lower import conjugation
from ..maths.matrix import Matrix, add, mul, scaled, solve
from ..sampler.network import kind_of
from ..sde.load import load_sde
from ..spec.formula import ONE_BLOCK
from . import symbolic
from .local import MARGIN, WIDTH, fed_back, local_error_at, step_chain
from .point import Point
from .rings import PRECISION, Balls, IrrationalError
from .series import Series
from .symbolic import ErrorTerm, Symbols
from .taylor import Network, Setting, combined, exact_flow, setting


def leading_error(method: Any, order: int) -> tuple[ErrorTerm, ...] | None:
    """One ErrorTerm a block for a method whose common step has this order; None where no closed form is written for it."""
    family, formula = method.sampler.family, method.sampler.formula
    if order < 1 or method.nfe > MOST_CALLS:  # not consistent, or too long to be written down
        return None
    if family == "conjugate":
        return by_frame(method)
    if formula is not None and formula.words & set(ONE_BLOCK):
        return None if fed_back(method.program) else by_data(method, order + 1)
    if family in ("splitting", "runge-kutta") and order <= 2:
        try:
            return symbolic.by_drift(method, lambda sde: method.on(sde, "score"), order + 1)
        except IrrationalError:
            return None
    return None


MOST_CALLS = 8  # of a step whose error is written in symbols


# -- conjugate -------------------------------------------------------------------------------------------------------------


def by_frame(method: Any) -> tuple[ErrorTerm, ...]:
    """The terms of a conjugate step, proven at random points before they are returned."""
    sde, B = method.sde, conjugation(method.sampler, method.sde)
    for seed in (1, 2):
        _prove(method, B, seed)
    names, width = sde.state, _outputs(method)
    shifted = not sde.offset_let.is_zero_matrix
    z = sp.Matrix([sp.Symbol(f"({b} - o_{b})" if shifted else b) for b in names])
    tags = [f"_{names[k]}" for k in range(width)] if width > 1 else [""]
    n, dn = (sp.Matrix([sp.Symbol(f"{stem}{tag}") for tag in tags]) for stem in ("n", "dn"))
    K = sp.Matrix(len(names), width, lambda i, k: sp.Symbol(f"K_{names[i]}{tags[k].removeprefix('_')}"))
    K = sp.Matrix(len(names), width, lambda i, k: K[i, k] if any(e != 0 for e in sde.GG_let.row(i)) else 0)
    L = sp.Matrix(len(names), len(names), lambda i, j: sp.Symbol(f"L_{names[i]}{names[j]}"))
    dB = sde.written_out(B).diff(sp.Symbol("t", real=True))
    found = ((B * B + B * L - L * B + dB) * z + B * K * n + K * dn) / 2
    frame = method.frame_name
    free = "(z - o)" if shifted else "z"
    turning = "" if B.is_zero_matrix or sde.n == 1 else ", L = F - G G^T C_skip/2"
    where = (
        f"n = the output in the frame {frame} at t0, frozen over the step; dn = its rate dn/dt along the flow",
        f"K = -G G^T C_out/2{turning} of that frame; score = C_skip {free} + C_out n",
    )
    return tuple(ErrorTerm(b, 2, symbolic.tidy(e, [*dn, *n, *z]), where) for b, e in zip(names, found, strict=True))


def _outputs(method: Any) -> int:
    frame = method.frame if method.frame is not None else method.network
    return kind_of(frame).outputs(method.sde)


def _prove(method: Any, B: sp.Matrix, seed: int) -> None:
    """Hold the formula to the h^2 coefficient of the program at a random point; ArithmeticError where they differ."""
    with flint.ctx.workprec(PRECISION):
        at = setting(method, Balls(), seed, 3, WIDTH, 1)
        stated = _formula(at, method.frame if method.frame is not None else method.network, B)
        found = local_error_at(at, step_chain(method, 2), 2).coefficients[2]
        for p, q in zip(stated, found, strict=True):
            for a, b in zip(p, q, strict=True):
                if not at.point.ring.is_zero(a.c[0] - b):
                    raise ArithmeticError(f"the conjugate error formula does not hold for {method.name}")


def _formula(at: Setting, frame: Any, B_let: sp.Matrix) -> list[list[Series]]:
    point = at.point
    half = point.ring.number(1, 2)
    flow = exact_flow(at, half)
    skip, out, _, _ = point.parameterization(frame)
    shifted = combined(point.offset, at.carried(point.terms))
    free = [[a - b for a, b in zip(p, q, strict=True)] for p, q in zip(flow, shifted, strict=True)]
    n = _frozen(skip, out, free, at.score(flow))
    K, L = scaled(mul(point.V, out), -half), add(point.F, scaled(mul(point.V, skip), -half))
    B = point.of(sp.Matrix(B_let))
    dB = [[e.derivative() for e in row] for row in B]
    turn = add(add(mul(B, B), dB), add(mul(B, L), scaled(mul(L, B), -1)))
    rate = [[e.derivative() for e in block] for block in n]
    pieces = (combined(turn, free), combined(mul(B, K), n), combined(K, rate))
    return [[sum(rest, first) * half for first, *rest in zip(*rows, strict=True)] for rows in zip(*pieces, strict=True)]


def _frozen(skip: Matrix, out: Matrix, free: list[list[Series]], score: list[list[Series]]) -> list[list[Series]]:
    """n with C_out n = s - C_skip (z - o): by least squares where C_out is tall."""
    gap = [[a - b for a, b in zip(p, q, strict=True)] for p, q in zip(score, combined(skip, free), strict=True)]
    turned = [list(column) for column in zip(*out, strict=True)]
    return combined(mul(solve(mul(turned, out)), turned), gap)


# -- lines of text on one block --------------------------------------------------------------------------------------------

CLOCK = {
    "name": "log", "state": ["x"], "data": ["x"], "time": [0.0, 1.0],
    "F": [["0"]], "G": [["sqrt(2)*exp(t)"]], "initial": {"x": "1"},
}  # fmt: skip


def by_data(method: Any, power: int) -> tuple[ErrorTerm, ...]:
    """The term in the derivatives D1 = dD/dlambda, D2, ... of the data prediction along the flow.

    z/alpha as a function of rho = sigma/alpha obeys the same equation on every diffusion of one block, so one of them,
    alpha = 1 and sigma = exp(t), at t0 = 0 says it for all: h is the step in lambda, e is in units of alpha, steps before were
    r1, r2 times as long.
    """
    key = (repr(method.sampler.formula), tuple(method.sampler.params.items()), power)
    if key not in FOUND:
        FOUND[key] = _by_data(method.on(load_sde(CLOCK), "x0"), power)
    term, where = FOUND[key]
    return (ErrorTerm(method.sde.state[0], power, term, where),)


FOUND: dict[Any, tuple[sp.Expr, tuple[str, ...]]] = {}  # the same on every diffusion


def _by_data(other: Any, power: int) -> tuple[sp.Expr, tuple[str, ...]]:
    names = [
        *(f"D{k}" for k in range(power + 2)),
        "x",
        *(_partial(i, j) for i in range(1, power) for j in range(power - i)),
    ]
    names += ["r1", "r2", *other.params]
    K, *_ = field(list(dict.fromkeys(names)), sp.QQ)
    symbols = {str(g): K.from_expr(g.as_expr()) for g in K.gens}
    terms = power + 1 + MARGIN
    point = Point(Symbols(K), other.sde, {k: symbols[k] for k in other.params}, K(0), [[K(1)]], [[K(1)]], terms)
    at = _data_setting(point, other, symbols, power)
    ratios = [symbols["r1"], symbols["r2"], *([K(1)] * 40)]
    found = local_error_at(at, step_chain(other, power), power, ratios).coefficients[power][0][0]
    where = (
        "e in units of alpha at t1; h = lambda(t1) - lambda(t0), lambda = log(alpha/sigma)"
        + ("; the steps before it were r1 h, r1 r2 h" if other.program.history else ""),
        "D1, D2, ... = derivatives in lambda, along the flow, of the data prediction D; D_x = its derivative in x/alpha",
    )
    return symbolic.tidy(found.as_expr(), [sp.Symbol(f"D{k}") for k in range(power + 1)]), where


def _partial(i: int, j: int) -> str:
    return f"D_{'x' * i}{'l' * j}"


def _data_setting(point: Point, other: Any, symbols: dict[str, Any], power: int) -> Setting:
    """The network whose prediction along the flow has the derivatives D1, D2, ... in lambda = -t: its pure derivatives in time
    are chosen one after the other so that it has.
    """
    zero = point.ring.number(0)
    index = [(i, j) for i in range(power) for j in range(power + 1) if i + j <= power]
    known = {
        (i, j): symbols[_partial(i, j)] * (-1) ** j / (math.factorial(i) * math.factorial(j))
        for i, j in index
        if i and i + j < power
    }
    rows = {(i, j): known.get((i, j), zero) for i, j in index}
    rows[0, 0] = symbols["D0"]
    state = [[symbols["x"]]]
    for k in range(1, power + 1):
        at = _with(point, other, state, rows)
        flow = exact_flow(at, point.ring.number(1, 2))
        seen = at.net([[e for e in block] for block in flow], point.time)[0][0]
        rows[0, k] = symbols[f"D{k}"] * (-1) ** k / math.factorial(k) - seen.c[k]
    return _with(point, other, state, rows)


def _with(point: Point, other: Any, state: list[list[Any]], rows: dict[tuple[int, int], Any]) -> Setting:
    net = Network([state[0][0], point.ring.number(0)], tuple(rows), [[c] for c in rows.values()], 1)
    return Setting(point, other, state, [], net)
