"""The host functions of a program as power series around a point, one rule a template: the definition of what it returns.

A rule is given the offsets of its times from t0, series that vanish at zero; what it returns is composed with them.
``reference.py`` holds the emitted numbers to the same definitions, in balls at given times.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy as sp

from stepsmith.errors import Unsupported

from ..balls import factor, solve
from ..calculus import t
from ..lift import columns
from ..program import Function
from ..rules import bridge, preconditioned
from ..score import scalar
from .point import Matrix, Point, added, composed, constants, grow, inverse, product, scaled, transpose, unit
from .series import Series, constant, evaluate

Rule = Callable[[Point, Mapping[str, Function], Function, Sequence[Series]], tuple[Any, ...]]


def apply(point: Point, functions: Mapping[str, Function], function: Function, arguments: Sequence[Series]) -> tuple[Any, ...]:
    """What the host function returns for these arguments (times but for VALUED): series and matrices of series."""
    if function.template in VALUED:
        return (VALUED[function.template](point, function, arguments[0]),)
    offsets = [_vanishing(point, time - point.t0) for time in arguments]
    rule = RULES.get(function.template)
    if rule is None:
        raise Unsupported(f"no power series for the host function {function.template}", "add it to orders/rules.py")
    return rule(point, functions, function, offsets)


def _vanishing(point: Point, value: Series) -> Series:
    """The series with the rounding of its zero constant term taken off."""
    return Series([0, *value.c[1:]], point.ring) if point.ring.is_zero(value.c[0]) else value


def _integral(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    of = function.data["of"]
    grown = point.one(point.sde.let.get(str(of), of)).integral()
    return (grown.at(at[0]) - grown.at(at[1]),)


def _transition(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    return (_propagator(point, function.data["generator"], at[0], at[1]),)


def _propagator(point: Point, generator: sp.Matrix, end: Series, start: Series) -> Matrix:
    X = grow(point, unit(point)[: generator.shape[0]], left=point.of(generator))
    return product(composed(X, end), inverted(composed(X, start)))


def inverted(A: Matrix) -> Matrix:
    """The inverse of a matrix of series that is near the unit matrix."""
    return solve(A)


def _alpha(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    return (point.Psi[0][0].at(at[0]),)


def _sigma(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    return (point.Sigma[0][0].sqrt().at(at[0]),)


def _denoiser(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    return bridge(point.sde.data[0], composed(point.Psi, at[0]), composed(point.Sigma, at[0]))


def _edm(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    return preconditioned(_denoiser(point, functions, function, at), point.params["sigma_data"])


def _eps(network: str) -> Rule:
    def rule(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
        found: list[Matrix] = []
        for offset in at:
            root = composed(point.root(network), offset)
            found += [scaled(transpose(inverse(root)), -1), scaled(transpose(root), -1)]
        return tuple(found)

    return rule


def _transport_score(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    U = product(composed(point.flow, at[0]), inverted(composed(point.flow, at[1])))
    psi = product(composed(point.Psi, at[0]), inverted(composed(point.Psi, at[1])))
    gap = product(added(psi, scaled(U, -1)), composed(point.Sigma, at[1]))
    if function.data["kind"] is None:
        return psi, gap
    network = {"lower": "eps-L", "upper": "eps-U", "gddim": "eps-R"}[function.data["kind"]]
    return psi, product(gap, _eps(network)(point, functions, function, at[1:])[0])


def _exact(point: Point, functions: Mapping[str, Function], function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    """X(t1) X(t0)^-1 and the factor of X(t1) (int_t1^t0 X^-1 V X^-T) X(t1)^T on the rows that noise reaches."""
    end, start = at
    X = grow(point, unit(point), left=point.of(function.data["generator"]))
    G = point.of(functions[function.data["noise"]].data["entries"])
    pulled = product(inverted(X), G)
    grown = [[e.integral() for e in row] for row in product(pulled, transpose(pulled))]
    between = added(composed(grown, start), scaled(composed(grown, end), -1))
    X1 = composed(X, end)
    C = product(product(X1, between), transpose(X1))
    used, n = list(function.data["reached"]), point.sde.n
    small = factor([[C[i][j] for j in used] for i in used])
    zero = constant(point.ring, 0, len(end.c))
    L = [[small[used.index(i)][used.index(j)] if i in used and j in used else zero for j in range(n)] for i in range(n)]
    decay = product(X1, inverted(composed(X, start)))
    if "drift" not in function.data:
        return decay, L
    drift = point.of(functions[function.data["drift"]].data["entries"])
    grown = [[e.integral() for e in row] for row in product(inverted(X), drift)]
    return decay, L, product(X1, added(composed(grown, start), scaled(composed(grown, end), -1)))


def _conjugate(point: Point, functions: Mapping[str, Function], function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    """[Q | C | Phi]' = Q [rate | full_others | score out] from [I | 0 | 0] at t1."""
    rows, others = function.data["rows"], function.data["others"]
    S, full, B = (point.of(function.data[f"{word}_entries"]) for word in ("score", "linear", "B"))
    skip, out = _frame(point, functions, function.data["kind"])
    if skip is not None:
        full = added(full, product(S, skip))
    rate = added([[row[j] for j in rows] for row in full], B)
    weight = product(S, out) if out is not None else S
    drift: Matrix = [[] for _ in rows]
    own = function.data.get("shift_entries")
    if own is not None:  # B and C_skip act on z - o
        drift = added(point.of(own), scaled(product(B, [point.offset[i] for i in rows]), -1))
        if skip is not None:
            drift = added(drift, scaled(product(product(S, skip), point.offset), -1))
    top = [
        [*a, *(row[j] for j in others), *c, *d] for a, row, c, d in zip(rate, full, weight, drift, strict=True)
    ]
    P = _sided(point, top, at[0], at[1])
    cuts = [0, len(rows), len(rows) + len(others), len(P[0]) - len(drift[0]), len(P[0])]
    return tuple([row[a:b] for row in P] for a, b in itertools.pairwise(cuts))[: 4 if drift[0] else 3]


