"""Affine SDEs: the offset of the mean, constant components, and their terms in every family of samplers."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import sympy as sp
import torch
from scipy.integrate import quad, solve_ivp

import stepsmith as ss
from stepsmith.derive.maths import calculus
from stepsmith.derive.maths.calculus import t
from stepsmith.derive.proofs.reference import worst
from stepsmith.derive.sampler.split import bind
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import probe
from stepsmith.measure.coefficients import limit, worst_of
from stepsmith.runtime import constants, plan

MU, MEAN, VARIANCE = -0.7, 0.4, 0.09
# Two blocks, two constants, a plain part, no mean that the SDE keeps.
PULLED = {
    "name": "pulled", "state": ["x", "m"], "constant": ["mu", "bias"], "let": {"beta": "1 + 2*t"}, "initial": {"m": "0.25"},
    "F": [["-beta*0.3", "2*beta"], ["-2*beta", "-beta"]], "G": [["sqrt(beta)/3", "0"], ["0", "sqrt(beta)"]],
    "offset": ["beta*0.5*mu + 0.2*t", "(1 + t)*bias - mu*beta"],
}  # fmt: skip
DRIVEN = {  # one block that keeps no mean
    "name": "driven", "state": ["x"], "constant": ["mu"], "F": [["-1 - t"]], "G": [["sqrt(1 + t*t)"]],
    "offset": ["cos(t)*mu + sin(3*t)/2"],
}  # fmt: skip
GROWING = {"name": "growing", "state": ["x"], "F": [["0"]], "G": [["1"]], "offset": ["2 + 6*t"]}
TURNING = {
    "name": "turning", "state": ["x", "m"], "constant": ["mu"], "initial": {"m": "0.25"},
    "F": [["-t", "1"], ["-2", "-2*t*t - 1"]], "G": [["sqrt(t + 1)", "0"], ["0", "2"]], "offset": ["mu", "t"],
}  # fmt: skip
GIVEN = {"mu": MU, "bias": 0.6}
CONJUGATE_PARTS = {
    "name": "csplit", "family": "conjugate-splitting", "target": "ode", "composition": "B! A", "params": {"la": 0.3, "lb": -0.2},
    "parts": {"A": {"rows": "data", "linear": "rest", "score": "all", "solve": "conjugate", "B": "la"},
              "B": {"rows": "auxiliary", "linear": "rest", "score": "all", "solve": "conjugate", "B": "lb"}},
}  # fmt: skip
WHOLE = {
    "name": "whole", "family": "conjugate-splitting", "target": "ode", "composition": "A!", "params": {"b": 0.3},
    "parts": {"A": {"linear": "rest", "score": "all", "solve": "conjugate", "B": "b"}},
}  # fmt: skip
SHARED = {  # the exact part takes a share of the offset that keeps no mean, the kick the rest
    "name": "shared", "family": "splitting", "target": "sde", "composition": "O S! O",
    "parts": {"O": {"linear": [["-beta*0.3", "beta"], ["0", "-beta"]], "offset": ["beta*mu + 0.3*t", "t*bias"], "noise": "all",
                    "solve": "exact"},
              "S": {"linear": "rest", "offset": "rest", "score": "all"}},
}  # fmt: skip
IDENTITY = {"name": "ident", "family": "conjugate", "B": "b*t", "params": {"b": 0.6}}


@cache
def sde_of(name: str) -> Any:
    own = {"pulled": PULLED, "driven": DRIVEN, "growing": GROWING, "turning": TURNING}
    return ss.load_sde(own.get(name, name))


def emitted(sde: str, sampler: Any, network: Any = "denoiser") -> tuple[Any, Any]:
    method = ss.derive(sde_of(sde), sampler, network)
    return method, ss.load(ss.emit(method, certified=False))


def given(sde: Any) -> dict[str, float]:
    return {name: GIVEN[name] for name in sde.constant}


def numbers(sde: Any) -> dict[sp.Symbol, Any]:
    return {sde.symbols[name]: sp.Rational(str(value)) for name, value in sde.params.items()}


# --- the mean ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ir-sde", "growing"])
def test_the_kernel_with_the_offset_solves_the_mean_equation(name: str) -> None:
    sde = sde_of(name)
    s = sp.Symbol("s", real=True)
    mean = sde.mean_offset(t, s)
    residual = mean.diff(t) - sde.F * mean - sde.offset
    assert all(calculus.is_zero(e) for e in (*residual, *mean.subs(t, s)))
    assert not calculus.is_zero(mean[0])


def test_the_mean_and_variance_are_those_published() -> None:
    """arXiv 2301.11699, eq. 5-6: m = mu + (x0 - mu) e^-T, v = lambda^2 (1 - e^-2T), T the integral of theta."""
    sde = sde_of("ir-sde")
    values = numbers(sde)
    theta = sp.lambdify(t, sde.let["theta"].subs(values))
    view = sde.at()
    for time in (1e-3, 0.3, 1.0):
        total = quad(theta, 0, time, epsabs=1e-15, epsrel=1e-13)[0]
        assert view.transition(time, 0.0)[0, 0] == pytest.approx(math.exp(-total), rel=1e-11)
        assert view.offset(time, 0.0)[0] == pytest.approx([-math.expm1(-total), 0.0], rel=1e-11)
        assert view.covariance(time)[0, 0] == pytest.approx((10 / 255) ** 2 * -math.expm1(-2 * total), rel=1e-11)
    assert view.transition(1.0, 0.0)[0, 0] == pytest.approx(0.005, rel=1e-14)  # delta of the paper
    steps = np.arange(1, 101) / 101  # the paper's theta is 1 - f, f the cosine schedule that starts at 1
    f = (np.cos((steps + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    assert np.allclose(theta(steps) / theta(0.5), (1 - f) / (1 - np.interp(0.5, steps, f)), rtol=2e-4)


@pytest.mark.parametrize("name", ["ir-sde", "pulled", "driven", "growing", "turning"])
def test_the_numeric_offset_is_that_of_an_integrator(name: str) -> None:
    sde = sde_of(name)
    values, view = numbers(sde), sde.at()
    F = sp.lambdify(t, sde.F.subs(values))
    b = sp.lambdify(t, sde.written_out(sde.offset_terms_let).subs(values))
    shape = (sde.n, len(sde.constant) + 1)

    def slope(time: float, flat: np.ndarray) -> np.ndarray:
        return (np.array(F(time), dtype=float) @ flat.reshape(shape) + np.array(b(time), dtype=float)).ravel()

    for begin, end in ((0.0, 0.7), (0.7, 0.2), (0.25, 1.0)):
        want = solve_ivp(slope, (begin, end), np.zeros(shape).ravel(), rtol=1e-12, atol=1e-13, method="DOP853").y[:, -1]
        assert np.allclose(view.offset(end, begin).ravel(), want, rtol=1e-9, atol=1e-11), (begin, end)
    if name in ("ir-sde", "growing"):
        exact = sde.mean_offset(sp.Rational(1, 4), sp.Rational(7, 10)).subs(values)[0]
        assert float(exact.subs(dict.fromkeys(exact.free_symbols, 1))) == pytest.approx(view.offset(0.25, 0.7).sum())


def test_no_closed_mean_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="pulled has no mean that the SDE keeps"):
        sde_of("pulled").mean_offset(t, 0)


# --- the spec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"offset": ["mu**2", "bias"]}, "sde.offset", "not linear in mu, bias"),
        ({"offset": ["mu*bias", "0"]}, "sde.offset", "not linear"),
        ({"offset": ["(mu**2 - 4)/(mu - 2)", "bias"]}, "sde.offset", "entry [0] is not linear"),
        ({"offset": ["mu", "exp(bias)"]}, "sde.offset", "entry [1] is not linear"),
        ({"offset": ["mu", "0"]}, "sde.offset", "no entry uses the constant component bias"),
        ({"offset": None}, "sde.offset", "no entry uses the constant component mu"),
        ({"offset": ["mu"]}, "sde.offset", "row [1] is missing"),
        ({"offset": "mu"}, "sde.offset", "not a list"),
        ({"F": [["-mu", "1"], ["1", "0"]]}, "sde.F[0][0]", "unknown name 'mu'"),
        ({"constant": "mu"}, "sde.constant", "no list"),
        ({"constant": ["x"]}, "sde.params", "'x' is defined twice"),
        ({"constant": ["mu", "mu"]}, "sde.constant", "defined twice"),
        ({"constant": ["mu", "w1"]}, "sde.constant.w1", "the emitted step uses this name"),
    ],
)
def test_what_is_no_offset_is_refused_and_named(change: dict, key: str, words: str) -> None:
    spec = {**PULLED, **change}
    with pytest.raises(InputError) as caught:
        ss.load_sde({k: v for k, v in spec.items() if v is not None})
    assert caught.value.key == key and words in str(caught.value), str(caught.value)


# --- the parts sum to the whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "euler-maruyama", "sscs", WHOLE], ids=str)
@pytest.mark.parametrize("name", ["ir-sde", "driven"])
def test_the_offsets_of_the_parts_sum_to_minus_that_of_the_sde(name: str, sampler: Any) -> None:
    if (name, sampler) == ("driven", "sscs"):
        with pytest.raises(Unsupported):
            bind(ss.load_sampler(sampler), sde_of(name))
        return
    sde = sde_of(name)
    parts = bind(ss.load_sampler(sampler), sde).values()
    total = sum((part.offset for part in parts), sp.zeros(1, 2)) + sde.offset_terms_let
    assert all(calculus.is_zero(sde.written_out(e)) for e in total)


def test_the_stationary_part_of_sscs_is_drawn_to_mu() -> None:
    part = bind(ss.load_sampler("sscs"), sde_of("ir-sde"))["A"]
    theta = sp.Symbol("theta", real=True)
    assert part.linear[0] == -theta and part.offset[0, 0] == theta and part.offset[0, 1] == 0


@pytest.mark.parametrize(
    ("letter", "offset", "words"),
    [
        ("S", "none", "offset of row x in mu, missing -2*theta"),
        ("O", "none", "offset of row x in mu, extra -theta"),
        ("S", ["-2*theta*mu + t"], "offset of row x in one, extra t"),
        ("S", ["-theta*mu"], "offset of row x in mu, missing -theta"),
    ],
)
def test_a_missing_or_extra_offset_is_refused_and_named(letter: str, offset: Any, words: str) -> None:
    parts = {
        "O": {"linear": "diagonal", "offset": ["theta*mu"], "noise": "all", "solve": "exact"},
        "S": {"linear": "rest", "offset": ["-2*theta*mu"], "score": "all"},
    }
    sampler = {"name": "own", "family": "splitting", "target": "sde", "composition": "O S!", "parts": parts}
    bind(ss.load_sampler(sampler), sde_of("ir-sde"))
    parts[letter]["offset"] = offset
    with pytest.raises(InputError) as caught:
        bind(ss.load_sampler(sampler), sde_of("ir-sde"))
    assert words in str(caught.value), str(caught.value)


def test_an_offset_on_a_row_that_the_part_does_not_move_is_refused() -> None:
    kick = {"rows": ["x"], "linear": "rest", "offset": ["0", "1"], "score": "all"}
    sampler = {**SHARED, "parts": {**SHARED["parts"], "S": kick}}
    with pytest.raises(InputError, match="row m is not among the rows of S"):
        bind(ss.load_sampler(sampler), sde_of("pulled"))


# --- the step ---------------------------------------------------------------------------------------------------------


def published_ddim(x: float, d: float, t0: float, t1: float) -> float:
    """mu + (d - mu) e^-T1 + (v1/v0)^(1/2) (x - mu - (d - mu) e^-T0): the mean moves exactly, the noise is kept."""
    view = sde_of("ir-sde").at()
    a0, a1 = (view.transition(time, 0.0)[0, 0] for time in (t0, t1))
    v0, v1 = (view.covariance(time)[0, 0] for time in (t0, t1))
    return MU + (d - MU) * a1 + math.sqrt(v1 / v0) * (x - MU - (d - MU) * a0)


@pytest.mark.parametrize("network", ["denoiser", "eps-L", "x0", "v", "score", "edm"])
def test_the_conjugate_step_of_ir_sde_is_the_published_ddim(network: str) -> None:
    """Whatever the network gives, when it knows the data (a Dirac), the step keeps the noise and moves the mean."""
    _, module = emitted("ir-sde", "conjugate", network)
    d, x, t0, t1 = 0.25, -0.6, 0.8, 0.35
    view = sde_of("ir-sde").at()
    alpha, sigma = view.transition(t0, 0.0)[0, 0], math.sqrt(view.covariance(t0)[0, 0])
    eps = (x - MU * (1 - alpha) - alpha * d) / sigma
    y, s = d + sigma / alpha * eps, sigma / alpha
    root = math.hypot(s, 0.5)
    answers = {
        "denoiser": d, "eps-L": eps, "x0": d, "v": alpha * eps - sigma * d, "score": -eps / sigma,
        "edm": (d - 0.25 * y / root**2) * root / (s * 0.5),
    }  # fmt: skip
    seen = []

    def call(inputs: Any, time: torch.Tensor) -> Any:
        seen.extend(float(v) for v in inputs)
        return (torch.full_like(inputs[0], answers[network]),)

    row = module.coefficients([t0, t1])[0].unbind()
    state = (torch.tensor([x], dtype=torch.float64), torch.tensor([MU], dtype=torch.float64))
    (after, mu), _ = module.step(state, row, call)
    exact = network in ("denoiser", "eps-L", "x0")  # the other frames are not constant along the path of a Dirac
    if exact:
        assert after.item() == pytest.approx(published_ddim(x, d, t0, t1), rel=1e-13)
    close = module.coefficients([t0, t0 - 1e-5])[0].unbind()
    (near, _), _ = module.step(state, close, call)
    assert near.item() == pytest.approx(published_ddim(x, d, t0, t0 - 1e-5), rel=1e-8)
    assert mu is state[1]
    wanted = {"denoiser": [y], "edm": [y / root]}.get(network, [x, MU])
    assert seen[: len(wanted)] == pytest.approx(wanted, rel=1e-13)
    last = module.coefficients([1.0, t0])[-1].unbind()
    assert module.denoise(state, last, call)[0].item() == pytest.approx(d, rel=1e-12)


def test_the_published_posterior_is_the_step_of_the_reverse_sde_to_order_one() -> None:
    """arXiv 2301.11699, Prop. 3.2: E[x_s | x_t, x0].  Euler-Maruyama with the exact score of a Dirac differs by O(h^2)."""
    _, module = emitted("ir-sde", "euler-maruyama")
    view = sde_of("ir-sde").at()
    d, x, t0 = 0.25, -0.6, 0.5

    def posterior(t1: float) -> float:
        a0, a1 = (view.transition(time, 0.0)[0, 0] for time in (t0, t1))
        step = a0 / a1
        share = (1 - a1**2) / (1 - a0**2)
        return share * step * (x - MU) + (1 - step**2) / (1 - a0**2) * a1 * (d - MU) + MU

    gaps = []
    for h in (1e-2, 5e-3, 2.5e-3):
        row = module.coefficients([t0, t0 - h])[0].unbind()
        state = tuple(torch.tensor([v], dtype=torch.float64) for v in (x, MU))
        after = module.step(state, row, lambda inputs, time: (torch.full_like(inputs[0], d),), (torch.zeros(1),))[0][0]
        gaps.append(abs(after.item() - posterior(t0 - h)))
    assert 3.6 < gaps[0] / gaps[1] < 4.4 and 3.8 < gaps[1] / gaps[2] < 4.2


def exact_law(sde: Any, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of z_t for data N(MEAN, VARIANCE)."""
    view = sde.at()
    psi, o = view.transition(time, 0.0), view.offset(time, 0.0)
    carried = np.array([*given(sde).values(), 1.0])
    mean = psi[:, 0] * MEAN + o @ carried
    return mean, view.covariance(time) + VARIANCE * np.outer(psi[:, 0], psi[:, 0])


