"""A conjugate step (arXiv 2310.07894, section 3; derived in psld-and-splitting.md 3.1), z from t0 to t1 = t0 - h:

    z' = P (I - h B(t0)) z + Phi n,   dX/dt = (F - G G^T C_skip / 2 - B) X has the propagator P = X(t1) X(t0)^-1,
    Phi = int_{t1}^{t0} P(t1, s) G G^T(s) C_out(s) ds / 2,   n the network's output (or the frame's) at t0.

P is A(t1)^-1 A(t0) of the paper with A' = A K, K = B - F + G G^T C_skip / 2, in this order: only the relative propagator is
ever formed, and exp of the integral of K only where K commutes with itself.  Where the SDE has an offset, z - o(t, start)
stands in the place of z (offset.py); B acts on it too.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
from sympy.codegen.cfunctions import expm1

from stepsmith.errors import Unsupported

from . import spec
from .bounded import tidied
from .builder import Lowering, Network, State, symbol
from .calculus import t, t0, t1
from .kernel import commutes
from .program import ONE, entries
from .sampler import Sampler
from .score import NETWORKS, ScoreParameterization, scalar, spread
from .sde import LinearSDE
from .split import names_of

FACTORS = {"eps-L": "lower", "eps-U": "upper", "eps-R": "gddim"}


def conjugation(sampler: Sampler, sde: LinearSDE) -> sp.Matrix:
    """B of a conjugate sampler: an expression times I, ``{ones = expression}``, or a matrix of expressions."""
    names = names_of(sde, sampler)
    if isinstance(sampler.B, list):
        return spec.matrix(sampler.where, "sampler.B", sampler.B, (sde.n, sde.n), names)
    if isinstance(sampler.B, Mapping):
        spec.check_keys(sampler.where, "sampler.B", sampler.B, allowed=("ones",), required=("ones",))
        return sp.ones(sde.n, sde.n) * spec.entry(sampler.where, "sampler.B.ones", sampler.B["ones"], names)
    return sp.eye(sde.n) * spec.entry(sampler.where, "sampler.B", sampler.B, names)


def conjugate_step(low: Lowering, B: sp.Matrix, frame: Network) -> State:
    """z' = P (I - h B) z + Phi n in the frame; B in the words of let."""
    state: State = dict(enumerate(low.sde.state))
    low.evaluate(state, sp.Integer(0))
    n = low.sde.n
    P, Phi = _conjugate_scalar(low, B, frame) if n == 1 and frame in NETWORKS else _conjugate_matrix(low, B, frame)
    kept = sp.eye(n) - (low.h * B.applyfunc(lambda e: low.at(e, "0")) if not B.is_zero_matrix else sp.zeros(n))
    linear = P * kept
    values = low.output
    if frame != low.network:
        Phi, values, linear = _reframed(low, Phi, linear, frame)
    shift = low.offset("1") - linear * low.offset("0")
    new: State = {}
    for i in range(n):
        terms = [(f"{low.block(i)}_{low.block(j)}", linear[i, j], state[j]) for j in range(n)]
        terms += low.carry(low.block(i), shift.row(i))
        terms += [(f"{low.block(i)}_{value}", Phi[i, k], value) for k, value in enumerate(values)]
        new[i] = low.update(f"{low.block(i)}_new", terms)
    return new


def _reframed(
    low: Lowering, Phi: sp.Matrix, linear: sp.Matrix, frame: Network
) -> tuple[sp.Matrix, tuple[str, ...], sp.Matrix]:
    """Phi n_frame with C_out,f n_frame = s - C_skip,f z, written on the score and the state."""
    if frame == "eps-R" and low.sde.n > 1:
        return Phi, low.output if low.network in FACTORS else low.score, linear  # what Phi of this frame is built for
    target = low.score_at(frame, "0")
    if target.inverse is None:
        raise Unsupported(
            f"a {low.network} network gives no {frame} output of {low.sde.n} blocks",
            "use the frame eps-R, which is the same step",
        )
    Phi = Phi * target.inverse
    return Phi, low.score, linear - Phi * target.skip


