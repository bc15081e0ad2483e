"""The leading error of conjugate steps, in the frozen output n and its derivatives in z and t.

With L = F - G G^T C_skip/2, K = -G G^T C_out/2 and score = C_skip (z - o) + C_out n, one conjugate step of all rows has

    e = h^2/2 ((B^2 + [B, L] + B') (z - o) + B K n + K dn/dt) + O(h^3)

with dn/dt the change of n along the flow.  In a composition of kicks, each of the rows of a part p, which has
L_p, K_p, B_p and the drift d_p = dz/dtau, over a share c of the step, a kick misses c^2/2 of the bracket without dn/dt.  With the
h^2 terms of the composed flows, w = sum c d_p of the kicks before, and n' = n_z w - n_t @ of the last call,

    e = h^2 (K dn/dt/2 - L d/2 + sum (c L_p w + c^2 L_p d_p/2 + c K_p n' + c^2/2 (...))).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flint
import sympy as sp

from ..lower import conjugation
from ..maths.calculus import t
from ..maths.matrix import add, mul, scaled
from ..sampler.network import kind_of
from ..sampler.split import bind
from .local import local_error_at, step_chain
from .rings import PRECISION, Balls, held_to_zero
from .series import Series
from .symbolic import ErrorTerm, tidy
from .taylor import Setting, exact_flow, setting


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
    parts = bind(sampler, sde) if sampler.family == "conjugate-splitting" else {}
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
    names, width = sde.state, kind_of(frame_of(method)).outputs(sde)
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
        ErrorTerm(b, 2, tidy(e, [*dn, *nt, *n, *z, *d]), _legend(method, steps, total))
        for b, e in zip(names, total, strict=True)
    )
    _hold(method, terms)
    return terms


def frame_of(method: Any) -> Any:
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
        one = "" if kind_of(frame_of(method)).outputs(method.sde) == 1 else f"_{first}"
        lines[-1] += f"; n{one}_{last} = dn{one}/d{last}, nt{one} = dn{one}/dt at a fixed z"
    return tuple(lines)


def _hold(method: Any, terms: tuple[ErrorTerm, ...]) -> None:
    """Hold the terms to the h^2 coefficient of the program at random points; ArithmeticError where they differ, Unsupported
    where their numbers are too large to tell."""
    for seed in (1, 2):
        with flint.ctx.workprec(PRECISION):
            at = setting(method, Balls(), seed, 3, 1, 1)
            error = local_error_at(at, step_chain(method), 2, ()).coefficients[2]
            values = conjugate_values(at)
            for term, (e,) in zip(terms, error, strict=True):
                held_to_zero(term.number(values, at.point.ring) - e, f"leading error of {method.name}")


def conjugate_values(at: Setting) -> dict[str, Any]:
    """The numbers that the symbols of a conjugate error stand for at a point, one coordinate a block."""
    point, method = at.point, at.method
    ring, names = point.ring, method.sde.state
    skip, out, _, _ = point.parameterization(frame_of(method))
    half, zero, clock = ring.number(1, 2), Series([0, 0], ring), Series([0, ring.number(1)], ring)

    made = lambda z, time: [value for (value,) in at.output(z, skip, out, time)]  # noqa: E731
    flow = [[Series(e.c[:2], ring) for e in block] for block in exact_flow(at, half)]
    still = [[Series([e.c[0], 0], ring) for e in block] for block in flow]
    K, L = scaled(mul(point.V, out), -half), add(point.F, scaled(mul(point.V, skip), -half))
    tags = [f"_{names[k]}" for k in range(len(K[0]))] if len(K[0]) > 1 else [""]
    known = {**point.params, "t": point.t0, **{name: point.one(e).c[0] for name, e in method.sde.let.items()}}
    for i, b in enumerate(names):
        known |= {f"L_{b}{c}": L[i][j].c[0] for j, c in enumerate(names)}
        known |= {f"K_{b}{tag.removeprefix('_')}": K[i][k].c[0] for k, tag in enumerate(tags)}
        o = mul(point.offset, at.carried(2))[i][0].c[0]
        known |= {b: flow[i][0].c[0], f"({b} - o_{b})": flow[i][0].c[0] - o, f"d{b}": -flow[i][0].c[1]}
        pushed = [[e + clock if j == i else e for e in block] for j, block in enumerate(still)]
        known |= {f"n{tag}_{b}": e.c[1] for tag, e in zip(tags, made(pushed, zero), strict=True)}
    for tag, along, alone in zip(tags, made(flow, clock), made(still, clock), strict=True):
        known |= {f"n{tag}": along.c[0], f"dn{tag}": along.c[1], f"nt{tag}": alone.c[1]}
    return known
