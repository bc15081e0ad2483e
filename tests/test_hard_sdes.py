"""Stiff, singular, unstable, defective and noiseless SDEs: the numbers are right, or the SDE is refused by name."""

from __future__ import annotations

import math
import re
import tomllib
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import quad
from scipy.linalg import expm

import stepsmith as ss
from stepsmith.derive.sde import forms
from stepsmith.derive.sde.numeric import NumericSDE
from stepsmith.errors import InputError, Unsupported
from stepsmith.executed import SETTING
from stepsmith.measure.coefficients import worst_of
from stepsmith.runtime import modules
from stepsmith.runtime.sampler import steps_of
from stepsmith.templates import emit

torch.set_num_threads(1)
TIMES = [1.0, 0.5, 0.2, 0.05, 0.01, 1e-3]


def sde(F: Any, G: Any, **rest: Any) -> dict[str, Any]:
    state = list("xmuw"[: len(F)])
    return {"name": "hard", "state": state, "F": F, "G": G, "initial": {b: "0.04" for b in state[1:]}, **rest}


HARD = {
    "defective": sde([["-3", "1"], ["0", "-3"]], [["0"], ["1"]]),
    "nilpotent": sde([["0", "1"], ["0", "0"]], [["0"], ["1"]]),  # no stationary law: an integrated Brownian motion
    "unstable": sde([["1", "2"], ["-1", "0.5"]], [["0", "0"], ["0", "2"]]),
    "saddle": sde([["-2", "0.5"], ["0.3", "1.5"]], [["1", "0"], ["0", "1"]]),
    "one noise for two blocks": sde([["-1", "0.7"], ["-0.4", "-2"]], [["0.5"], ["1"]]),
    "noise on the data alone": sde([["-1", "0.7"], ["-0.4", "-2"]], [["1"], ["0"]]),
    "far beyond exp(-40)": sde([["0", "40"], ["-40", "-80"]], [["0"], ["8"]]),
    "no friction": sde([["0", "3"], ["-3", "0"]], [["0"], ["1"]]),
    "defective, three blocks": sde([["-2", "1", "0"], ["0", "-2", "1"], ["0", "0", "-2"]], [["0"], ["0"], ["1"]]),
    "unstable, does not commute": sde([["0.5", "1"], ["-t", "0.3"]], [["0"], ["1"]]),
}


def worst(spec: dict[str, Any], sampler: str, network: str = "denoiser", times: list[float] = TIMES) -> float:
    return worst_of(ss.derive(spec, sampler, network), times).error


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("sampler", ["conjugate", "euler-maruyama"])
def test_the_coefficients_of_a_hard_sde_are_right(kind: str, sampler: str) -> None:
    assert worst(HARD[kind], sampler) < 1e-12


def test_a_law_that_is_nearly_singular_after_the_start_is_right() -> None:
    spec = sde([["0", "3.08"], ["-2.485", "-1.04"]], [["0"], ["0.86"]]) | {"initial": {"m": "4.16"}}
    assert worst(spec, "conjugate", "eps-U", [0.95, 0.5378, 0.3329, 0.1]) < 1e-12


@pytest.mark.parametrize("kind", [kind for kind in HARD if "commute" not in kind])
def test_the_numeric_view_of_a_hard_sde_is_van_loans_exponential(kind: str) -> None:
    spec, time = HARD[kind], 0.05
    F, G = (np.array(spec[key], dtype=np.float64) for key in "FG")
    n = len(F)
    E = expm(time * np.block([[F, G @ G.T], [np.zeros((n, n)), -F.T]]))
    psi = E[:n, :n]
    start = np.diag([0.0, *[0.04] * (n - 1)])
    view = ss.load_sde(spec).at()
    assert view.transition(time, 0.0) == pytest.approx(psi, rel=1e-11, abs=1e-13)
    assert view.covariance(time) == pytest.approx(E[:n, n:] @ psi.T + psi @ start @ psi.T, rel=1e-8, abs=1e-13)


STIFF = sde([["0", "1"], ["-1", "-1000000"]], [["0"], ["1000"]])


def test_rates_a_million_apart_are_refused_by_name() -> None:
    method = ss.derive(STIFF, "conjugate")
    with pytest.raises(Unsupported, match=r"no certificate.*the rates are too large for their time span"):
        ss.emit(method)
    module = ss.load(ss.emit(method, certified=False))
    with pytest.raises(ValueError, match="the rates are too large for their time span: shorten it"):
        module.coefficients(torch.tensor(TIMES, dtype=torch.float64))
    with pytest.raises(Unsupported, match="too large, or too far apart"):
        ss.load_sde(STIFF).at().covariance(1.0)


