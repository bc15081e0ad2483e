"""Measured orders: what they are held to is exact, a slope is read as it should be, modules keep their proofs, and planted
errors are seen by the proof and by the measurement."""

import copy
import dataclasses
import itertools
import json
import math
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orders as orders_page
import pytest
import torch

import stepsmith as ss
from stepsmith.derive import catalogue, load_sde
from stepsmith.measure import orders, slopes
from stepsmith.measure.flow import Law, transport
from stepsmith.measure.problems import Gaussian

ROOT = Path(__file__).parent.parent
SAMPLERS = ROOT / "derive" / "specs" / "sampler"


@pytest.fixture(scope="module")
def taken():
    """``taken("vp_heun")``: the method, the emitted text and the check of it."""
    known = {}

    def taken(name):
        if name not in known:
            method = catalogue.find(name).derive()
            text = ss.emit(method, certified=False)
            known[name] = SimpleNamespace(method=method, text=text, check=orders.compare(method, ss.load(text)))
        return known[name]

    return taken


# -- what a measurement is held to --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["psld", "vp", "ir-sde"])
def test_the_interpolated_law_is_that_of_the_numeric_view(name):
    sde = load_sde(name)
    view, low, high = sde.at(), 0.3, 0.6
    law = Law.of(view, low, high)
    for t in (0.3, 0.3307, 0.45, 0.5999):
        pairs = [
            (law.transition(t, 0.0), view.transition(t, 0.0)), (law.covariance(t), view.covariance(t)),
            (law.offset(t, 0.0), view.offset(t, 0.0)), (law.factor(t, "upper"), view.factor(t, "upper")),
            (law.factor(t, "gddim", end=low), view.factor(t, "gddim", end=low)),
            *zip(law.rates(t), view.rates(t), strict=True),
        ]  # fmt: skip
        for found, exact in pairs:
            assert np.abs(found - exact).max() <= 1e-13 * max(np.abs(exact).max(), 1e-300)


def test_a_law_that_is_not_smooth_on_the_span_is_refused():
    with pytest.raises(ArithmeticError, match="not interpolated"):
        Law.of(load_sde("vp").at(), 1e-6, 1.0)


@pytest.mark.parametrize("name", ["psld", "ir-sde"])
def test_the_rates_of_the_view_move_its_transition_offset_and_covariance(name):
    view, t, d = load_sde(name).at(), 0.4, 1e-5
    F, source, V = view.rates(t)

    def slope(f):
        return (f(t + d) - f(t - d)) / (2 * d)

    S, o = view.covariance(t), view.offset(t, 0.0)
    assert np.allclose(slope(lambda u: view.transition(u, 0.0)), F @ view.transition(t, 0.0), rtol=1e-7, atol=1e-9)
    assert np.allclose(slope(view.covariance), F @ S + S @ F.T + V, rtol=1e-6, atol=1e-9)
    assert np.allclose(slope(lambda u: view.offset(u, 0.0)), F @ o + source, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "ve", "ir-sde", "rectified-flow"])
def test_the_flow_of_a_gaussian_in_one_block_is_the_affine_map_between_its_marginals(name):
    """z -> m_1 + sqrt(P_1/P_0) (z - m_0)."""
    sde = load_sde(name)
    reference = orders.reference(sde)
    law, problem = reference.law, Gaussian([slopes.MU] * 2, slopes.S0)
    given = torch.full((len(sde.constant),), 0.3, dtype=torch.float64)
    (m0, P0), (m1, P1) = (slopes.gaussian_moments(law, t, slopes.MU, slopes.S0, given) for t in (law.high, law.low))
    z = torch.linspace(-3, 3, 10, dtype=torch.float64).reshape(1, 5, 2) * P0.sqrt() + m0
    held = tuple(value.expand(5, 2) for value in given)
    found = transport(law, problem.score_network("score", law), z, held)
    assert (found - (m1 + (P1 / P0).sqrt() * (z - m0))).abs().max() < 1e-12 * found.abs().max()


