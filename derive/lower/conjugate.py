"""A conjugate step (arXiv 2310.07894, section 3; derived in psld-and-splitting.md 3.1), z from t0 to t1 = t0 - h:

    z' = P (I - h B(t0)) z + Phi n,   dX/dt = (F - G G^T C_skip / 2 - B) X has the propagator P = X(t1) X(t0)^-1,
    Phi = int_{t1}^{t0} P(t1, s) G G^T(s) C_out(s) ds / 2,   n the network's output (or the frame's) at t0.

P is A(t1)^-1 A(t0) of the paper with A' = A K, K = B - F + G G^T C_skip / 2, in this order: only the relative propagator is
ever formed, and exp of the integral of K only where K commutes with itself.  Where the SDE has an offset, z - o(t, START)
stands in the place of z (offset.py); B acts on it too.

In the frame of the data prediction d, C_skip = -Sigma^-1 and C_out = Sigma^-1 p: the state is the deviation z - p d from the
mean, driven by B alone, so that nothing singular is integrated near the data:

    (z - p d)' = (F + G G^T Sigma^-1 / 2) (z - p d) - B (z - p d) - B p d,     z' = U z + (p_1 - U p_0) d   where B = 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.bounded import cancelled
from ..maths.calculus import exact, increment, s, symbol, t, t0, t1
from ..program import ONE, Flow, Integral, Propagate, applied, entries
from ..sampler.network import KINDS, Network, ScoreParameterization, kind_of, name_of, scalar, spread
from ..sampler.sampler import Sampler
from ..sampler.split import Part, names_of
from ..sde.linear import LinearSDE
from ..spec import sources as spec
from ..spec.expression import parse
from .writer import State, Writer


def conjugation(sampler: Sampler, sde: LinearSDE) -> sp.Matrix:
    """B of a conjugate sampler: an expression times I, ``{ones = expression}``, or a matrix of expressions."""
    names = names_of(sde, sampler)
    if isinstance(sampler.B, list):
        return spec.matrix(sampler.where, "sampler.B", sampler.B, (sde.n, sde.n), names)
    if isinstance(sampler.B, Mapping):
        spec.check_keys(sampler.where, "sampler.B", sampler.B, allowed=("ones",), required=("ones",))
        return sp.ones(sde.n, sde.n) * parse(sampler.B["ones"], names, where=sampler.where, key="sampler.B.ones")
    return sp.eye(sde.n) * parse(sampler.B, names, where=sampler.where, key="sampler.B")


def conjugate_step(w: Writer, B: sp.Matrix, frame: Network) -> State:
    """z' = P (I - h B) z + Phi n in the frame; B in the words of let."""
    state, n = dict(enumerate(w.sde.state)), w.sde.n
    w.evaluate(state, "0")
    rotated = kind_of(frame).factor == "R" and n > 1
    if rotated and not B.is_zero_matrix:
        raise Unsupported("the frame eps-R is derived for B = 0", "use B = 0, or the frame eps-L")
    data = w.kind.predicts == "data" and (kind_of(frame).predicts == "data" or rotated)
    if rotated and not data:
        return _transported(w, state)
    if data and n > 1:
        P, Phi = _deviation(w, B)
    elif n == 1 and isinstance(frame, str):
        P, Phi = _one_block(w, B[0, 0], str(frame))
    else:
        P, Phi = _along_step(w, B, frame)
    values = w.asked.output if data else reframed(w, frame, state)
    p0 = w.law("mean", "0", ("p", n, 1))[0] if data and n > 1 else sp.zeros(n, 0)
    return _applied(w, B, P, p0, Phi, values)


def _applied(w: Writer, B: sp.Matrix, P: sp.Matrix, p0: sp.Matrix, Phi: sp.Matrix, values: tuple[str, ...]) -> State:
    """P ((I - h B) (z - o_0) - p_0 d) + o_1 + Phi n, block by block."""
    n, sde = w.sde.n, w.sde
    kept = sp.eye(n) - w.h * B.applyfunc(lambda e: w.at(e, "0")) if not B.is_zero_matrix else sp.eye(n)
    o0, o1 = w.offset("0"), w.offset("1")
    frozen = (-p0, values[: p0.shape[1]])
    away = w.rows([f"z_{b}" for b in sde.state], (kept, sde.state), (-kept * o0, w.constants), frozen)
    new = w.rows([f"{b}_new" for b in sde.state], (P, away), (o1, w.constants), (Phi, values))
    return dict(enumerate(new))