def test_a_fast_block_that_stands_alone_is_right() -> None:
    """A rate of a million over a hundred of its times: closed forms, no panels."""
    one = {"name": "fast", "state": ["x"], "F": [["-1000000"]], "G": [["1000"]], "time": [0.0, 1e-4]}
    times = [1e-4, 3e-5, 5e-6, 1e-6, 1e-7]
    assert max(worst(one, sampler, times=times) for sampler in ("euler-maruyama", "conjugate")) < 1e-12


def test_an_sde_without_noise_is_refused() -> None:
    with pytest.raises((InputError, Unsupported), match=re.compile("noise", re.I)):
        ss.derive(sde([["-1", "0"], ["0", "-1"]], [["0"], ["0"]]), "conjugate")


def test_noise_that_never_reaches_a_block_is_refused() -> None:
    """The data block is moved by nothing random: Sigma is singular at every time and there is no score."""
    alone = sde([["-1", "0"], ["0.5", "-1"]], [["0"], ["1"]])
    with pytest.raises((InputError, Unsupported), match=re.compile("noise", re.I)):
        ss.derive(alone, "conjugate")


@pytest.mark.parametrize(
    "entry",
    [
        "-1/(0.4 - t)", "-1/(0.4 - t)^2", "-1/sqrt(abs(t - 0.4))", "-tan(t*pi/0.8)", "-abs(t - 0.3)", "-sqrt(1 - cos(20*t))",
        "-1 - cos(1e6*t)", "sqrt((t - 0.3)*(t - 0.45))",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["F", "G", "offset"])
def test_an_entry_that_is_not_smooth_in_the_span_is_refused(place: str, entry: str) -> None:
    """A pole or a kink between the nodes of a rule gave a finite table that was wrong, and a Taylor series passed over it."""
    spec = sde([["-1", "0"], ["0", "-2"]], [["1"], ["1"]], offset=["1", "1"])
    spec[place] = [entry, "1"] if place == "offset" else [[entry, "0"], ["0", "-2"]] if place == "F" else [[entry], ["1"]]
    with pytest.raises(InputError, match=r"not smooth near t = 0|has no real finite value"):
        ss.load_sde(spec)


def test_entries_that_are_singular_at_an_end_of_the_span_are_left_to_it() -> None:
    pole = {"name": "pole", "state": ["x"], "F": [["-1/t"]], "G": [["1"]]}
    with pytest.raises(Unsupported, match=r"the entry -1/t of F, G G\^T or offset has no Taylor series at t = 0"):
        ss.load_sde(pole).at().covariance(0.8)
    root = {"name": "root", "state": ["x"], "F": [["-t**(1/3)"]], "G": [["1"]]}
    with pytest.raises(Unsupported, match=r"the entry -t\*\*\(1/3\) of F, .* has no Taylor series at t = 0"):
        ss.emit(ss.derive(root, "ddim"))
    with pytest.raises(InputError, match=r"sde\.F\[0\]\[0\]: has no finite integral from the start of the span"):
        ss.emit(ss.derive(pole, "conjugate"))
    with pytest.raises(InputError, match="has no real finite value"):
        ss.load_sde({**pole, "F": [["-1/(0.5 - t)"]]})
    bridge = {"name": "bridge", "state": ["x"], "F": [["-1/(1 - t)"]], "G": [["sqrt(2*t/(1 - t))"]]}
    assert ss.load_sde(bridge).at().transition(0.5, 0.0)[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("F", "G"),
    [
        ("-(1 + 60*t)", "1"), ("-(1 + 200*t)", "1"), ("-201 + 200*t", "1"), ("-1 - cos(60*t)", "1"),
        ("-1 - 60*cos(60*t)", "1"), ("-1", "2 + cos(400*t)"), ("-1", "1/(1 + 1000*(t - 0.4)^2)"), ("0.1*cos(300*t^2)", "1"),
    ],
)  # fmt: skip
def test_a_fast_change_gets_as_many_panels_as_it_needs(F: str, G: str) -> None:
    """Two panels gave them a table that was off by up to a tenth, without a word."""
    spec = {"name": "fast", "state": ["x"], "F": [[F]], "G": [[G]]}
    assert max(worst(spec, sampler) for sampler in ("euler-maruyama", "conjugate")) < 1e-12


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "fast", "state": ["x"], "F": [["-log(t)"]], "G": [["1"]]},
        {"name": "fast", "state": ["x"], "F": [["-1"]], "G": [["1/sqrt(t)"]]},
        {"name": "fast", "state": ["x"], "F": [["-1 - 9000*cos(9000*t)"]], "G": [["1"]]},
        sde([["0", "1"], ["-1-cos(9000*t)", "-2"]], [["0"], ["1"]]),
    ],
)
def test_what_no_panels_hold_is_refused_by_name(spec: dict[str, Any]) -> None:
    """When it is read, derived or emitted, or at the call whose parameters ask for it."""
    with pytest.raises((InputError, Unsupported, ValueError), match=r"too fast|no finite value|not smooth|no Taylor series"):
        ss.load(ss.emit(ss.derive(spec, "euler-maruyama"), certified=False)).coefficients([1.0, 0.3, 0.01])


