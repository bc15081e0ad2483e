"""The leading local error of a step that interpolates a quantity r in a clock u (the family adams), of any number of blocks.

With k = -G G^T C_out/(2 du/dt), what a unit of r moves z by in a unit of u, and steps of h, r1 h, r1 r2 h, ... in u, the
latest first,

    predictor    e = h^(q+1) k c_q r^(q),    c_q = int_0^1 x (x + r1) (x + r1 + r1 r2) ... dx/q!   with q factors
    corrector    e = h^(q+2) k (c r^(q+1) + w c_q r'[k] r^(q)),    c = int_0^1 (x - 1) x (x + r1) ... dx/(q + 1)!

where w is the weight of the value at t1, whose output was made a predictor's error away, and r'[k] the derivative of r along
k.  Both are held to the expansion of the program at each call.
"""

from __future__ import annotations

import math
from typing import Any

import flint
import sympy as sp

from ..lower.frames import WIDTH, clock_of, rate_of
from ..maths.matrix import Matrix, add, mul, scaled, solve, transpose
from ..maths.values import evaluate
from ..program.meaning import effective
from .history import lengths
from .local import local_error_at, step_chain
from .rings import PRECISION, Balls, held_to_zero
from .series import Series, constant
from .symbolic import ErrorTerm, tidy
from .taylor import Setting, exact_flow, setting


def by_clock(method: Any, order: int) -> tuple[ErrorTerm, ...] | None:
    """One ErrorTerm a block, proven at a random point; None where r has a value a block, or the step has another order than the
    formula speaks of.
    """
    adams, sde = method.sampler.adams, method.sde
    ratios = [sp.Symbol(f"r{k}") for k in range(1, adams.order)]
    D = [sp.Symbol(f"D{k}") for k in range(adams.order + 2)]
    along = sp.Symbol("D_k")
    error = coefficient(adams, ratios, D, along)
    if order != adams.order + adams.corrector or (adams.frame == "eps-R" and sde.n > 1):
        return None
    _prove(method, error, ratios, D, along)
    steps = ", ".join(" ".join(str(r) for r in ratios[: k + 1]) + " h" for k in range(len(ratios)))
    where = [
        "h = u(t1) - u(t0)" + (f"; the lengths of the steps before it were {steps}" if steps else ""),
        "k_x, ... = the change of the blocks for a unit of r and a unit of u, "
        + ("k = -(G G^T/2 - Q) C_out/(du/dt)" if adams.skew else "k = -G G^T C_out/(2 du/dt)"),
        "D1, D2, ... = the derivatives of r in u along the flow"
        + ("; D_k = its derivative along k" if adams.corrector else ""),
    ]
    if adams.corrector:
        where.append("e is the error of the corrected state; the earlier values of r were computed at exact states")
    still = [all(e == 0 for e in sde.GG_let.row(i)) and not adams.skew for i in range(sde.n)]
    return tuple(
        ErrorTerm(b, order + 1, sp.S.Zero if none else tidy(error * sp.Symbol(f"k_{b}"), D), tuple(where))
        for b, none in zip(sde.state, still, strict=True)
    )


def coefficient(adams: Any, ratios: list[sp.Symbol], D: list[sp.Symbol], along: sp.Symbol) -> sp.Expr:
    """What multiplies h^(order + 1) k."""
    x, q = sp.Symbol("x"), adams.order
    nodes = [sp.S.Zero, *(sum((sp.prod(ratios[: j + 1]) for j in range(k)), sp.S.Zero) for k in range(1, q))]
    through = sp.expand(sp.prod([x + node for node in nodes]))
    predicted = sp.integrate(through, (x, 0, 1)) / math.factorial(q)
    if not adams.corrector:
        return predicted * D[q]
    missed = sp.integrate(sp.expand((x - 1) * through), (x, 0, 1)) / math.factorial(q + 1)
    weight = sp.integrate(through, (x, 0, 1)) / through.subs(x, 1)
    return missed * D[q + 1] + weight * predicted * along * D[q]


def _prove(method: Any, error: sp.Expr, ratios: list[sp.Symbol], D: list[sp.Symbol], along: sp.Symbol) -> None:
    """Hold the formula to the expansion of the program at a random point; ArithmeticError where they differ."""
    power = method.sampler.adams.order + method.sampler.adams.corrector + 1
    with flint.ctx.workprec(PRECISION):
        at = setting(method, Balls(), 1, power + 3 + len(method.program.history), 1, power - 1)
        k, slopes, turned, rate = _flowing(at, len(D))
        values = dict(zip(D, slopes, strict=True)) | {along: turned}
        steps = lengths(1, len(step_chain(method).rows))
        ratio = [a / b for a, b in zip(steps, [flint.fmpq(1), *steps], strict=False)]
        values |= {r: at.point.ring.of(q) for r, q in zip(ratios, ratio, strict=False)}
        named = {symbol.name: value for symbol, value in values.items()}
        stated = evaluate(error, named, at.point.ring.of)
        found = local_error_at(at, step_chain(method), power, steps).coefficients[power]
        for row, (gap,) in zip(k, found, strict=True):
            held_to_zero(row * stated * (-rate) ** power - gap, f"leading error of {method.name}")


def _flowing(at: Setting, count: int) -> tuple[list[Any], list[Any], Any, Any]:
    """(k, the derivatives of r in u along the flow, that along k, du/dt) at t0."""
    point, sampler, sde = at.point, at.method.sampler, at.method.sde
    p, _, _, known = effective(point)
    skip, out = _frame(at, p)
    du = point.of(sp.Matrix([rate_of(clock_of(sampler, sde))]), "", known)[0][0]
    pushed = [e * -1 / 2 for (e,) in mul(point.V, out)]
    pushed = [a + e for a, (e,) in zip(pushed, mul(at.Q, out), strict=True)] if sampler.adams.skew else pushed
    k = [(e / du).c[0] for e in pushed]
    flow = exact_flow(at, point.ring.number(1, 2))
    slopes = [at.output(flow, skip, out)[0][0]]
    while len(slopes) < count:
        slopes.append(slopes[-1].derivative() / du)
    still = constant(point.ring, 0, point.terms)
    moved = [[Series([v, e, *[0] * (point.terms - 2)], point.ring) for v in block] for block, e in zip(at.state, k, strict=True)]
    along = at.output(moved, skip, out, still)[0][0]
    return k, [slope.c[0] for slope in slopes], along.c[1], du.c[0]


def _frame(at: Setting, p: Matrix) -> tuple[Matrix, Matrix]:
    """(C_skip, C_out) of the frame around t0."""
    point, frame = at.point, at.method.sampler.adams.frame
    if frame != "gaussian":
        return point.parameterization(frame)[:2]
    inverse = solve(add(point.Sigma, scaled(mul(p, transpose(p)), point.params[WIDTH.name] ** 2)))
    return scaled(inverse, -1), mul(inverse, p)
