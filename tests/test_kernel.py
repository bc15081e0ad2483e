"""The kernel: entire functions, the closed exponential, transition and covariance of one and two blocks."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import mpmath
import pytest
import sympy as sp
from sympy.codegen.cfunctions import expm1

from stepsmith.derive import load_sde
from stepsmith.derive.maths import calculus, point
from stepsmith.derive.maths.calculus import careful, s, t
from stepsmith.derive.maths.entire import C, exponential
from stepsmith.errors import Unsupported

sde_of = cache(load_sde)
HOLD = {
    "name": "hold", "state": ["x", "v", "w"],
    "F": [["0", "beta", "0"], ["-beta", "0", "beta*chi"], ["0", "-beta*chi", "-beta*xi"]],
    "G": [["0"], ["0"], ["sqrt(2*beta*xi)"]], "params": {"beta": 4.0, "chi": 2.0, "xi": 3.0}, "initial": {"v": "0.1", "w": "0.2"},
}  # fmt: skip
TWISTED = {
    "name": "twisted", "state": ["x", "m"], "F": [["0", "2*beta"], ["-beta/2", "-beta*(4 + 3*sin(5*t))/2"]],
    "G": [["0"], ["sqrt(beta*(4 + 3*sin(5*t))/4)"]], "params": {"low": 4.0, "high": 12.0},
    "let": {"beta": "low + t*(high - low)"}, "initial": {"m": "0.01"},
}  # fmt: skip


def random_point(symbols: Any, seed: int) -> dict[sp.Symbol, sp.Rational]:
    rng = random.Random(seed)
    return {v: sp.Rational(rng.randint(20, 180), 100) for v in sorted(symbols, key=str)}


def size(expr: Any, digits: int = 60) -> Any:
    return abs(sp.N(expr, digits))


def reduced(expr: sp.Expr) -> sp.Expr:
    """The expression with every C(k, x), k >= 2, written in C(0, x) and C(1, x), and C(0, x)^2 = 1 + x C(1, x)^2 used.

    The recurrence is x C(k+1, x) = (4k^2 - 1) (C(k-1, x) - C(k, x)).
    """
    expr = expr.replace(C, lambda k, x: sp.S.One if sp.expand(x) == 0 else C(k, x))
    while high := {c for c in expr.atoms(C) if c.args[0] >= 2}:
        top = max(high, key=lambda c: c.args[0])
        k, x = top.args[0] - 1, top.args[1]
        expr = expr.subs(top, (4 * k**2 - 1) * (C(k - 1, x) - C(k, x)) / x)
    numerator = sp.numer(sp.together(expr))
    for cosh in sorted(numerator.atoms(C), key=sp.default_sort_key):
        if cosh.args[0] == 0:
            x = cosh.args[1]
            poly = sp.Poly(sp.expand(numerator), cosh)
            numerator = sum(
                (
                    coef * (1 + x * C(1, x) ** 2) ** (power // 2) * cosh ** (power % 2)
                    for (power,), coef in poly.terms()
                ),
                sp.S.Zero,
            )
    return sp.expand(numerator)


def vanishes(expr: sp.Expr) -> bool:
    """Exactly by the reduction to C_0 and C_1, C(k, 0) = 1, and also at random points to 50 digits.

    Both are asked: the first alone would be fooled by an argument that is zero but does not look it.
    """
    expr = calculus.plain(sp.sympify(expr))
    expr = expr.subs({c: 1 for c in expr.atoms(C) if sp.expand(c.args[1]) == 0})
    one_clock = expr.subs(sp.Symbol("beta_max", real=True), sp.Symbol("beta_min", real=True))  # else minutes of algebra
    exact = sp.simplify(reduced(one_clock)) == 0 if expr.has(C) else True
    return exact and calculus.is_zero(expr)


# --- entire functions ------------------------------------------------------------------------------------------------

TINY = sp.Rational(1, 10**30)
POINTS = [sp.Rational(37, 10), TINY, sp.S.Zero, -TINY, -sp.Rational(5, 7), sp.Integer(-90)]


@pytest.mark.parametrize("x", POINTS)
def test_the_entire_functions_are_cosh_and_sinh_across_zero(x: sp.Rational) -> None:
    with mpmath.workdps(60):
        value = mpmath.mpf(x.p) / x.q
        root = mpmath.sqrt(abs(value))
        cosh, sinh = (mpmath.cosh, mpmath.sinh) if x > 0 else (mpmath.cos, mpmath.sin)
        wanted = [cosh(root), sinh(root) / root if x != 0 else mpmath.mpf(1)]
        for k in (0, 1):
            got = sp.N(C(k, x), 50)._to_mpmath(200)
            assert abs(got - wanted[k]) < mpmath.mpf("1e-40"), k


@pytest.mark.parametrize("k", range(5))
def test_the_derivative_of_an_entire_function_is_its_own_family(k: int) -> None:
    z = sp.Symbol("z", real=True)
    for x in (sp.Rational(7, 3), sp.Rational(-7, 3)):
        with mpmath.workdps(80):
            slope = mpmath.diff(lambda v, k=k: mpmath.hyp0f1(k + mpmath.mpf(1) / 2, v / 4), mpmath.mpf(x.p) / x.q)
            got = sp.N(C(k, z).diff(z).subs(z, x), 50)._to_mpmath(200)
            assert abs(got - slope) < mpmath.mpf("1e-35")


@pytest.mark.parametrize("k", range(1, 5))
def test_the_recurrence_of_the_entire_functions(k: int) -> None:
    for x in (sp.Rational(31, 7), sp.Rational(-31, 7)):
        gap = x * C(k + 1, x) - (4 * k**2 - 1) * (C(k - 1, x) - C(k, x))
        assert size(gap) < 1e-45
        assert size(C(0, x) ** 2 - x * C(1, x) ** 2 - 1) < 1e-45


def test_reduction_proves_identities_and_no_more() -> None:
    x = sp.Symbol("x", real=True)
    assert sp.simplify(reduced(C(0, x).diff(x, 2) - C(2, x) / 12)) == 0
    assert sp.simplify(reduced(C(0, x) ** 4 - (1 + x * C(1, x) ** 2) ** 2)) == 0
    assert sp.simplify(reduced(C(3, x) - 15 * (C(1, x) - C(2, x)) / x)) == 0
    assert sp.simplify(reduced(C(0, x) ** 2 - x * C(1, x) ** 2)) != 0


def test_one_less_an_exponential_and_the_other_way_round_keep_their_digits() -> None:
    x = sp.Symbol("x")
    assert careful(1 - sp.exp(x)) == -expm1(x) and careful(sp.exp(x) - 1) == expm1(x)
    assert careful(x + 1 - sp.exp(2 * x)) == x - expm1(2 * x)
    assert careful(2 - sp.exp(x)) == 2 - sp.exp(x) and careful(1 - 2 * sp.exp(x)) == 1 - 2 * sp.exp(x)


def test_a_critically_damped_exponential_is_polynomial_times_exp() -> None:
    a, b = sp.symbols("a b", real=True)
    M = sp.Matrix([[-a * (a + b), (a - b) ** 2 / 4 * (a + b)], [-(a + b), -b * (a + b)]])
    assert not exponential(M).has(C)


def test_reduction_is_not_fooled_by_a_hidden_zero() -> None:
    a, b = sp.symbols("a b", real=True)
    x = (a + b) ** 2 - a**2 - 2 * a * b - b**2
    assert reduced(C(2, x) - 2) != 0


def test_a_sign_is_read_through_cancellation() -> None:
    """The sine of 10^60 sqrt(2) loses 60 of 78 digits, so that only a second look tells it from what is 10^-20 away."""
    x = sp.Symbol("x")
    wave, at = sp.sin(10**60 * sp.sqrt(x)), {x: sp.Integer(2)}
    near = sp.Rational(str(wave.subs(at).evalf(25)))
    for side in (1, -1):
        gap = wave - near + side * sp.Rational(1, 10**20)
        assert point.Point(at)(gap).contains(0)
        assert point.sign(gap, at) == side
    assert point.sign(sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1, {x: sp.Rational(1, 3)}) == 0
    assert [point.sign(e, {x: sp.Integer(-1)}) for e in (x, -x, sp.sqrt(x), 1 / (x + 1))] == [-1, 1, None, None]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("over", [["-1/2", "3/7"], ["2/3", "-5/4"]]),
        ("under", [["-1/2", "3"], ["-2/3", "-5/4"]]),
        ("critical", [["-1/2", "1"], ["-1/16", "-1"]]),
        ("nearly critical", [["-1/2", "1"], ["-1/16 + 1/10**25", "-1"]]),
        ("nilpotent", [["0", "5"], ["0", "0"]]),
        ("large", [["-40", "17"], ["-90", "-3"]]),
    ],
)
def test_the_closed_exponential_is_the_exponential(name: str, rows: list[list[str]]) -> None:
    M = sp.Matrix(2, 2, [sp.sympify(e, rational=True) for row in rows for e in row])
    got = exponential(M)
    with mpmath.workdps(90):
        wanted = mpmath.expm(mpmath.matrix([[mpmath.mpf(e.p) / e.q for e in M.row(i)] for i in range(2)]))
        scale = max(abs(e) for e in wanted)
        for i in range(2):
            for j in range(2):
                value = sp.N(got[i, j], 60)
                assert abs(value._to_mpmath(250) - wanted[i, j]) < mpmath.mpf("1e-30") * scale


def test_larger_matrices_have_no_closed_exponential() -> None:
    with pytest.raises(ValueError, match="3 x 3"):
        exponential(sp.eye(3))


# --- transition and covariance ----------------------------------------------------------------------------------------

CLOSED = ("psld", "psld-damped", "cld", "vp", "vp-cosine", "ve")


@pytest.mark.parametrize("name", CLOSED)
def test_the_transition_solves_its_equation(name: str) -> None:
    sde = sde_of(name)
    psi = sde.transition(t, s)
    residual = psi.diff(t) - sde.F * psi
    assert all(vanishes(e) for e in residual)
    assert all(calculus.is_zero(e) for e in psi.subs(t, s) - sp.eye(sde.n))
    assert not all(vanishes(e) for e in psi.diff(t) - (sde.F + sp.eye(sde.n)) * psi)  # the test can fail


@pytest.mark.parametrize("name", CLOSED)
def test_transitions_compose_and_invert(name: str) -> None:
    sde = sde_of(name)
    r = sp.Symbol("r", real=True)
    chain = sde.transition(t, r) * sde.transition(r, s) - sde.transition(t, s)
    assert all(calculus.is_zero(e) for e in chain)
    assert all(calculus.is_zero(e) for e in sde.transition(t, s) * sde.transition(s, t) - sp.eye(sde.n))


@pytest.mark.parametrize("name", CLOSED)
def test_the_covariance_solves_lyapunov(name: str) -> None:
    sde = sde_of(name)
    cov = sde.covariance(t)
    residual = cov.diff(t) - sde.F * cov - cov * sde.F.T - sde.GG
    assert all(vanishes(e) for e in residual)
    start = cov.subs(t, sp.nsimplify(sde.time[0])) - sde.initial
    assert all(calculus.is_zero(e) for e in start)


def page_covariance(Gamma: Any, nu: Any, kappa: Any, B: Any) -> sp.Matrix:
    """psld-and-splitting.md 1.2, xx_0 = 0, mm_0 = kappa M, 1/M = (Gamma - nu)^2 / 4."""
    Mi = (Gamma - nu) ** 2 / 4
    M, c = 1 / Mi, (nu + Gamma) / 2
    mm0 = kappa * M
    xx = Mi**2 / 4 * B**2 * mm0 - Mi / 2 * B**2 + (Gamma - nu) / 2 * B + (sp.exp(c * B) - 1)
    xm = Mi * (Gamma - nu) / 8 * B**2 * mm0 + Mi / 2 * B * mm0 + (nu - Gamma) / 4 * B**2
    mm = (
        Mi / 4 * B**2 * mm0 + (Gamma - nu) / 2 * B * mm0 - B**2 / 2 + M * (nu - Gamma) / 2 * B
        + M * (sp.exp(c * B) - 1) + mm0
    )  # fmt: skip
    return sp.exp(-c * B) * sp.Matrix([[xx, xm], [xm, mm]])


def page_transition(Gamma: Any, nu: Any, B: Any) -> sp.Matrix:
    """psld-and-splitting.md 1.2: N nilpotent at critical damping."""
    N = sp.Matrix([[(nu - Gamma) / 4, (Gamma - nu) ** 2 / 8], [-sp.Rational(1, 2), (Gamma - nu) / 4]])
    assert (N * N).applyfunc(sp.expand) == sp.zeros(2)
    return sp.exp(-(nu + Gamma) * B / 4) * (sp.eye(2) + B * N)


def test_psld_is_the_nilpotent_closed_form() -> None:
    sde = sde_of("psld")
    v = sde.symbols
    B = v["beta_min"] * t + (v["beta_max"] - v["beta_min"]) * t**2 / 2
    gap = sde.transition(t, 0) - page_transition(v["Gamma"], v["nu"], B)
    assert all(vanishes(e) for e in gap)
    gap = sde.covariance(t) - page_covariance(v["Gamma"], v["nu"], v["kappa"], B)
    assert all(vanishes(e) for e in gap)


def test_the_damped_kernel_passes_through_critical_damping() -> None:
    sde = sde_of("psld-damped")
    v = sde.symbols
    values = {v["Gamma"]: sp.Rational(1, 7), v["nu"]: sp.Rational(22, 7), v["kappa"]: sp.Rational(1, 25),
              v["beta_min"]: sp.Rational(3, 10), v["beta_max"]: sp.Integer(9), t: sp.Rational(3, 5)}  # fmt: skip
    critical = (values[v["nu"]] - values[v["Gamma"]]) ** 2 / 4
    B = values[v["beta_min"]] * values[t] + (values[v["beta_max"]] - values[v["beta_min"]]) * values[t] ** 2 / 2
    closed = (
        page_transition(values[v["Gamma"]], values[v["nu"]], B),
        page_covariance(values[v["Gamma"]], values[v["nu"]], values[v["kappa"]], B),
    )
    for expr, wanted in zip((sde.transition(t, 0), sde.covariance(t)), closed, strict=True):
        at = expr.subs(values).subs(v["Minv"], critical)
        assert max(size(e) for e in at - wanted) < 1e-45
        for sign in (1, -1):  # under and over damping, and first order in the distance: no jump
            gaps = [
                max(size(e) for e in expr.subs(values).subs(v["Minv"], critical + sign * delta) - wanted)
                for delta in (sp.Rational(1, 10**12), sp.Rational(1, 10**24))
            ]
            assert 1e-15 < gaps[0] < 1e-10
            assert float(gaps[1] / gaps[0]) == pytest.approx(1e-12, rel=1e-6)


@pytest.mark.parametrize("name", ["psld", "psld-damped", "cld"])
def test_the_stationary_law_is_diag_one_mass(name: str) -> None:
    sde = sde_of(name)
    Minv = sde.symbols.get("Minv", sde.let.get("Minv"))
    law = sde.stationary()
    assert (law - sp.diag(1, 1 / Minv)).applyfunc(sp.simplify) == sp.zeros(2)


def test_variance_preserving_keeps_one_and_variance_exploding_keeps_nothing() -> None:
    assert sde_of("vp").stationary() == sp.eye(1)
    with pytest.raises(Unsupported):
        sde_of("ve").stationary()


def test_psld_without_gamma_is_cld() -> None:
    """psld-and-splitting.md 1.4: Gamma = 0, nu = f Minv = 2 sqrt(Minv), beta doubled, kappa the same."""
    psld, cld = sde_of("psld"), sde_of("cld")
    root, beta = sp.symbols("root beta_cld", positive=True)
    p, c = psld.symbols, cld.symbols
    into_psld = {p["Gamma"]: 0, p["nu"]: 2 * root, p["beta_min"]: 2 * beta, p["beta_max"]: 2 * beta}
    into_cld = {c["Minv"]: root**2, c["beta"]: beta, c["kappa"]: p["kappa"]}
    for one, other in (
        (psld.F, cld.F), (psld.GG, cld.GG), (psld.initial, cld.initial),
        (psld.transition(t, s), cld.transition(t, s)), (psld.covariance(t), cld.covariance(t)),
    ):  # fmt: skip
        assert all(vanishes(e) for e in one.subs(into_psld) - other.subs(into_cld))
    numbers = psld.at(Gamma=0.0, nu=4.0, beta_min=8.0, beta_max=8.0, kappa=0.04)
    for time in (1e-5, 0.3, 1.0):
        assert numbers.covariance(time) == pytest.approx(cld.at().covariance(time), rel=1e-15)


# --- what has no closed form ------------------------------------------------------------------------------------------


def test_an_sde_that_does_not_commute_is_refused_and_told_why() -> None:
    sde = sde_of_dict(TWISTED)
    assert not sde.commutes()
    for ask in (lambda: sde.transition(t, s), lambda: sde.covariance(t)):
        with pytest.raises(Unsupported, match="does not commute"):
            ask()
    assert sde_of("psld").commutes()  # a common clock commutes
    ones = {"name": "ones", "state": ["x", "m"], "F": [["t", "1"], ["1", "t"]], "G": [["1"], ["1"]]}
    assert sde_of_dict({**ones, "initial": {"m": "1"}}).commutes()  # and so does a matrix in common


def sde_of_dict(table: dict[str, Any]) -> Any:
    return load_sde(table)


def test_three_blocks_have_no_closed_form() -> None:
    sde = sde_of_dict(HOLD)
    assert sde.commutes()
    for ask in (lambda: sde.transition(t, s), lambda: sde.covariance(t)):
        with pytest.raises(Unsupported, match="3 blocks"):
            ask()
    law = sde.stationary()
    assert all(calculus.is_zero(e) for e in sde.F * law + law * sde.F.T + sde.GG)


@pytest.mark.parametrize("source", ["psld", "cld", "vp", "ve", "hold", "twisted"])
def test_reverse_dynamics_keep_every_law_of_the_forward_ones(source: str) -> None:
    """Under s = -S^-1 z, with time running down, S' = L S + S L^T - V must be the forward Lyapunov equation."""
    sde = sde_of_dict({"hold": HOLD, "twisted": TWISTED}[source]) if source in ("hold", "twisted") else sde_of(source)
    eta = sp.Symbol("eta", real=True)
    for value in (0, 1, eta):
        back = sde.reverse(value)
        S = sp.Matrix(sde.n, sde.n, lambda i, j: sp.Symbol(f"S{min(i, j)}{max(i, j)}"))
        closed = back.linear * S + back.score + (back.linear * S + back.score).T - back.noise
        forward = sde.F * S + S * sde.F.T + sde.GG
        assert (closed - forward).applyfunc(sp.expand) == sp.zeros(sde.n)
        assert (back.noise - value**2 * sde.GG).applyfunc(sp.expand) == sp.zeros(sde.n)