@pytest.mark.parametrize("G", ["1e70", "1e200", "1e-20", "1e-170"])
def test_noise_beyond_all_scales_is_refused(G: str) -> None:
    """Its square is no number that a zero, or an infinity, can be told from: emission failed, or the module named inf."""
    with pytest.raises(InputError, match="rescale the state or the time"):
        ss.load_sde(sde([["0", "1"], ["-1", "-1"]], [["0"], [G]]))


def test_a_law_that_a_part_on_a_clock_of_its_own_keeps_is_stationary() -> None:
    """F S + S F^T + G G^T = 0 with S = diag(1, 4): the turning part keeps S, whatever its clock."""
    spec = sde([["-2", "t"], ["-4*t", "-1"]], [["2", "0"], ["0", "sqrt(8)"]])
    assert ss.load_sde(spec).stationary() == sp.diag(1, 4)



@pytest.mark.parametrize(
    "F", [[["400"]], [["1", "0"], ["0", "0.5"]], [["1", "2"], ["-1", "-0.5"]], [["-2", "0.5"], ["0.3", "1.5"]]]
)
def test_an_unstable_sde_has_no_stationary_law(F: list[list[str]]) -> None:
    """Lyapunov's equation has a solution there, but it is no covariance."""
    one = [["1" if i == j else "0" for j in range(len(F))] for i in range(len(F))]
    with pytest.raises(Unsupported, match="has no stationary law"):
        ss.load_sde(sde(F, one)).stationary()


def test_numeric_views_tell_what_they_cannot_tell() -> None:
    """A singular covariance raised ZeroDivisionError, one beyond float64 came back as inf or nan."""
    zero = ss.load_sde(sde([["-1", "0"], ["0", "-1"]], [["0"], ["0"]], initial={"m": "0"})).at()
    wild = ss.load_sde(sde([["700", "1"], ["0", "700"]], [["1", "0"], ["0", "1"]])).at()
    for call in (
        lambda: zero.effective_sigma(0.5), lambda: zero.factor(0.5, "gddim"), lambda: wild.covariance(1.0),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match="cannot be computed"):
            call()
    with pytest.raises(InputError, match="outside the span"):
        zero.covariance(7.0)


PULSE = "(tanh((t - 0.61803398)/{width}) - tanh((t - 0.61803398)/{width} - 2))"


@pytest.mark.parametrize("width", ["1e-4", "1e-5", "1e-8"])
@pytest.mark.parametrize(("key", "F", "G"), [("F", "-1 - {pulse}", "1"), ("G", "-1", "sqrt(1 + 0.2*{pulse})")])
def test_a_change_between_all_nodes_is_found_by_bounds(key: str, F: str, G: str, width: str) -> None:
    pulse = PULSE.format(width=width)
    with pytest.raises(InputError, match=rf"sde\.{key}\[0\].*is not smooth near t = 0\.618"):
        ss.load_sde(sde([[F.format(pulse=pulse)]], [[G.format(pulse=pulse)]]))


@pytest.mark.parametrize("steepness", [90, 150])
def test_balls_follow_a_change_that_begins_behind_the_last_terms_of_a_series(steepness: int) -> None:
    spec = sde([[f"-1 - tanh({steepness}*(t - 0.61803398))"]], [["1"]])
    short, long = (NumericSDE(ss.load_sde(spec), {}, **setting) for setting in (SETTING, {}))
    for time in (0.6, 0.77, 1.0):
        assert short.covariance(time) == pytest.approx(long.covariance(time), rel=1e-14)
    assert ss.certify(ss.derive(spec, "conjugate"))