def network_for(sde: Any, kind: str) -> Any:
    data = ss.problems.Gaussian(MEAN, VARIANCE)
    return data.network() if kind == "denoiser" else data.score_network(kind, sde.at())


ONE_BLOCK = ("conjugate", "euler", "euler-maruyama", WHOLE, IDENTITY)
ORDERS = [
    *(("ir-sde", sampler, "denoiser") for sampler in (*ONE_BLOCK, "sscs")),
    *(("ir-sde", sampler, "eps-L") for sampler in ("conjugate", "euler")),
    *(("driven", sampler, "denoiser") for sampler in ONE_BLOCK), ("driven", WHOLE, "score"),
    *(("pulled", sampler, "denoiser") for sampler in ("conjugate", "euler", "rvv", IDENTITY, CONJUGATE_PARTS, SHARED)),
    ("pulled", "conjugate", "eps-L"), ("pulled", CONJUGATE_PARTS, "score"),
    ("turning", "rvv", "score"), ("growing", "euler", "denoiser"),
    ("growing", "conjugate", "denoiser"), ("growing", "euler-maruyama", "denoiser"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sampler", "network"), ORDERS, ids=lambda v: v["name"] if isinstance(v, dict) else v)
def test_mean_and_covariance_converge_to_the_exact_ones_at_order_one(name: str, sampler: Any, network: str) -> None:
    sde = sde_of(name)
    _, module = emitted(name, sampler, network)
    net, begin, end = network_for(sde, network), 0.8, 0.2
    (m0, S0), (m1, S1) = exact_law(sde, begin), exact_law(sde, end)
    gaps = []
    for steps in (80, 160):
        grid = ss.TimeGrid.uniform(sde, steps, start=begin, end=end)
        found = probe.moments(module, net, grid, m0, torch.tensor(S0), constants=given(sde))
        n = sde.n
        assert found.mean[-1, n:].tolist() == list(given(sde).values())
        assert not found.cov[-1, n:].any() and not found.cov[-1, :, n:].any()
        mean, cov = found.mean[-1].numpy(), found.cov[-1].numpy()
        gaps.append((np.abs(mean[:n] - m1).max(), np.abs(cov[:n, :n] - S1).max()))
    for kind in (0, 1):
        errors = [gap[kind] for gap in gaps]
        if errors[-1] < 1e-12:  # the mean of a conjugate step is exact
            continue
        slope = math.log2(errors[0] / errors[1])
        assert slope > 0.9, (kind, errors)
        assert errors[-1] < 0.05


@pytest.mark.parametrize("name", ["ir-sde", "pulled"])
def test_a_step_of_B_zero_moves_the_mean_exactly(name: str) -> None:
    sde = sde_of(name)
    _, module = emitted(name, "conjugate")
    grid = ss.TimeGrid.explicit([0.9, 0.5, 0.1])
    m0, S0 = exact_law(sde, 0.9)
    found = probe.moments(module, network_for(sde, "denoiser"), grid, m0, torch.tensor(S0), constants=given(sde))
    assert np.allclose(found.mean[-1, : sde.n], exact_law(sde, 0.1)[0], rtol=0, atol=1e-12)


def test_one_conjugate_part_that_is_the_whole_is_the_conjugate_step() -> None:
    """B = b I frozen on z - o: the part's route by quadrature and the closed one agree, offset and all."""
    for name in ("ir-sde", "driven"):
        (_, one), (_, other) = (
            emitted(name, WHOLE, "eps-L"),
            emitted(name, {"name": "c", "family": "conjugate", "B": "b", "params": {"b": 0.3}}, "eps-L"),
        )
        times = torch.tensor([0.9, 0.4, 0.1], dtype=torch.float64)
        pairs = zip(one.coefficients(times).unbind(), other.coefficients(times).unbind(), strict=True)
        for mine, theirs in pairs:
            mine, theirs = (dict(zip(m.COEFFICIENTS, row.tolist(), strict=True)) for m, row in ((one, mine), (other, theirs)))
            names = [k for k in theirs if k.startswith("x_")]
            assert "x_mu" in names and {k: mine[k] for k in names} == pytest.approx({k: theirs[k] for k in names}, rel=1e-11)


def test_the_exact_part_is_the_exponential_of_the_affine_flow() -> None:
    _, module = emitted("ir-sde", "sscs", "eps-L")
    row = dict(zip(module.COEFFICIENTS, module.coefficients([0.8, 0.6])[0].tolist(), strict=True))
    theta = sp.lambdify(t, sde_of("ir-sde").let["theta"].subs(numbers(sde_of("ir-sde"))))
    halves = [quad(theta, 0.7, 0.8)[0], quad(theta, 0.6, 0.7)[0]]
    half = [scipy.linalg.expm(np.array([[-k, k], [0.0, 0.0]])) for k in halves]  # (x, mu): dx = theta (mu - x)
    kick = np.array([[1 + 2 * 0.2 * theta(0.8), -2 * 0.2 * theta(0.8)], [0.0, 1.0]])
    whole = half[1] @ kick @ half[0]
    assert [row["x_x"], row["x_mu"]] == pytest.approx(whole[0].tolist(), rel=1e-11)


@pytest.mark.parametrize(
    ("name", "sampler", "network"),
    [("ir-sde", "sscs", "denoiser"), ("ir-sde", IDENTITY, "denoiser"), ("pulled", CONJUGATE_PARTS, "score"),
     ("driven", WHOLE, "eps-L"), ("pulled", "rvv", "eps-L"), ("pulled", SHARED, "score")],
    ids=lambda v: v["name"] if isinstance(v, dict) else v,
)  # fmt: skip
def test_coefficients_agree_with_the_taylor_route(name: str, sampler: Any, network: str) -> None:
    method, module = emitted(name, sampler, network)
    times = [1e-4 ** (k / 8) for k in range(9)]
    found = worst_of(method, times, (3, 7), module=module)
    assert found.error < limit(times[-1]), found


def test_the_reference_sees_a_lost_offset() -> None:
    method, module = emitted("driven", WHOLE, "eps-L")
    times = [0.9, 0.5, 0.1]
    values = module.coefficients(times)
    place = module.COEFFICIENTS.index("x_mu")
    values[0, place] *= 1 + 1e-11
    table = [dict(zip(module.COEFFICIENTS, row, strict=True)) for row in values.tolist()]
    found = worst(method, times, table, (0, 1))
    assert found.column == "x_mu" and found.error > 1e-12


# --- the run ----------------------------------------------------------------------------------------------------------


def test_the_start_is_drawn_around_the_offset_and_the_constant_is_the_callers() -> None:
    _, module = emitted("ir-sde", "conjugate")
    mu = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    states: list[Any] = []
    grid = ss.TimeGrid.explicit([1.0, 0.5])
    network = ss.problems.Gaussian(torch.zeros(2, 3), 1.0).network()
    ready = plan.make_plan(module, network, grid, range(4000), dtype=torch.float64, constants={"mu": mu})
    normals = (ready.noise.normal((2, 3), "start", 0, 0, dtype=torch.float64),)
    (x,) = ready.law.drawn(normals, (mu,), (), torch.float64)
    view = sde_of("ir-sde").at()
    sigma = math.sqrt(view.covariance(1.0)[0, 0])
    assert ((x.mean(0) - 0.995 * mu).abs() < 5 * sigma / math.sqrt(4000)).all()
    assert x.std(0).mean().item() == pytest.approx(sigma, rel=0.02)
    ss.sample(module, network, grid, [0, 1], constants={"mu": mu}, callback=lambda k, state, x0: states.append(state))
    assert len(states[0]) == 2 and torch.equal(states[0][1], mu.float().expand(2, 2, 3))


def test_one_image_a_seed_and_one_for_all() -> None:
    _, module = emitted("ir-sde", "sscs")
    grid = ss.TimeGrid.quadratic(sde_of("ir-sde"), 4)
    network = ss.problems.Gaussian(torch.zeros(3), 1.0).network()
    images = torch.tensor([[0.0, 0.5, 1.0], [-1.0, 0.2, 0.3]])
    both = ss.sample(module, network, grid, [5, 9], constants={"mu": images})
    for k, seed in enumerate((5, 9)):
        alone = ss.sample(module, network, grid, [seed], constants={"mu": images[k]})
        assert torch.allclose(alone[0], both[k], atol=1e-6)
    assert not torch.allclose(both, ss.sample(module, network, grid, [5, 9], constants={"mu": images[0]}))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "mu of ir-sde is missing"),
        ({"nu": 0.0}, "no constant component 'nu'"),
        ({"mu": torch.zeros(4)}, "does not broadcast"),
        ({"mu": torch.zeros(3, 3)}, "does not broadcast"),
        ({"mu": torch.zeros(1, 2, 3)}, "does not broadcast"),
        ({"mu": [0.0, float("nan"), 1.0]}, "not finite"),
        ({"mu": "image"}, "is no tensor"),
    ],
)
def test_a_constant_that_does_not_fit_is_refused_before_the_first_call(value: Any, words: str) -> None:
    _, module = emitted("ir-sde", "conjugate")

    def network(inputs: Any, time: Any) -> Any:
        raise AssertionError("called")

    with pytest.raises(InputError, match=words):
        ss.sample(module, network, ss.TimeGrid.explicit([1.0, 0.5]), [0, 1], shape=(3,), constants=value)
    with pytest.raises(InputError, match="no constant component 'mu'"):
        ss.sample("vp_conjugate", network, ss.TimeGrid.explicit([1.0, 0.5]), [0], shape=(3,), constants={"mu": 0.0})