def _conjugate_scalar(low: Lowering, B: sp.Matrix, frame: Network) -> tuple[sp.Matrix, sp.Matrix]:
    """One block: P in closed form, Phi too where B = 0 and the frame is epsilon or x0, else by quadrature."""
    b = B[0, 0]
    (a0, s0), (a1, s1) = low.alpha_sigma("0"), low.alpha_sigma("1")
    d = symbol("sigma_data")
    S0, S1 = (spread(str(frame), a, s, d) for a, s in ((a0, s0), (a1, s1)))
    if b == 0 and frame in ("x0", "denoiser"):
        ratio, gap = low.define("ratio", s1 / s0), _noise_gap(low)
        return sp.Matrix([[ratio]]), sp.Matrix([[a1 - ratio * a0 if gap is None else a0 * a1 / s0 * gap]])
    if b == 0 and str(frame).startswith("eps"):
        ratio, gap = low.define("ratio", a1 / a0), _noise_gap(low)
        return sp.Matrix([[ratio]]), sp.Matrix([[s1 - ratio * s0 if gap is None else -a1 * gap]])
    growth = a1 / a0 if S0 is None else S1 / S0
    exponent = low.increment(b, "0", "1") if b != 0 else sp.S.Zero
    P = low.define("P", growth * sp.exp(exponent))
    alpha, sigma, a_1, s_1 = (symbol(name) for name in ("alpha_s", "sigma_s", "alpha_1", "sigma_1"))
    flat = low.sde.F.is_zero_matrix
    alpha, a_1 = (ONE, ONE) if flat else (alpha, a_1)
    S, S_1 = (spread(str(frame), a, s, d) for a, s in ((alpha, sigma), (a_1, s_1)))
    weight = a_1 / alpha if S is None else S_1 / S
    _, out, _, _ = scalar(str(frame), alpha, sigma, t, d)
    lib = low.library
    integrals: tuple[str, ...] = ()
    if b != 0:
        value, integrals = lib.integrated(b)
        weight = weight * sp.exp(value.subs({symbol("s"): symbol("t1")}).subs(t, symbol("s")))
    source = lib.log_nodes()
    uses = (source, lib.sigma(), *(() if flat else (lib.alpha(),)), *integrals)
    half = low.sde.GG_let[0, 0] / 2
    lib.add(
        "phi", "phi_scalar", (b, half, d if frame == "edm" else ONE), uses, weight=weight, out=out,
        power=half.subs(t, symbol("s")), start=low.sde.time[0], flat=flat, b=b, parameterization=str(frame),
        lets=tuple((name, expr.subs(t, symbol("s"))) for name, expr in lib.lets((half, b))),
        integrals=tuple((use.removeprefix("integral_"), use) for use in integrals),
    )  # fmt: skip
    low.call(("Phi",), "phi", t1, t0)
    return sp.Matrix([[P]]), sp.Matrix([[symbol("Phi")]])


def _noise_gap(low: Lowering) -> sp.Expr | None:
    """sigma_0/alpha_0 - sigma_1/alpha_1 of data with a known blur, where the difference would lose the digits of a short step.

    As (int of G^2/alpha^2 over the step) / (sigma_0/alpha_0 + sigma_1/alpha_1); None without a blur or a closed integral.
    """
    sde = low.sde
    if sde.initial[0, 0] == 0 or sde.schedule is not None:
        return None
    (a0, s0), (a1, s1) = low.alpha_sigma("0"), low.alpha_sigma("1")
    if sde.F.is_zero_matrix:
        noise = low.increment(sde.GG_let[0, 0], "0", "1")
    else:
        law = tidied(-sde.GG[0, 0] / (2 * sde.F[0, 0]))
        if t in law.free_symbols:
            return None
        noise = law / a1**2 * expm1(-2 * low.increment(sde.F_let[0, 0], "0", "1"))
    return low.define("noise_gap", noise / (s0 / a0 + s1 / a1))


def _conjugate_matrix(low: Lowering, B: sp.Matrix, frame: Network) -> tuple[sp.Matrix, sp.Matrix]:
    """n blocks: the step of the frame that knows R, else P and Phi by quadrature."""
    n = low.sde.n
    if frame == "eps-R" and B.is_zero_matrix:
        return _transported(low)
    if frame == "eps-R":
        raise Unsupported("the frame eps-R is derived for B = 0", "use B = 0, or the frame eps-L")
    function = conjugate_function(low, "conjugate", tuple(range(n)), -low.sde.F_let, low.sde.GG_let / 2, B)
    outputs = low.score_at(frame, "0").out.shape[1]
    low.call(("P", "_", "Phi"), function, t1, t0)
    return entries("P", n, n), entries("Phi", n, outputs)


def _transported(low: Lowering) -> tuple[sp.Matrix, sp.Matrix]:
    """z' = Psi z + (Psi - U) Sigma s with U = R(t1) R(t0)^-1 (methods.md F1); s the score, or C_out n of an epsilon network."""
    n = low.sde.n
    kind = FACTORS.get(low.network) if isinstance(low.network, str) else None
    low.call(("Psi", "gap"), low.library.transport_score(kind), t1, t0)
    return entries("Psi", n, n), entries("gap", n, n)