def test_reverse_zero_is_the_probability_flow_and_one_the_reverse_sde() -> None:
    sde = sde_of("psld")
    flow, full = sde.reverse(0), sde.reverse(1)
    assert flow.noise == sp.zeros(2)
    assert flow.score == sp.Matrix(sde.GG) / 2
    assert full.score == sp.Matrix(sde.GG)
    assert full.noise == sp.Matrix(sde.GG)
    assert flow.linear == full.linear == sp.Matrix(sde.F)
    v = sde.symbols
    assert sde.GG.subs(v["beta_max"], v["beta_min"]).applyfunc(sp.simplify) == sp.diag(
        v["beta_min"] * v["Gamma"], 4 * v["beta_min"] * v["nu"] / (v["Gamma"] - v["nu"]) ** 2
    ).applyfunc(sp.simplify)


def test_a_stationary_law_is_spelled_without_time() -> None:
    turning = {
        "name": "turning", "state": ["x", "m"], "params": {"w": 5.0}, "let": {"c": "cos(w*t)", "r": "sin(w*t)"},
        "F": [["0", "2"], ["-1", "-3"]], "G": [["c", "r"], ["-r", "c"]], "initial": {"m": "1/10"},
    }  # fmt: skip
    assert load_sde(turning).stationary() == sp.Matrix([[5, -1], [-1, 1]]) / 4
