"""What each host function returns, from its definition: Psi, Sigma and their series in balls, one rule a template.

Nothing of host.py's pull-back, quadrature or collocation is used; the functions are checked against these rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import flint
import sympy as sp

from .balls import (
    Matrix,
    add,
    arb,
    eye,
    factor,
    forward,
    inverse,
    jet,
    joined,
    linear,
    mul,
    scaled,
    solve,
    term,
    terms_of,
    transpose,
)  # fmt: skip
from .calculus import t
from .lift import columns
from .program import Function
from .score import scalar

if TYPE_CHECKING:
    from .reference import Reference

Rule = Callable[["Reference", Function, list[Any], Sequence[Any]], tuple[Any, ...]]


def grown(
    ref: Reference, start: Any, initial: Matrix, end: Any,
    right: Callable[[Any], tuple[Matrix | None, Matrix | None, Matrix | None]],
) -> Matrix:  # fmt: skip
    """X(end) of X' = L X + X M + N from X(start) = initial; ``right`` gives the series of L, M, N around a time."""

    def series(centre: Any, value: Matrix) -> list[Matrix]:
        return linear(value, ref.view.terms, *right(centre))

    return ref.view.flow(start, initial, series).value(end)


def _integral(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    upper, lower = args
    lets = ref.view.sde.let
    expr = sp.Matrix([[lets.get(str(function.data["of"]), function.data["of"])]])
    return (grown(ref, lower, [[flint.arb(0)]], upper, lambda c: (None, None, ref.series(expr, c)))[0][0],)


def _transition(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (_propagator(ref, function.data["generator"], args[1], args[0]),)


def _propagator(ref: Reference, generator: sp.Matrix, start: Any, end: Any) -> Matrix:
    return grown(ref, start, eye(generator.shape[0]), end, lambda c: (ref.series(generator, c), None, None))


def _alpha(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (ref.psi(args[0])[0][0],)


def _sigma(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (ref.sigma(args[0])[0][0].sqrt(),)


def _denoiser(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return bridge(ref.view.sde.data[0], ref.psi(args[0]), ref.sigma(args[0]))


def bridge(data: int, psi: Matrix, sigma: Matrix) -> tuple[Matrix, Matrix, Matrix, Any]:
    """(skip, out, inp, sigma_eff) from Psi and Sigma, numbers or series alike."""
    column = [[row[data]] for row in psi]
    precision = solve(sigma)
    out = mul(precision, column)
    weight = mul(transpose(column), out)[0][0]
    return [[-e for e in row] for row in precision], out, [[e[0] / weight for e in out]], 1 / weight.sqrt()


def _edm(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return preconditioned(_denoiser(ref, function, args, times), ref.params["sigma_data"])


def preconditioned(found: tuple[Any, ...], d: Any) -> tuple[Any, ...]:
    """The bridge of D(y) = c_skip y + c_out F(c_in y, ln(sigma)/4)."""
    skip, out, inp, sigma = found
    width = (sigma * sigma + d * d).sqrt()
    gain = scaled(mul(out, inp), d * d / (width * width))
    return add(skip, gain), scaled(out, sigma * d / width), scaled(inp, 1 / width), sigma.log() / 4


def _eps(upper: bool) -> Rule:
    def rule(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
        L = factor(ref.sigma(args[0]), upper)
        return scaled(transpose(inverse(L)), -1), scaled(transpose(L), -1)

    return rule


def _gddim(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    R = ref.rotated(times[-1])
    return tuple(scaled(transpose(M), -1) for K in (R.value(time) for time in args) for M in (inverse(K), K))


def _transport_score(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    t1, t0 = args
    R = ref.rotated(t0)
    U = mul(R.value(t1), inverse(R.value(t0)))
    psi = mul(ref.psi(t1), inverse(ref.psi(t0)))
    gap = mul(add(psi, scaled(U, -1)), ref.sigma(t0))
    kind = function.data["kind"]
    if kind == "gddim":
        return psi, scaled(mul(gap, transpose(inverse(ref.rotated(times[-1]).value(t0)))), -1)
    return psi, mul(gap, _eps(kind == "upper")(ref, function, [t0], times)[0]) if kind else gap


def _tweedie(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    whole = inverse(ref.psi(args[0]))
    pull = [whole[i] for i in ref.view.sde.data]
    kind = function.data["kind"]
    return pull, mul(pull, scaled(factor(ref.sigma(args[0]), kind == "upper"), -1) if kind else ref.sigma(args[0]))


def _offset(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    return (ref.view._offset_flow.value(args[0]),)


def _reverse_drift(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """G G^T Sigma^-1 [-I | o] - c of lift.py."""
    sde = ref.view.sde
    V, c = (term(ref.series(M, args[0]), 0) for M in (sde.GG_let, columns(sde)))
    a = [[-e for e in row] for row in eye(sde.n)] if sde.n > 1 else [[]]
    if not sde.offset_let.is_zero_matrix:
        a = _beside(a, ref.view._offset_flow.value(args[0]))
    return (add(mul(V, mul(solve(ref.sigma(args[0])), a)), scaled(c, -1)),)


def _exact(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """Backward from s to t: X' = gen X, C' = gen C + C gen^T - V, C = 0 at s; Y' = gen Y - offset, Y = 0 at s."""
    end, start = args
    functions = ref.functions
    generator, noise = function.data["generator"], functions[function.data["noise"]].data["entries"]
    n = generator.shape[0]

    def right(centre: Any) -> tuple[Matrix, Matrix, Matrix]:
        L, G = ref.series(generator, centre), ref.series(noise, centre)
        return L, transpose(L), scaled(mul(G, transpose(G)), -1)

    C = grown(ref, start, scaled(eye(n), 0), end, right)
    used = function.data["reached"]
    small = factor([[C[i][j] for j in used] for i in used])
    place = {i: a for a, i in enumerate(used)}
    L = [[small[place[i]][place[j]] if i in place and j in place else flint.arb(0) for j in range(n)] for i in range(n)]
    if "drift" not in function.data:
        return _propagator(ref, generator, start, end), L
    drift = functions[function.data["drift"]].data["entries"]
    m = drift.shape[1]
    none = [[flint.arb(0)] * m for _ in range(n)]

    def moving(centre: Any) -> tuple[Matrix, None, Matrix]:
        return ref.series(generator, centre), None, scaled(ref.series(drift, centre), -1)

    return _propagator(ref, generator, start, end), L, grown(ref, start, none, end, moving)


def _beside(A: Matrix, B: Matrix) -> Matrix:
    return [[*a, *b] for a, b in zip(A, B, strict=True)]


def _conjugate(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """[Q | C | Phi | D]' = Q [rate | full_others | score out | drift] from [I | 0 | 0 | 0] at t1."""
    t1, t0 = args
    rows, others = function.data["rows"], function.data["others"]
    r, n = len(rows), ref.view.sde.n
    linear_part, score = (function.data[f"{word}_entries"] for word in ("linear", "score"))
    B = function.data["B_entries"]
    frame = function.data["kind"]
    own = function.data.get("shift_entries")

    def drift(centre: Any, S: Matrix, skip: Matrix | None) -> Matrix:
        if own is None:
            return [[] for _ in rows]
        origin = ref.offset(centre)
        found = add(ref.series(own, centre), scaled(mul(ref.series(B, centre), [origin[i] for i in rows]), -1))
        return add(found, scaled(mul(mul(S, skip), origin), -1)) if skip is not None else found

    def series(centre: Any, value: Matrix) -> list[Matrix]:
        S, full = ref.series(score, centre), ref.series(linear_part, centre)
        skip, out = _frame(ref, frame, centre)
        full = add(full, mul(S, skip)) if skip is not None else full
        rate = add([[row[j] for j in rows] for row in full], ref.series(B, centre))
        driven = [
            [*(row[j] for j in others), *c, *d]
            for row, c, d in zip(full, mul(S, out) if out else S, drift(centre, S, skip), strict=True)
        ]
        Q = linear([row[:r] for row in value], ref.view.terms, M=rate)
        rest = [[e.integral() for e in row] for row in mul(joined(Q), driven)]
        return [value, *(_beside(Q[k], term(rest, k)) for k in range(1, len(Q)))]

    m = own.shape[1] if own is not None else 0
    width = r + len(others) + (len(_frame(ref, frame, t1)[1][0]) if frame else n) + m
    start = [[*row, *([flint.arb(0)] * (width - r))] for row in eye(r)]
    X = ref.view.flow(t1, start, series).value(t0)
    cuts = [0, r, r + len(others), width - m, width]
    return tuple([row[a:b] for row in X] for a, b in pairwise(cuts))[: 4 if m else 3]


def _frame(ref: Reference, frame: str | None, centre: Any) -> tuple[Matrix | None, Any]:
    """Series of C_skip (None where it is zero) and of C_out (None where it is I) around a time."""
    if frame is None:
        return None, None
    if frame == "frame":
        functions = ref.functions
        skip, out = (ref.series(functions[name].data["entries"], centre) for name in ("frame_skip", "frame_out"))
        return skip, out
    psi, sigma = ref.law(centre)
    if frame in ("eps_lower", "eps_upper"):
        upper = frame == "eps_upper"
        flipped = forward(factor([row[::-1] for row in sigma[::-1]] if upper else sigma))
        inverted = [row[::-1] for row in flipped[::-1]] if upper else flipped
        return None, [[-e for e in row] for row in transpose(inverted)]
    found = bridge(ref.view.sde.data[0], psi, sigma)
    return (preconditioned(found, ref.params["sigma_data"]) if frame == "edm" else found)[:2]


def _phi(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """One block: Q' = Q (b - F + G^2 C_skip / 2), Phi' = Q G^2 C_out / 2."""
    t1, t0 = args

    def right(centre: Any) -> tuple[None, Matrix, None]:
        psi, variance = ref.law(centre)
        a, s, d = sp.symbols("a s d")
        skip, out, _, _ = scalar(function.data["parameterization"], a, s, t, d)
        known = {a: psi[0][0], s: variance[0][0].sqrt(), d: ref.params.get("sigma_data", flint.arb(1))}
        clock = flint.arb_series([centre, 1])
        C_skip, C_out = (jet(sp.sympify(e), known, clock) for e in (skip, out))
        F, V, b = (
            ref.series(sp.Matrix([[e]]), centre)[0][0]
            for e in (ref.view.sde.F_let[0, 0], ref.view.sde.GG_let[0, 0], function.data["b"])
        )
        return None, [[b - F + V * C_skip / 2, V * C_out / 2], [flint.arb_series([0])] * 2], None

    return (grown(ref, t1, [[flint.arb(1), flint.arb(0)]], t0, right)[0][1],)


def _time_of(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """The zero of log(alpha/sigma) - lambda, which falls in t: halving, then Newton's iteration."""
    low, high = (arb(end) for end in ref.view.sde.time)

    def gap(time: Any) -> Any:
        return (ref.psi(time)[0][0] ** 2 / ref.sigma(time)[0][0]).log() / 2 - args[0]

    for _ in range(60):
        middle = ((low + high) / 2).mid()
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    time = ((low + high) / 2).mid()
    for _ in range(6):  # each doubles the digits
        with terms_of(2):
            power = ref.series(sp.Matrix([[ref.view.sde.GG_let[0, 0]]]), time)[0][0][0]
        time = (time + 2 * gap(time) * ref.sigma(time)[0][0] / power).mid()
    return (time,)


def _phi_function(ref: Reference, function: Function, args: list[Any], times: Sequence[Any]) -> tuple[Any, ...]:
    """phi_k by its recurrence, whose cancellation 400 bits outlast."""
    value = args[0].exp()
    for k in range(function.data["order"]):
        value = (value - 1 / flint.arb(math.factorial(k))) / args[0]
    return (value,)


RULES: dict[str, Rule] = {
    "integral": _integral, "integral_by_quadrature": _integral, "alpha": _alpha, "alpha_given": _alpha,
    "denoiser": _denoiser, "edm": _edm,
    "denoiser_scalar": _denoiser, "eps_lower": _eps(False), "eps_upper": _eps(True), "eps_gddim": _gddim,
    "offset": _offset, "offset_scalar": _offset, "reverse_drift": _reverse_drift, "reverse_drift_scalar": _reverse_drift,
    "transport_score": _transport_score, "tweedie": _tweedie,
    "exact": _exact, "exact_ordered": _exact, "conjugate_closed": _conjugate, "conjugate_bridge": _conjugate,
    "conjugate_ordered": _conjugate, "phi_scalar": _phi, "time_of": _time_of, "phi_function": _phi_function,
    **{f"transition_{kind}": _transition for kind in ("scalar", "pair", "n", "clock", "ordered", "ratio", "inverse")},
    **{f"sigma_{kind}": _sigma for kind in ("stationary", "grown", "by_quadrature", "given")},
}  # fmt: skip