@pytest.mark.parametrize("name", ["psld", "hold"])
def test_the_reference_solution_stands_and_keeps_the_law_of_a_gaussian(name):
    """Halving the panels changes nothing; and states of covariance L L^T, moved as columns, end with that of t_b."""
    sde = load_sde(name)
    reference = orders.reference(sde)
    law, problem = reference.law, Gaussian(torch.zeros(2), slopes.S0)
    score = slopes.MIXTURE.score_network("score", law)
    fine = transport(law, score, reference.start, panels=24)
    assert (reference.end - fine).abs().max() < 1e-11 * fine.abs().max()
    _, P0 = slopes.gaussian_moments(law, law.high, slopes.MU, slopes.S0, torch.zeros(0))
    _, P1 = slopes.gaussian_moments(law, law.low, slopes.MU, slopes.S0, torch.zeros(0))
    root = torch.linalg.cholesky(P0)
    moved = transport(law, problem.score_network("score", law), root.unsqueeze(2).expand(-1, -1, 2))[..., 0]
    assert (moved @ moved.T - P1).abs().max() < 1e-12 * P1.abs().max()


FAINT = {"name": "faint", "state": ["x"], "F": [["-0.1"]], "G": [["0.3"]]}
STEEP = {
    "name": "steep", "state": ["x", "m"], "F": [["0", "1.03*(1.24 + 1.21*t)"], ["-1.5*(1 + 1.21*t)", "-2.03*(1.24 + t^2)"]],
    "G": [["sqrt(2.03*(2 + sin(3*t)))", "0"], ["0", "sqrt(0.54*exp(-1.21*t))"]], "initial": {"m": "1"},
}  # fmt: skip


@pytest.mark.parametrize("spec", [FAINT, STEEP], ids=["effective sigma ends at 0.3", "no polynomial near the data"])
def test_a_span_is_one_that_the_diffusion_has(spec):
    method = ss.derive(spec, "euler")
    law, (high, low) = orders.reference(method.sde).law, (slopes._time_of(method.sde.at(), s) for s in slopes.SPAN)
    assert (law.high, law.low) != (high, low) and law.low < law.high <= high <= 1.0
    found = orders.compare(method, ss.load(ss.emit(method, certified=False)))
    assert found.ok and found.converged and found.measured == pytest.approx(1, abs=0.05)


# -- how a slope is read ------------------------------------------------------------------------------------------------


def reading(*terms, power=0):
    """The reading of errors sum_k c_k h^(power + k), h = 1/N, in two directions."""
    both = torch.tensor([[1.0, 0.3], [0.2, 1.0]], dtype=torch.float64)

    def error(steps):
        return sum(c * steps ** -(power + k) * both[k % 2] for k, c in enumerate(terms))

    return slopes.read(error, largest, "uniform")


def largest(error):
    return (error.abs().max().item(),)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_slope_of_an_expansion_is_its_first_power(order):
    found = reading(1.0, 3.0, -2.0, 5.0, power=order)
    assert found.converged and found.value == pytest.approx(order, abs=0.06)
    assert found.limit in (order, None) and found.constant(order) == pytest.approx(1.0, rel=0.1)


def test_a_slope_converges_when_two_in_a_row_agree():
    assert reading(1.0, 0.0, power=1).steps[-1] == slopes.LEAST
    bent = slopes.read(lambda n: torch.tensor([0.03 / n + 10 / n**2], dtype=torch.float64), largest, "uniform")  # from 2 to 1
    assert (bent.steps[-1], bent.converged, bent.limit) == (slopes.MOST, False, 1) and bent.value > 1.1 > bent.lowest
    late = reading(3.0, 10.0, power=1)
    found = [math.log2(a / b) for a, b in itertools.pairwise(late.errors)]
    assert late.converged and abs(found[-1] - found[-2]) <= slopes.CONVERGED


def test_errors_at_rounding_are_not_read():
    assert reading(1e-9, power=3).errors[-1] >= slopes.FLOOR
    assert reading(1e-15).value == math.inf


def test_a_wrong_term_shows_in_the_limit_long_before_it_bends_the_slope():
    hidden = reading(1e-5, 1.0, 3.0, 2.0)
    assert hidden.value > 0.98 and hidden.limit == 0 and hidden.lowest == 0.0
    assert reading(0.0, 1.0, 3.0, 2.0).limit == 1
    assert reading(0.0, 1e-4, 1.0, 2.0).limit == 1