@pytest.mark.parametrize(("F", "G"), [("0", "exp(t)"), ("-20*exp(-20*t)", "exp(-10*t)"), ("-sin(t) - 1", "sqrt(sin(t) + 1)")])
@pytest.mark.parametrize("sampler", ["euler", "conjugate"])
def test_a_diffusion_without_parameters_has_a_module(F: str, G: str, sampler: str) -> None:
    module = ss.load(ss.emit(ss.derive(sde([[F]], [[G]]), sampler)))
    exact = ss.load_sde(sde([[F]], [[G]])).at().covariance(0.7)
    assert (module.start(0.7) ** 2).item() == pytest.approx(exact.item(), rel=1e-12)


@pytest.mark.parametrize("word", ["asin", "acos", "atan"])
def test_an_inverse_function_is_derived(word: str) -> None:
    assert ss.derive(sde([[f"-1 - {word}(t/2)", "1"], ["-1", "-2"]], [["0"], [f"1 + {word}(t/2)"]]), "euler").order == 1
    assert worst(sde([[f"-1 - {word}(t/2)"]], [["1"]]), "dpmpp-2m") < 1e-12


TURNED = [["0", "-f", "0"], ["f", "0", "-2*f"], ["0", "2*f", "-3*f"]]
SOLVED = {"sampler": {
    "name": "solved", "family": "splitting", "target": "sde", "composition": "A S! A",
    "parts": {
        "A": {"linear": TURNED, "noise": "all", "solve": "exact"},
        "S": {"linear": "rest", "score": "all", "solve": "euler"},
    },
}}  # fmt: skip


