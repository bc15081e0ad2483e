"""Orders and local errors: the published rows symbol for symbol, the shipped samplers, weak and strong orders, verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch

import stepsmith as ss
from stepsmith.derive import load_sde
from stepsmith.derive.maths.values import evaluate
from stepsmith.derive.method import Method, derive
from stepsmith.derive.orders import conjugate, local, moments, strong
from stepsmith.derive.orders.lint import lint
from stepsmith.derive.orders.rings import Balls, Rationals
from stepsmith.derive.orders.search import search
from stepsmith.derive.orders.series import Series, clock, constant
from stepsmith.derive.orders.symbolic import ErrorTerm
from stepsmith.derive.program import Normal, Update
from stepsmith.derive.sampler.network import ScoreParameterization

beta, Gamma, nu, Minv, beta_t = sp.symbols("beta Gamma nu Minv beta_t")
f, g, sx_x, sx_m, sx_t, sm_x, sm_m, sm_t = sp.symbols("dx dm sx_x sx_m sx_t sm_x sm_m sm_t")

# psld-and-splitting.md 6.2, exact minus numerical over h^2, beta constant: (composition, e_x, e_m)
ROWS = {
    "euler": (
        "euler",
        beta * (-Gamma * sx_t + f * (Gamma * sx_x + Gamma) + g * (Gamma * sx_m - Minv)) / 4,
        beta * (f * (Minv + nu * sm_x) + g * (Minv * nu + nu * sm_m) - nu * sm_t) / (4 * Minv),
    ),
    "nse-ab": (
        "A! B!",
        beta * (-Gamma * sx_t + f * (Gamma * sx_x + Gamma) + g * (Gamma * sx_m - Minv)) / 4,
        -beta * (f * (Minv + nu * sm_x) + g * (-Minv * nu - nu * sm_m) + nu * sm_t) / (4 * Minv),
    ),
    "nse-ba": (
        "nse",
        beta * (-Gamma * sx_t + f * (Gamma * sx_x + Gamma) + g * (-Gamma * sx_m + Minv)) / 4,
        beta * (f * (Minv + nu * sm_x) + g * (Minv * nu + nu * sm_m) - nu * sm_t) / (4 * Minv),
    ),
    "rse-ab": (
        "A! B",
        beta * (-Gamma * sx_t + f * (Gamma * sx_x + Gamma) + g * (Gamma * sx_m - Minv)) / 4,
        -beta * (f * (Minv - nu * sm_x) + g * (-Minv * nu - nu * sm_m) + nu * sm_t) / (4 * Minv),
    ),
    "rse-ba": (
        "rse",
        beta * (-Gamma * sx_t + f * (Gamma * sx_x + Gamma) + g * (Gamma * sx_m + Minv)) / 4,
        beta * (f * (Minv + nu * sm_x) + g * (Minv * nu + nu * sm_m) - nu * sm_t) / (4 * Minv),
    ),
    "nvv": (
        "nvv",
        Gamma * beta * (f * (sx_x + 1) - sx_t) / 4,
        beta * nu * (g * (Minv + sm_m) - 2 * sm_t) / (8 * Minv),
    ),
    "nvv-end": (
        "B! A! B!@1",
        Gamma * beta * (f * (sx_x + 1) - sx_t) / 4,
        beta * g * nu * (Minv + sm_m) / (8 * Minv),
    ),
    "nvv-aba": (
        "A! B! A!",
        Gamma * beta * (f * (sx_x + 1) - 2 * sx_t) / 8,
        beta * nu * (g * (Minv + sm_m) - sm_t) / (4 * Minv),
    ),
    "rvv": (
        "rvv",
        Gamma * beta * (f * (sx_x + 1) + g * sx_m - sx_t) / 4,
        beta * g * nu * (Minv + sm_m) / (8 * Minv),
    ),
    "rvv-start": (
        "B! A B!",
        Gamma * beta * (f * (sx_x + 1) + g * sx_m - sx_t) / 4,
        beta * nu * (g * (Minv + sm_m) - 2 * sm_t) / (8 * Minv),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_error_rows_of_the_source_paper_symbol_for_symbol(name: str) -> None:
    sampler, *wanted = ROWS[name]
    terms = derive("psld", sampler, "score").local_error
    assert terms is not None
    for term, row in zip(terms, wanted, strict=True):
        assert term.power == 2
        assert sp.expand(term.coefficient.subs(beta_t, 0) - row) == 0


# 6.2 (vi), coefficients frozen at t0: -2 beta_t dx/(4 beta) in x, -beta_t dm/(2 beta) in m but for the kick at the end
@pytest.mark.parametrize(
    ("sampler", "in_m"),
    [("euler", True), ("nse", True), ("rse", True), ("nvv", True), ("rvv", False), ("B! A! B!@1", False)],
)
def test_a_moving_beta_adds_its_terms(sampler: str, in_m: bool) -> None:
    terms = derive("psld", sampler, "score").local_error
    assert terms is not None
    moving = [sp.expand(term.coefficient).coeff(beta_t) for term in terms]
    assert sp.expand(moving[0] + f / (2 * beta)) == 0
    assert sp.expand(moving[1] + (g / (2 * beta) if in_m else 0)) == 0


def test_the_terms_do_not_depend_on_how_the_score_is_told() -> None:
    one, other = (derive("psld", "rvv", network).local_error for network in ("score", "denoiser"))
    assert [t.coefficient for t in one or ()] == [t.coefficient for t in other or ()]


def test_rvv2_has_no_error_at_h_squared_and_one_at_h_cubed() -> None:
    method = derive("psld", "rvv2", "score")
    assert method.order == 2
    terms = method.local_error
    assert terms is not None and all(term.power == 3 and term.coefficient != 0 for term in terms)


def test_without_gamma_the_position_is_locally_third_order() -> None:
    terms = derive("cld", "rvv", "score").local_error
    assert terms is not None
    assert terms[0].coefficient == 0 and terms[1].coefficient != 0
    assert str(terms[0]) == "e_x = O(h^3)"


# -- the terms in numbers: an emitted step against a fine solution ----------------------------------------------------------


def quadratic(x: torch.Tensor, m: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A score of no meaning, smooth and mixed."""
    return -x + 0.3 * x * m + 0.2 * t * m, -2 * m + 0.4 * x + 0.1 * x * x - 0.3 * t * x