def reframed(w: Writer, frame: Network, state: State) -> tuple[str, ...]:
    """The output of the last call, at a state, in the frame: n with C_out n = s - C_skip (z - o), made of the score."""
    if frame == w.network or w.kind.predicts == kind_of(frame).predicts == "data":
        return w.asked.output
    key = w.asked.clock
    target = w.score_at(frame, key)
    if target.inverse is None:
        what = f"the output of a network {name_of(w.network)} of {w.sde.n} blocks is not turned into one of {name_of(frame)}"
        raise Unsupported(what, f"use a network {name_of(frame)}, or the frame eps-R")
    offset, back = w.offset(key), -target.inverse * target.skip
    names = [f"n{w.asked.number}_{w.block(k)}" for k in range(target.inverse.shape[0])]
    shift = (-back * offset, w.constants)
    return w.rows(names, (target.inverse, w.asked.score), (back, state.values()), shift)


def _deviation(w: Writer, B: sp.Matrix) -> tuple[sp.Matrix, sp.Matrix]:
    """n blocks in the frame of the data prediction, of z - p d: (P, p_1 and what B p drives)."""
    n = w.sde.n
    driven = not B.is_zero_matrix
    w.add(Flow(("P", "S") if driven else ("U",), sp.ImmutableMatrix(B), t1, t0))
    p1 = w.law("mean", "1", ("p", n, 1))[0]
    return entries("P" if driven else "U", n, n), p1 + entries("S", n, 1) if driven else p1


def _one_block(w: Writer, b: sp.Expr, frame: str) -> tuple[sp.Matrix, sp.Matrix]:
    """One block: in closed form where B = 0 and the frame is epsilon or x0, else along the step."""
    (a0, s0), (a1, s1) = w.alpha_sigma("0"), w.alpha_sigma("1")
    if b == 0 and KINDS[frame].predicts == "data":
        ratio = s1 / s0
        return sp.Matrix([[ratio]]), sp.Matrix([[a1 - ratio * a0]])
    if b == 0 and KINDS[frame].predicts == "noise":
        ratio = a1 / a0
        return sp.Matrix([[ratio]]), sp.Matrix([[s1 - ratio * s0]])
    grown = increment(w.sde.written_out(b), t, s) if b != 0 else sp.S.Zero
    if grown is None or spread(frame, a0, s0, ONE) is None:
        return _along_step(w, sp.Matrix([[b]]), frame)
    start = exact(w.sde.time[0])
    at = lambda time: w.sde.written_out(grown).subs({t: time, s: start}, simultaneous=True)  # noqa: E731
    d, alpha = symbol("sigma_data"), ONE if w.sde.F.is_zero_matrix else applied("alpha", t)
    S0, S1, S = (spread(frame, a, v, d) for a, v in ((a0, s0), (a1, s1), (alpha, applied("sigma", t))))
    assert S0 is not None and S1 is not None and S is not None
    _, out, _, _ = scalar(frame, alpha, applied("sigma", t), t, d)
    rate = sp.exp(at(t)) / S * w.sde.GG_let[0, 0] / 2 * out
    w.add(Integral("driven", rate, t1, t0, "log"))
    return sp.Matrix([[S1 / S0 * sp.exp(at(t0) - at(t1))]]), sp.Matrix([[S1 * sp.exp(-at(t1)) * symbol("driven")]])


def _along_step(w: Writer, B: sp.Matrix, frame: Network) -> tuple[sp.Matrix, sp.Matrix]:
    """(P, Phi) along the step, any frame."""
    n = w.sde.n
    skip, out, kind = _frame(w, frame)
    half = w.sde.GG_let / 2
    rate = (-w.sde.F_let + half * skip + B).row_join(half * out)
    if n == 1 and isinstance(frame, ScoreParameterization):
        rate = rate.applyfunc(cancelled)
        if rate[0] == 0:  # such as a velocity: nothing but an integral
            return sp.eye(1), sp.Matrix([[w.integral(e, "0", "1") for e in rate[1:]]])
    w.add(Propagate(("P", "Phi"), (n, out.shape[1]), sp.ImmutableMatrix(rate), kind, t1, t0))
    return entries("P", n, n), entries("Phi", n, out.shape[1])