def _sided(point: Point, top: Matrix, end: Series, start: Series) -> Matrix:
    """The first rows of Y(end)^-1 Y(start) with Y' = Y M, M = [top; 0]."""
    width, r = len(top[0]), len(top)
    zero = constant(point.ring, 0, point.terms)
    M = [*top, *([[zero] * width for _ in range(width - r)])]
    one = [[point.ring.number(int(i == j)) for j in range(width)] for i in range(width)]
    Y = grow(point, one, right=M)
    return product(inverted(composed(Y, end)), composed(Y, start))[:r]


def _frame(point: Point, functions: Mapping[str, Function], template: str | None) -> tuple[Matrix | None, Matrix | None]:
    """C_skip (None where it is zero) and C_out (None where it is I) of the frame of a conjugate part."""
    if template is None:
        return None, None
    if template == "frame":
        skip, out = (point.of(functions[key].data["entries"]) for key in ("frame_skip", "frame_out"))
        return skip, out
    known = {"eps_lower": "eps-L", "eps_upper": "eps-U", "edm": "edm"}
    skip, out, _, _ = point.parameterization(known.get(template, "denoiser"))
    return (None if template in ("eps_lower", "eps_upper") else skip), out


def _phi(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    """One block: Q' = Q (b - F + G^2 C_skip / 2), Phi' = Q G^2 C_out / 2 from (1, 0) at t1."""
    a, s, d = sp.symbols("a_ s_ d_")
    known = {"a_": point.Psi[0][0], "s_": point.Sigma[0][0].sqrt(), "t": point.time}
    known["d_"] = constant(point.ring, point.params.get("sigma_data", point.ring.number(1)), point.terms)
    expressions = scalar(function.data["parameterization"], a, s, t, d)
    skip, out = (evaluate(sp.sympify(e), known, point.time) for e in expressions[:2])
    F, V, b = point.F[0][0], point.V[0][0], point.one(function.data["b"])
    return (_sided(point, [[b - F + V * skip / 2, V * out / 2]], at[0], at[1])[0][1],)


def _offset(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    return (composed(point.offset, at[0]),)


def _reverse_drift(point: Point, functions: Any, function: Function, at: Sequence[Series]) -> tuple[Any, ...]:
    """G G^T Sigma^-1 [-I | o] - c of lift.py."""
    sde = point.sde
    a = scaled(constants(point, unit(point)), -1) if sde.n > 1 else [[]]
    if not sde.offset_let.is_zero_matrix:
        a = [[*row, *more] for row, more in zip(a, point.offset, strict=True)]
    pulled = product(point.V, product(solve(point.Sigma), a))
    return (composed(added(pulled, scaled(point.of(columns(sde)), -1)), at[0]),)


def _time_of(point: Point, function: Function, target: Series) -> Series:
    """The time at which log(alpha/sigma) is the target: Newton's iteration on series, each pass doubles the terms."""
    clock = point.Psi[0][0].log() - point.Sigma[0][0].log() / 2
    slope = clock.derivative()
    x = constant(point.ring, 0, len(target.c))
    for _ in range(max(1, math.ceil(math.log2(len(target.c))) + 1)):
        x = x - _vanishing(point, clock.at(x) - target) / slope.at(x)
        x = Series([0, *x.c[1:]], point.ring)
    return x + point.t0


def _phi_function(point: Point, function: Function, value: Series) -> Series:
    """phi_k(a) = sum_j a^j / (j + k)!, a vanishing with the step."""
    k = int(function.data["order"])
    outer = Series([point.ring.number(1, math.factorial(j + k)) for j in range(len(value.c))], point.ring)
    return outer.at(_vanishing(point, value))


VALUED: dict[str, Callable[[Point, Function, Series], Series]] = {"time_of": _time_of, "phi_function": _phi_function}
RULES: dict[str, Rule] = {
    "integral": _integral, "integral_by_quadrature": _integral, "alpha": _alpha, "alpha_given": _alpha,
    "denoiser": _denoiser, "denoiser_scalar": _denoiser, "edm": _edm,
    "eps_lower": _eps("eps-L"), "eps_upper": _eps("eps-U"), "eps_gddim": _eps("eps-R"),
    "transport_score": _transport_score, "exact": _exact, "exact_ordered": _exact,
    "conjugate_bridge": _conjugate, "conjugate_closed": _conjugate, "conjugate_ordered": _conjugate,
    "phi_scalar": _phi, "offset": _offset, "offset_scalar": _offset,
    "reverse_drift": _reverse_drift, "reverse_drift_scalar": _reverse_drift,
    **{f"transition_{kind}": _transition for kind in ("scalar", "pair", "n", "clock", "ordered", "ratio", "inverse")},
    **{f"sigma_{kind}": _sigma for kind in ("stationary", "grown", "by_quadrature", "given")},
}  # fmt: skip