@pytest.mark.parametrize("sampler", ["euler", "nse", "nvv", "rvv", "A! B!@1/2"])
def test_the_terms_predict_the_error_of_the_emitted_step(sampler: str) -> None:
    """The measured e/h^2, extrapolated to h = 0, is ErrorTerm.at: signs, symbols and times."""
    method = derive("psld", sampler, "score")
    module = ss.load(ss.emit(method, certified=False))
    params = dict(Gamma=0.3, nu=2.0, beta_min=2.0, beta_max=7.0)
    b0, slope, Mi, t0 = 2.0 + 0.5 * 5.0, 5.0, (0.3 - 2.0) ** 2 / 4, 0.5
    x, m = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)

    def drift(x: torch.Tensor, m: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        b, (sx, sm) = 2.0 + 5.0 * t, quadratic(x, m, torch.tensor(t))
        return b / 2 * (0.3 * x - Mi * m + 0.3 * sx), b / 2 * (x + 2.0 * m + 2.0 / Mi * sm)

    def fine(h: float) -> tuple[torch.Tensor, torch.Tensor]:
        a, b, k = x, m, h / 64
        for i in range(64):
            t = t0 - i * k
            p = drift(a, b, t)
            q = drift(a + k / 2 * p[0], b + k / 2 * p[1], t - k / 2)
            r = drift(a + k / 2 * q[0], b + k / 2 * q[1], t - k / 2)
            s = drift(a + k * r[0], b + k * r[1], t - k)
            a = a + k / 6 * (p[0] + 2 * q[0] + 2 * r[0] + s[0])
            b = b + k / 6 * (p[1] + 2 * q[1] + 2 * r[1] + s[1])
        return a, b

    def measured(h: float) -> np.ndarray:
        row = module.coefficients([t0, t0 - h], **params)[0].unbind()
        made, _ = module.step((x, m), row, lambda inputs, time: quadratic(*inputs, time))
        return np.array([(e - n).item() / h**2 for e, n in zip(fine(h), made, strict=True)])

    dx, dm = (float(v) for v in drift(x, m, t0))
    values = dict(
        Gamma=0.3, nu=2.0, Minv=Mi, beta=b0, beta_t=slope, dx=dx, dm=dm, sx_x=-1 + 0.3 * -0.4, sx_m=0.3 * 0.7 + 0.1,
        sx_t=0.2 * -0.4, sm_x=0.4 + 0.2 * 0.7 - 0.15, sm_m=-2.0, sm_t=-0.3 * 0.7,
    )  # fmt: skip
    terms = method.local_error
    assert terms is not None
    told = np.array([term.at(**values) for term in terms])
    h = 2e-3
    extrapolated = (8 * measured(h / 4) - 6 * measured(h / 2) + measured(h)) / 3
    assert extrapolated == pytest.approx(told, rel=2e-5, abs=1e-6)


def test_a_term_without_a_value_is_named() -> None:
    with pytest.raises(ss.errors.InputError, match=r"local_error.x: sx_m has no value|has no value"):
        ErrorTerm("x", 2, sx_m * beta).at(beta=1.0)
    assert ErrorTerm("x", 2, sx_m * beta).latex().startswith("e_{x} = ")


# -- conjugate steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["denoiser", "eps-L", "score"])
def test_the_conjugate_error_for_a_general_moving_b(network: str) -> None:
    """The formula is held to the program before it is told, for a B that does not commute and moves."""
    B = [["1 + t", "2*t"], ["-t**2", "3"]]
    method = derive("psld", {"name": "general", "family": "conjugate", "B": B}, network)
    terms = method.local_error
    assert method.order == 1 and terms is not None
    text = " ".join(str(term) for term in terms)
    assert "L_xm" in text and "dn" in text


def test_a_wrong_conjugate_formula_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    true = conjugate.conjugate_values
    monkeypatch.setattr(conjugate, "conjugate_values", lambda at: true(at) | {"K_x": true(at)["K_x"] * 2})
    with pytest.raises(ArithmeticError):
        derive("psld", "conjugate").local_error  # noqa: B018


# -- the shipped samplers ----------------------------------------------------------------------------------------------------

SHIPPED = {  # sampler: (order of the common step, of the run)
    "ddim": (1, 1), "dpmpp-2m": (2, 2), "dpmpp-2s": (2, 2), "dpmpp-3m": (2, 2), "dpmpp-3m-corrected": (3, 3),
    "unipc-2": (3, 2), "deis-2": (2, 2), "deis-3": (3, 2), "heun": (2, 2),
}  # fmt: skip


@pytest.mark.parametrize("sampler", SHIPPED)
def test_the_orders_of_the_shipped_samplers(sampler: str) -> None:
    for sde in ("vp", "edm"):
        found = local.verdict(derive(sde, sampler), (1, 2))
        assert (found.step, found.order) == SHIPPED[sampler]


def test_the_term_that_keeps_the_third_order_multistep_at_two() -> None:
    """As shipped its second divided difference enters as D''/2: e = h^3 D''/12; with the factor 2 it is gone."""
    (shipped,) = derive("vp", "dpmpp-3m").local_error or ()
    (corrected,) = derive("vp", "dpmpp-3m-corrected").local_error or ()
    assert (shipped.power, shipped.coefficient) == (3, sp.Symbol("D2") / 12)
    assert corrected.power == 4


def test_the_terms_of_dpm_solver_2m_on_uneven_steps() -> None:
    (term,) = derive("vp", "dpmpp-2m").local_error or ()
    D1, D2, r1 = sp.symbols("D1 D2 r1")
    assert (
        sp.expand(term.coefficient - (D1 / 12 + D2 * (2 + 3 * r1) / 12)) == 0
    )  # phi_1/2 for phi_2, and the divided difference


# -- noise -------------------------------------------------------------------------------------------------------------------

LANGEVIN: dict[str, Any] = {
    "name": "langevin", "state": ["x", "v"], "F": [["0", "-1"], ["0", "g"]], "G": [["0"], ["sqrt(2*g)"]],
    "params": {"g": 1.5}, "initial": {"v": "1"}, "time": [0.0, 1.0],
}  # fmt: skip
FORCE = ScoreParameterization(
    "force", sp.ImmutableMatrix.zeros(2, 2), sp.ImmutableMatrix([[0], [1]]), sp.ImmutableMatrix([[1, 0]])
)


def langevin(composition: str) -> Method:
    """Underdamped Langevin dynamics dx = v, dv = -g v + u(x, t) + noise, in reverse time, u the network."""
    parts = {
        "O": {"linear": [["0", "0"], ["0", "-g"]], "noise": "all", "solve": "exact"},
        "A": {"rows": ["x"], "linear": "rest"}, "B": {"rows": ["v"], "score": "all"},
    }  # fmt: skip
    table = {"name": "splitting", "family": "splitting", "target": "sde", "composition": composition, "parts": parts}
    return derive(LANGEVIN, table, FORCE)


@pytest.mark.parametrize(
    ("composition", "weak"),
    [
        ("B! A O A B!@1", 2),
        ("B! A O A B", 1),
        ("O B! A", 1),
        ("A B!@1/2 O B A", 2),
        ("A B! O B A", 1),
        ("O B! A B!@1 O", 2),
    ],
)
def test_langevin_splittings(composition: str, weak: int) -> None:
    """BAOAB is of weak order 2 with fresh forces and of 1 with one reused; ABOBA asks for the middle time."""
    method = langevin(composition)
    assert method.order is None and method.local_error is None
    assert method.weak_order == weak
    assert method.strong_order == 1


@pytest.mark.parametrize(
    ("sampler", "weak"),
    [
        ("euler-maruyama", 1), ("noba", 1), ("roba", 1), ("baoab", 1), ("sscs", 1),
        ("A S!@1/2 A", 1),  # the middle time alone does not help: an Euler kick of what it depends on is of order 1
        ("A S!@1/2 S!^@1/2 A", 2),  # a Heun kick at the middle time does
    ],
)  # fmt: skip
def test_reverse_diffusion_splittings(sampler: str, weak: int) -> None:
    assert derive("psld", sampler).weak_order == weak


def test_a_wrong_noise_has_weak_order_zero() -> None:
    method = derive("psld", "sscs", "score")
    draws = {op.output for op in method.program.ops if isinstance(op, Normal)}
    louder = tuple(
        replace(op, terms=tuple((c * sp.Rational(101, 100) if v in draws else c, v) for c, v in op.terms))
        if isinstance(op, Update) else op
        for op in method.program.ops
    )  # fmt: skip
    planted = replace(method, program=replace(method.program, ops=louder))
    assert (moments.weak_order(method), moments.weak_order(planted)) == (1, 0)
    assert (strong.strong_order(method), strong.strong_order(planted)) == (1.0, 0.0)


def test_an_exact_linear_part_around_no_kick_is_strong_three_halves() -> None:
    """UBU without its force: the joint law of W and of its integral is that of the exact flow."""
    table = {
        "name": "kick", "family": "splitting", "target": "sde", "composition": "L B! L",
        "parts": {
            "L": {"linear": [["0", "1"], ["0", "-g"]], "noise": "all", "solve": "exact"}, "B": {"rows": ["v"], "score": "all"},
        },
    }  # fmt: skip
    assert derive(LANGEVIN, {**table, "composition": "L B!@1/2 L"}, FORCE).weak_order == 2
    assert derive(LANGEVIN, {**table, "composition": "L B!@1/2 L"}, FORCE).strong_order == 1.5
    assert derive(LANGEVIN, table, FORCE).strong_order == 1  # the force at the wrong time


# -- verdicts ------------------------------------------------------------------------------------------------------------------

STEADY = [
    ("psld", "rvv", 1), ("psld", "rvv2", 2), ("vp", "dpmpp-2m", 2), ("vp", "dpmpp-3m", 2), ("hold", "rvv", 1),
    ("cld", "conjugate", 1),
]  # fmt: skip


@pytest.mark.parametrize(("sde", "sampler", "order"), STEADY)
def test_verdicts_do_not_flip_over_twenty_seeds(sde: str, sampler: str, order: int) -> None:
    method = derive(sde, sampler)
    assert [local.step_order(method, (seed,)) for seed in range(20)] == [order] * 20


@pytest.mark.parametrize("factor", [sp.Rational(1001, 1000), sp.Rational(999, 1000)])
def test_a_planted_coefficient_loses_the_proof(factor: sp.Expr) -> None:
    method = derive("psld", "rvv2")
    (last,) = [op for op in method.program.ops if isinstance(op, Update) and op.output == method.program.result[0]]
    (c, value), *rest = reversed(last.terms)
    spoilt = replace(last, terms=(*reversed(rest), (c * factor, value)))
    ops = tuple(spoilt if op is last else op for op in method.program.ops)
    planted = replace(method, program=replace(method.program, ops=ops))
    assert local.step_order(method, (1,)) == 2
    assert local.step_order(planted, (1,)) < 2


def test_a_step_that_does_not_tend_to_the_state_has_order_zero() -> None:
    """A stage far from the state: nothing to expand around, and no crash where the module is emitted."""
    table: dict[str, Any] = {"name": "astray", "family": "multistep", "target": "ode", "step": []}
    table["step"] = ["D = x0(z, t0)", "y = 2*z + D", "E = x0(y, t0)", "z = z + E"]
    method = derive("vp", table)
    assert (method.order, method.local_error) == (0, None)
    assert "Proven order 0 (not consistent: the local error of a step begins with h^0)." in " ".join(ss.emit(method).split())


def test_exact_rationals_decide_where_they_can() -> None:
    assert isinstance(local.local_error(derive("psld", "rvv"), 1, 2).point.ring, Rationals)
    assert isinstance(local.local_error(derive("vp-cosine", "euler"), 1, 2).point.ring, Balls)


# -- series --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "exp(x)/(1 - x)",
        "log(1 + x)/x",
        "sin(x)**2/x**2",
        "sqrt(1 + 3*x)",
        "(exp(x) - 1)/x",
        "tan(x)",
        "1/(x - x**2) - 1/x",
    ],
)
def test_series_agree_with_sympy(text: str) -> None:
    x, terms = sp.Symbol("x"), 9
    expr = sp.sympify(text)
    start = clock(Rationals(), Rationals().number(0), terms)
    made = evaluate(expr, {"x": start}, lambda q: constant(Rationals(), Rationals().number(int(q.p), int(q.q)), terms))
    wanted = sp.series(expr * x**3, x, 0, 9).removeO()
    assert len(made.c) >= 5
    for k, c in enumerate(made.c[:5]):
        assert (sp.Rational(int(c.p), int(c.q)) if hasattr(c, "p") else sp.Integer(c)) == wanted.coeff(
            x, k + 3 + made.v
        )