@pytest.mark.parametrize("f", ["1", "t**2", "1 - 3*t", "low + t*(high - low)"])
@pytest.mark.parametrize("lowest", [1e-6, 0.3])
@pytest.mark.parametrize("sampler", ["rvv", SOLVED], ids=["rvv", "parts that are solved"])
def test_exponentials_and_short_pieces_give_the_same_tables(
    f: str, lowest: float, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The law of F = f(t) A, and parts that are solved exactly: by exponentials, and by short pieces as any other is."""
    spec = {
        "name": "scaled", "state": ["x", "v", "w"], "params": {"low": 2.0, "high": 9.0}, "let": {"f": f},
        "F": [["0", "f", "0"], ["-f", "0", "2*f"], ["0", "-2*f", "-3*f"]], "G": [["0", "0"], ["1", "0"], ["0", "sqrt(2 + t)"]],
        "initial": {"v": "0.1", "w": "0.2"},
    }  # fmt: skip
    method = ss.derive(spec, sampler)
    closed = emit(method)
    monkeypatch.setattr(forms, "scaled", lambda sde: None)
    pieces = emit(method)
    assert "def exponential(" in closed and "def prefix_products(" in pieces and "def exponential(" not in pieces
    assert all(("def noise_factor(" in closed, "def spread(" in pieces)) == (sampler is SOLVED)
    for times in ([1.0, lowest], [1.0 - (1 - lowest) * (k / 30) ** 0.5 for k in range(31)]):
        one, other = (modules.from_text(text) for text in (closed, pieces))
        table, same = one.coefficients(times), other.coefficients(times)
        torch.testing.assert_close(table, same, rtol=1e-9, atol=1e-12 * table.abs().max().item())
        torch.testing.assert_close(one.start(times[0]), other.start(times[0]), rtol=1e-11, atol=1e-13)
        pair = (module.transition(times[0], times[-1]) for module in (one, other))
        torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-13)


RATES = [
    ("growing", "k", {"k": 0.5}, {"k": -0.5}),
    ("zero", "-k/2", {"k": 0.0}, {"k": 0.7}),
    ("turning", "-k", {"k": 0.5}, {"k": -0.5}),
]


@pytest.mark.parametrize("sampler", ["oso", "adams-3", "sa-solver", "euler-maruyama"])
@pytest.mark.parametrize(("F", "params", "other"), [rates[1:] for rates in RATES], ids=[rates[0] for rates in RATES])
def test_a_rate_may_have_any_sign_and_be_zero(F: str, params: dict[str, float], other: dict[str, float], sampler: str) -> None:
    """The law of a part that is solved exactly is that of its linear equation, whatever the sign of the rate."""
    module = ss.load(ss.emit(ss.derive(sde([[F]], [["1"]], params=params), sampler)))
    assert max(module.ORDER or 0, module.WEAK_ORDER or 0) >= 1
    for values in (params, {**params, **other}):
        written = F.replace("k", str(values["k"]))  # the rate as a number in the spec
        plain = ss.load(ss.emit(ss.derive(sde([[written]], [["1"]]), sampler), certified=False))
        torch.testing.assert_close(walked(module, values), walked(plain, {}), rtol=1e-11, atol=1e-12)


def walked(module: Any, params: dict[str, float]) -> torch.Tensor:
    """The state after each step from 1, with a network and draws that say little."""
    one = torch.ones(1, dtype=torch.float64)
    x, history, states = (one,), (0 * one,) * module.HISTORY, []
    table = module.coefficients(torch.tensor(TIMES, dtype=torch.float64), **params)
    for row, (step, _) in zip(table, steps_of(module, len(table)), strict=True):
        network = lambda y, sigma: (torch.tanh(y[0]) / (1 + sigma),)  # noqa: E731
        x, history = step(x, row.unbind(), network, (0.3 * one,) * module.DRAWS, history)
        states += x
    return torch.cat(states)


@pytest.mark.parametrize("sampler", ["roba", "baoab", "oso"])
def test_a_part_that_grows_is_solved_too(sampler: str) -> None:
    spec = sde([["k", "2"], ["-2", "-3"]], [["1", "0"], ["0", "1"]], params={"k": 0.5})
    assert ss.load(ss.emit(ss.derive(spec, sampler))).WEAK_ORDER >= 1


@pytest.mark.parametrize(
    "F", [[["-1", "2"], ["-2", "-1 - t"]], [["-g", "2"], ["-2", "-1"]]], ids=["a law that changes", "a rate that is zero"]
)
def test_a_clock_of_the_noise_is_that_of_a_row_solved_by_itself(F: list[list[str]]) -> None:
    """lambda_s times the time: the noise of dz = c k z dt + c^(1/2) g dw, and at its default the composition without a clock."""
    spec = sde(F, [["3/10", "0"], ["0", "1"]], params={"g": 0.0})
    one, two = (ss.load(ss.emit(ss.derive(spec, sampler))) for sampler in ("roba", "O B! A"))
    grid = torch.tensor([1.0, 0.6, 0.3, 0.1], dtype=torch.float64)
    assert torch.equal(one.coefficients(grid), two.coefficients(grid))
    variance = lambda c: c if "g" in F[0][0] else -math.expm1(-2 * c * 0.4)  # noqa: E731  up to a factor
    for c in (0.5, 2.0):
        ratio = (one.coefficients(grid, lambda_s=c) / one.coefficients(grid))[0, one.COEFFICIENTS.index("x_w1")]
        assert ratio.item() ** 2 == pytest.approx(variance(c) / variance(1.0), rel=1e-12)


def test_a_clock_of_the_noise_that_changes_with_time_is_integrated() -> None:
    """The variance is int exp(-2 k int c) c dt: with c = 1 + t between 0.6 and 1, against scipy."""
    spec = tomllib.loads(files("stepsmith.derive").joinpath("specs/sampler/roba.toml").read_text())
    spec["sampler"]["parts"]["O"]["noise_clock"]["data"] = "1 + (lambda_s - 1)*t"
    module, k, grid = ss.load(ss.emit(ss.derive("psld", spec))), 0.04, [1.0, 0.6, 0.3]
    column = module.COEFFICIENTS.index("x_w1")
    ratio = (module.coefficients(grid, lambda_s=2.0) / module.coefficients(grid))[0, column].item() ** 2
    known = lambda c, C: quad(lambda t: math.exp(-2 * k * C(t)) * c(t), 0.6, 1.0, epsabs=1e-14)[0]  # noqa: E731
    wanted = known(lambda t: 1 + t, lambda t: t - 0.6 + (t**2 - 0.36) / 2) / known(lambda t: 1.0, lambda t: t - 0.6)
    assert ratio == pytest.approx(wanted, rel=1e-11)


def test_a_chain_of_four_blocks_that_is_noised_at_its_end_has_its_orders() -> None:
    F = [["0", "2", "0", "0"], ["-2", "0", "3", "0"], ["0", "-3", "0", "3"], ["0", "0", "-3", "-4"]]
    chain = sde(F, [["0"], ["0"], ["0"], ["sqrt(8)"]], initial={b: "1" for b in "muw"})
    own = {"name": "own", "family": "adams", "order": 1, "target": "sde", "noise": 1, "frame": "x0"}
    assert ss.derive(chain, "sscs").strong_order == 1
    assert [ss.derive(chain, sampler).weak_order for sampler in ("sscs", own)] == [1, 1]