@pytest.mark.parametrize("suffix", ["png", "npz", "safetensors"])
def test_a_constant_is_read_from_a_file(suffix: str, tmp_path: Any) -> None:
    from stepsmith.runtime import write

    image = (torch.arange(192).reshape(1, 3, 8, 8) % 256) / 127.5 - 1
    path = tmp_path / f"mu.{suffix}"
    if suffix == "png":
        from PIL import Image

        pixels = ((image[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(path)
    else:
        write(path, image, {})
    found = constants.read_constant(path)
    assert torch.allclose(found, image[0].double() if suffix == "png" else image.double(), atol=1e-7)


@pytest.mark.parametrize(("name", "words"), [("a.txt", "suffix"), ("no.png", "no such file"), ("bad.npz", "cannot be read")])
def test_a_file_that_is_no_image_is_refused(name: str, words: str, tmp_path: Any) -> None:
    (tmp_path / "bad.npz").write_text("not an archive")
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(InputError, match=words):
        constants.read_constant(tmp_path / name)


def test_the_command_line_takes_a_constant_from_a_file(tmp_path: Any) -> None:
    from click.testing import CliRunner

    from stepsmith.cli import cli

    np.savez(tmp_path / "mu.npz", mu=np.full((1, 8, 8), 0.25))
    words = ["sample", "--sde", "ir-sde", "--sampler", "conjugate", "--steps", "3", "--seeds", "0-1", "--json"]
    words += ["--network", "digits", "--out", str(tmp_path / "x.npz")]
    done = CliRunner().invoke(cli, [*words, "--constant", f"mu={tmp_path / 'mu.npz'}"])
    assert done.exit_code == 0, done.output
    found = np.load(tmp_path / "x.npz")
    assert found["samples"].shape == (2, 1, 8, 8) and "constants" in str(found["record"])
    unknown = ["--constant", f"nu={tmp_path / 'mu.npz'}"]
    for wrong, key in ((["--constant", "mu"], "constant"), ([], "constants"), (unknown, "constants")):
        refused = CliRunner().invoke(cli, [*words, *wrong])
        assert isinstance(refused.exception, InputError) and refused.exception.key == key