def test_a_division_keeps_no_term_that_is_not_known() -> None:
    ring = Rationals()
    short = Series([0, ring.number(1), ring.number(2)], ring) / Series([0, ring.number(1), ring.number(0)], ring)
    assert len(short.c) == 2 and short.c == [1, 2]


@pytest.mark.parametrize("power", [1, 2])
def test_a_series_of_one_power_is_put_into_another(power):
    """sum_k a_k (c x^power)^k, known as far as both are, against Horner's rule, which a second power asks for."""
    ring = Rationals()
    outer = Series([ring.number(k + 2, 3) for k in range(4)], ring)
    inner = Series([0] * power + [ring.number(5, 7)] + [0] * (6 - power), ring)
    nearly = Series([*inner.c[:6], ring.number(1, 10**9)], ring)
    found, wanted = outer.at(inner), outer.at(nearly)
    assert len(found.c) == len(wanted.c) and found.c[:6] == wanted.c[:6] and found.c[2 * power] != 0


# -- search, warnings, stability -----------------------------------------------------------------------------------------------


def test_the_search_finds_rvv2_by_itself() -> None:
    sde = load_sde("psld")
    found = search(sde, lambda source, network: derive(sde, source, network), length=3, calls=2, keep=3)
    assert found.plain > 30 and found.plain_passed == 0  # the theorem, as far as it was tried
    best = found.found[0]
    assert (best.order, best.scheme.calls) == (2, 2)
    mine, known = (derive("psld", source, "score").local_error or () for source in (best.scheme.source, "rvv2"))
    assert [sp.expand(a.coefficient - b.coefficient) for a, b in zip(mine, known, strict=True)] == [0, 0]