def _frame(w: Writer, frame: Network) -> tuple[sp.Matrix, sp.Matrix, str]:
    """(C_skip, C_out, the tables they are spelled with) at the running time t."""
    n = w.sde.n
    if isinstance(frame, ScoreParameterization):
        return sp.Matrix(frame.skip), sp.Matrix(frame.out), ""
    if n == 1:
        alpha = ONE if w.sde.F.is_zero_matrix else applied("alpha", t)
        skip, out, _, _ = scalar(frame, alpha, applied("sigma", t), t, symbol("sigma_data"))
        return sp.Matrix([[skip]]), sp.Matrix([[out]]), ""
    kind = KINDS[frame]
    if not kind.law:
        return sp.zeros(n), sp.eye(n), ""
    if kind.factor:
        return sp.zeros(n), entries("out", n, n), kind.law
    return entries("skip", n, n), entries("out", n, 1), kind.law


def _transported(w: Writer, state: State) -> State:
    """z' = Psi z + (U - Psi) R_0 e_R with U = R(t1) R(t0)^-1; R_0 e_R = L_0 e_L = -Sigma s."""
    n, offset = w.sde.n, w.offset("0")
    w.add(Flow(("U",), sp.ImmutableMatrix.zeros(n), t1, t0))
    w.add(Propagate(("Psi",), (n,), -w.sde.F_let, "", t1, t0))
    Psi, U = entries("Psi", n, n), entries("U", n, n)
    if w.kind.factor:
        inverse = w.score_at(w.network, "0").inverse
        assert inverse is not None
        L, values = -inverse.T, w.asked.output
    else:
        (sigma,) = w.law("covariance", "0", ("covariance", n, n))
        L, values = -sigma, w.asked.score
    spread = w.rows([f"r_{b}" for b in w.sde.state], (L, values))
    shift = (w.offset("1") - Psi * offset, w.constants)
    new = w.rows([f"{b}_new" for b in w.sde.state], (Psi, state.values()), shift, (U - Psi, spread))
    return dict(enumerate(new))


def part_step(w: Writer, part: Part, name: str, state: State, upper: str, lower: str) -> State:
    """z_R' = P (I - a h B) z_R + C z_other + Phi n + D c, one conjugate Euler step of the rows R of the part."""
    sde, rows = w.sde, part.rows
    others = [j for j in range(sde.n) if j not in rows]
    skip, out, kind = _frame(w, w.frame)
    full, score = (part.linear + part.score * skip).extract(rows, range(sde.n)), part.score.extract(rows, range(sde.n))
    B, affine = part.B.extract(rows, rows), not sde.offset_let.is_zero_matrix
    rate = (
        (full.extract(range(len(rows)), rows) + B)
        .row_join(full.extract(range(len(rows)), others))
        .row_join(score * out)
    )
    names, widths = ["P", "C", "Phi"], [len(rows), len(others), out.shape[1]]
    if affine:  # B and C_skip act on z - o
        o = w.sde.offset_terms_let.shape
        origin = entries("offset", *o)
        drift = part.offset.extract(rows, range(o[1])) - B * origin.extract(rows, range(o[1])) - score * skip * origin
        rate, names, widths = rate.row_join(drift), [*names, "D"], [*widths, o[1]]
    tables = [f"{stem}_{name}" for stem in names]
    w.add(Propagate(tuple(tables), tuple(widths), sp.ImmutableMatrix(rate), kind, w.moments[lower], w.moments[upper]))
    P = entries(tables[0], len(rows), len(rows))
    frozen = (w.moments[upper] - w.moments[lower]) * B.applyfunc(lambda e: w.at(e, upper))
    kept, shift = sp.eye(len(rows)) - frozen, sp.zeros(len(rows), len(w.constants))
    away = shift
    if affine:  # B acts on z - o: B o, taken from the rest, is given back frozen like B z itself
        away = frozen * w.offset(upper).extract(rows, range(shift.shape[1]))
        shift = entries(tables[3], *shift.shape)
    C, Phi = entries(tables[1], len(rows), len(others)), entries(tables[2], len(rows), out.shape[1])
    names = [f"{w.block(i)}_{name}" for i in rows]
    own = w.rows([f"{each}_kept" for each in names], (kept, (state[j] for j in rows)), (away, w.constants))
    rest = (C, (state[j] for j in others))
    new = w.rows(names, (P, own), rest, (shift, w.constants), (Phi, w.asked.frozen), note=part.letter)
    return {**state, **dict(zip(rows, new, strict=True))}