def conjugate_function(
    low: Lowering, name: str, rows: tuple[int, ...], linear: sp.Matrix, score: sp.Matrix, B: sp.Matrix,
    offset: sp.Matrix | None = None, beyond: sp.Matrix | None = None,
) -> str:  # fmt: skip
    """The host function (t1, t0) -> (P, C, Phi) of a conjugate step of some rows; with an offset of the part, and D.

    ``beyond`` is what the part has beside the reverse drift of lift.py, where that is part of it; columns as there.

    D is the integral of P(t1, s) (offset - (score C_skip + B) o), o the offset of the mean: B and C_skip act on z - o.
    """
    lib, sde, n = low.library, low.sde, low.sde.n
    frame = low.network if low.sampler.family != "conjugate" else low.frame
    others = tuple(j for j in range(n) if j not in rows)
    skip, unpack, uses = _frame_function(low, frame)
    flat = skip is None
    generator = sp.Matrix(-linear.extract(rows, rows) - B.extract(rows, rows))
    closed = flat and commutes(sde.written_out(generator))
    common = dict(
        start=sde.time[0], rows=rows, others=others, n=n, unpack=unpack, skip=skip, frame=uses[0] if uses else None,
        kind=lib.functions[uses[0]].template if uses else None,
        linear_entries=linear.extract(rows, range(n)), score_entries=score.extract(rows, range(n)),
        B_entries=B.extract(rows, rows),
    )  # fmt: skip
    whole = None
    if beyond is not None and lib.reverse_drift() is not None:
        whole = lib.matrix(f"{name}_beyond", beyond, "What the rows of the part have beside the reverse drift.")
    half = lib.matrix(
        f"{name}_score", score.extract(rows, range(n)), "What multiplies the score in the rows of the part."
    )
    own_offset = (
        None if offset is None or sde.offset_let.is_zero_matrix else offset.extract(rows, range(offset.shape[1]))
    )
    drift: tuple[str, ...] = ()
    shift: tuple[str, ...] = ()
    if own_offset is not None:
        own = lib.matrix(f"{name}_drift", own_offset, "The offset of the part.")
        rate = (
            ()
            if B.is_zero_matrix
            else (lib.matrix(f"{name}_rate", B.extract(rows, rows), "B on the rows of the part."),)
        )
        drift, shift = (own, lib.offset(), *rate), (own, *rate)
    rest = lib.matrix(f"{name}_linear", linear.extract(rows, range(n)), "The linear rows of the part, in reverse time.")
    nodes, pieces = lib.log_nodes(), (lib.cut(), lib.drift())
    if own_offset is not None:
        common |= dict(shift=shift, shift_entries=own_offset)
    if closed:
        flow = lib.transition(f"{name}_flow", generator, "The propagator P(t, s).")
        return lib.add(
            name,
            "conjugate_closed",
            (),
            (nodes, *pieces, flow, half, *((rest,) if others else ()), *uses, *drift),
            flow=flow,
            score=half,
            linear=rest,
            **common,
        )
    bridged = n > 1 and len(rows) == n and frame in ("denoiser", "x0", "edm") and own_offset is None
    turns = not (bridged and B.is_zero_matrix)
    turn = lib.matrix(f"{name}_rate", B.extract(rows, rows), "B on the rows of the part.") if turns else ""
    ordered, reach = lib.ordered(), lib.reach()
    if bridged:
        width = (symbol("sigma_data"),) if frame == "edm" else ()
        below = (nodes, *pieces, ordered, reach, lib.close(), lib.whitening(), lib.turning(), *((turn,) if turn else ()))
        return lib.add(
            name, "conjugate_bridge", width, below, rate=turn, edm=frame == "edm", **{**common, "frame": uses[0]}
        )
    return lib.add(
        name,
        "conjugate_ordered",
        (),
        (nodes, *pieces, ordered, reach, half, rest, turn, *uses, *drift, *((whole, "reverse_drift") if whole else ())),
        score=half,
        linear=rest,
        rate=turn,
        whole=whole,
        **common,
    )


def _frame_function(low: Lowering, frame: Network) -> tuple[str | None, str, tuple[str, ...]]:
    """(name of skip in the function or None, how the call is unpacked, functions): C_skip and C_out at many times."""
    lib = low.library
    if isinstance(frame, ScoreParameterization):
        skip = lib.matrix("frame_skip", frame.skip, "C_skip(t).")
        out = lib.matrix("frame_out", frame.out, "C_out(t).")
        lib.add("frame", "frame", (), (skip, out))
        return "skip", "skip, out", ("frame",)
    if frame in ("denoiser", "x0"):
        return "skip", "skip, out, _, _", (_single_bridge(low) if low.sde.n == 1 else lib.denoiser(),)
    if frame == "edm":
        return "skip", "skip, out, _, _", (lib.edm(),)
    if frame in ("eps-L", "eps-U"):
        return None, "out, _", (lib.cholesky("lower" if frame == "eps-L" else "upper"),)
    if frame == "score":
        return None, "", ()
    raise Unsupported(
        f"conjugate parts in the frame {frame} of {low.sde.n} blocks are not derived",
        "use denoiser, x0, edm, eps-L, eps-U or score",
    )


def _single_bridge(low: Lowering) -> str:
    lib = low.library
    uses = (lib.sigma(), *(() if low.sde.F.is_zero_matrix else (lib.alpha(),)))
    return lib.add("denoiser", "denoiser_scalar", (), uses, flat=low.sde.F.is_zero_matrix)