@pytest.mark.parametrize(
    ("sde", "composition", "words"),
    [
        ("psld", "B! A B!@1", []), ("psld", "O B! A", []),
        ("psld", "B! A A B!@1", ["A stands twice in a row"]),
        ("psld", "O O B! A", ["O stands twice in a row"]),
        ("psld", "O B! A O B A!@1", []),
        ("psld", "B! A O A O B!@1", ["no network call sees the first of two draws of O"]),
        ("cld", "B! A! B!@1", ["nothing reads 1 of the 3 network calls"]),
    ],
)  # fmt: skip
def test_warnings(sde: str, composition: str, words: list[str]) -> None:
    found = lint(derive(sde, composition))
    assert len(found) == len(words), found
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_ddim_shrinks_by_the_cosine_of_its_angle() -> None:
    """The gain of DDIM over the exact one is cos(theta - theta'), theta = arctan(sigma/(alpha sd))."""
    found = derive("vp", "conjugate").stability(variance=0.25).steps
    view = ss.load_sde("vp").at()
    for step in found:
        angle = [
            np.arctan(np.sqrt(view.covariance(t)[0, 0]) / (view.transition(t, 0.0)[0, 0] * 0.5))
            for t in (step.t0, step.t1)
        ]
        assert step.radius / step.exact == pytest.approx(np.cos(angle[0] - angle[1]), rel=1e-6)


KUTTA = {
    "name": "kutta", "family": "runge-kutta", "target": "ode", "let": {"h": "t0 - t1", "half": "(t0 + t1)/2"},
    "step": [
        "s1 = score(z, t0)", "y = z + h/2*drift(z, s1, t0)", "s2 = score(y, half)",
        "u = z - h*drift(z, s1, t0) + 2*h*drift(y, s2, half)", "s3 = score(u, t1)",
        "z = z + h/6*drift(z, s1, t0) + 2*h/3*drift(y, s2, half) + h/6*drift(u, s3, t1)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("sde", ["psld", "swinging-damping"])
def test_kuttas_method_has_order_three_on_blocks_that_move(sde: str) -> None:
    """Two blocks, coefficients and network that depend on time, two coordinates a block."""
    assert derive(sde, KUTTA, "score").order == 3


def test_kuttas_method_with_one_wrong_weight_has_not() -> None:
    lines = [line.replace("2*h/3*", "2*h/3*9/10*").replace("z + h/6*", "z + h/6*14/10*") for line in KUTTA["step"]]
    assert derive("psld", {**KUTTA, "step": lines}, "score").order == 1