def test_a_power_below_the_slope_is_asked_for_again_with_longer_runs(monkeypatch):
    powers = iter((0, 1, 1, 1))
    monkeypatch.setattr(slopes, "lowest_power", lambda steps, errors: next(powers) if steps[-1] >= slopes.LEAST else None)
    chance = reading(1.0, 0.0, power=1)
    assert (chance.steps[-1], chance.limit, chance.converged) == (2 * slopes.LEAST, 1, True)
    monkeypatch.setattr(slopes, "lowest_power", lambda steps, errors: 0)
    stays = reading(1.0, 0.0, power=1)
    assert (stays.steps[-1], stays.lowest, stays.converged) == (slopes.MOST, 0.0, True)


def test_a_run_that_is_not_finite_has_no_order():
    found = slopes.read(lambda n: torch.tensor([math.nan if n > 20 else 1 / n]), largest, "uniform")
    assert found.lowest == -math.inf


# -- modules ------------------------------------------------------------------------------------------------------------

ORDERS = {
    "psld_euler": 1, "psld_rvv": 1, "vp_dpmpp_2m": 2, "psld_rvv2": 2, "vp_dpmpp_3m": 2,  # the theorem of issue 4
    "vp_dpmpp_3m_corrected": 3, "vp_heun": 2, "vp_conjugate_identity": 1, "psld_conjugate_eps_r": 1, "vp_conjugate_edm": 1,
    "ve_conjugate_v": 1, "ir_sde_euler_eps_l": 1, "blurring_conjugate_x0": 1, "hold_rvv": 1,
}  # fmt: skip
WEAK = {"psld_roba": 1, "vp_sscs": 1, "ir_sde_sscs": 1, "blurring_oso_eps_l": 1, "vp_sa_solver": 2, "edm_sde_dpmpp_2m": 2}


@pytest.mark.parametrize("name", [*ORDERS, *WEAK])
def test_a_measured_slope_is_the_proven_order(taken, name):
    found = taken(name).check
    order = {**ORDERS, **WEAK}[name]
    assert (found.kind, found.proven) == ("order" if name in ORDERS else "weak order", order)
    assert found.ok and found.converged and abs(found.measured - order) <= orders.GAP, found


def test_the_affine_probe_sees_mean_and_covariance_of_a_deterministic_run_as_well():
    method = catalogue.find("psld_rvv2").derive()
    module, reference = ss.load(ss.emit(method, certified=False)), orders.reference(method.sde)
    coarse, fine = (slopes.linear_error(module, reference, "uneven", n) for n in (64, 128))
    assert coarse.shape == (2 + 4,)
    assert torch.log2(coarse.abs() / fine.abs()).tolist() == pytest.approx([2.0] * 6, abs=0.1)


def test_checks_come_in_the_order_of_the_rows_from_several_processes():
    names = ("edm_euler", "edm_conjugate", "edm_dpmpp_2m", "edm_conjugate_identity", "edm_euler_maruyama", "edm_heun")
    rows = [catalogue.find(name) for name in names]
    found = list(orders.check_all(rows, most=2))
    assert [v.name for v in found] == [row.name for row in rows]
    assert [v.proven for v in found] == [1, 1, 2, 1, 1, 2]


# -- planted errors -----------------------------------------------------------------------------------------------------

TEXTS = {
    "a weight of a score, second order": ("vp_heun", r"x_d2 \* d2", "1.001 * x_d2 * d2"),
    "a weight of a score, first order": ("vp_conjugate", r"x_d \* d", "1.001 * x_d * d"),
    "a weight of the state": ("psld_euler", r"m_m \* m", "1.001 * m_m * m"),
    "a weight of the noise": ("vp_euler_maruyama", r"x_w1 \* w1", "1.001 * x_w1 * w1"),
    "a weight of the history": ("vp_dpmpp_2m", r"x_D_m1 \* D_m1", "1.001 * x_D_m1 * D_m1"),
    "the slope of beta, zero by default": ("psld_euler", r"self\.beta_min \+ t\*", "self.beta_min + 1.01*t*"),
    "a term in lambda, zero by default": ("vp_conjugate_identity", r"h\*sde\.lambda_", "h*sde.lambda_/2"),
    "the time of a call": ("vp_heun", r"network\(\(y2,\), sigma_hat_1\)", "network((y2,), sigma_hat_0)"),
    "the time of a kick": ("psld_rvv2", r"network\(\(y2,\), sigma_1\)", "network((y2,), sigma_0)"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_an_error_planted_in_an_emitted_text_fails_its_measurement(taken, case):
    name, pattern, fix = TEXTS[case]
    good = taken(name)
    text, count = re.subn(pattern, fix, good.text)
    assert count >= 1 and text != good.text
    found = orders.compare(good.method, ss.load(text))
    assert good.check.ok and not found.ok, found
    assert found.measured < found.proven - orders.GAP and "measured" in found.why[0]


SPECS = {
    "a weight": ("heun", "(E + G)", "(E + 1.001*G)", 0),
    "a share of the history": ("dpmpp-2m", "1/(2*r)*D[-1]", "1/(2.01*r)*D[-1]", 0),
    "a time": ("rvv2", "score(p, t1)", "score(p, t0)", 1),
}


@pytest.mark.parametrize("case", SPECS)
def test_an_error_planted_in_a_spec_falls_in_the_proof_and_in_the_measurement(case):
    name, good, bad, left = SPECS[case]
    sde = "psld" if name == "rvv2" else "vp"
    table = tomllib.loads((SAMPLERS / f"{name}.toml").read_text())
    spoiled = copy.deepcopy(table)
    assert any(good in line for line in table["sampler"]["step"])
    spoiled["sampler"]["step"] = [line.replace(good, bad) for line in table["sampler"]["step"]]
    before, after = ss.derive(sde, table), ss.derive(sde, spoiled)
    assert before.order == 2 and after.order == left
    found = orders.compare(after, ss.load(ss.emit(after, certified=False)))
    assert found.proven == left and found.measured < 2 - orders.GAP, found
    held = orders.compare(before, ss.load(ss.emit(after, certified=False)))  # the unspoiled proof does not pass the spoiled text
    assert not held.ok and any("DIGEST" in why for why in held.why)


def test_a_module_whose_constants_are_not_those_of_the_proof_fails(taken):
    good = taken("vp_heun")
    found = orders.compare(good.method, ss.load(good.text.replace("ORDER = 2", "ORDER = 3", 1)))
    assert found.why == ("ORDER = 3 in its text, 2 derived",)


# -- the command line and the page --------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capfd):
    from stepsmith import cli

    def run(*words):
        monkeypatch.setattr("sys.argv", ["stepsmith", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return SimpleNamespace(status=caught.value.code or 0, out=out, err=err)

    return run


def test_verify_prints_proven_beside_measured_and_exits_1_on_a_gap(run, monkeypatch, taken):
    good = taken("vp_heun").check
    monkeypatch.setattr(orders, "check", lambda row: good)
    found = run("verify", "vp-heun")
    assert found.status == 0 and re.search(r"vp_heun +order +2 +\d\.\d+ ", found.out) and "measured: 1," in found.out
    bad = dataclasses.replace(good, measured=0.8, why=("measured 0.800 on a grid uniform, proven 2",))
    monkeypatch.setattr(orders, "check", lambda row: bad)
    assert run("verify", "vp_heun").status == 1
    found = run("verify", "vp_heun", "--json")
    assert found.status == 1 and json.loads(found.out)["failed"] == ["vp_heun"]
    assert run("verify").status == 2


def test_the_page_of_orders_has_every_module_and_its_rows_are_reproduced(taken):
    page = (ROOT / "docs" / "orders.md").read_text()
    rows = {line.split(" | ")[0].lstrip("| "): line for line in page.splitlines() if re.match(r"\| \w+_\w+ \|", line)}
    assert sorted(rows) == sorted(row.name for row in catalogue.rows()), "run `make docs`"
    assert page.startswith(orders_page.INTRODUCTION)
    for name in (*ORDERS, *WEAK):
        v = taken(name).check
        told, now = (re.split(r" ?\| ?", line) for line in (rows[name], orders_page.line(v)))
        assert [told[k] for k in (1, 2, 3, 5, 6, 8)] == [now[k] for k in (1, 2, 3, 5, 6, 8)], "run `make docs`"
        assert float(told[4].rstrip("~")) == pytest.approx(v.measured, abs=0.03)
        assert float(told[7]) == pytest.approx(v.constant, rel=0.06)
