"""A name that a user chooses changes nothing, or is refused in one line: one list, derive/spec/words.py."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from typing import Any

import pytest
import sympy as sp
import torch

import stepsmith as ss

TIMES = torch.linspace(1.0, 0.01, 4, dtype=torch.float64)
PLAIN = {
    "name": "own",
    "state": ["x", "m"],
    "F": [["-q1*c1", "q3"], ["-q2", "-q1*c2"]],
    "G": [["sqrt(q1*G1)", "0"], ["0", "sqrt(q1*nu/4)"]],
    "params": {"G1": 0.01, "nu": 4.01, "kap": 0.04, "aa": 8.0, "bb": 8.0},
    "let": {"q1": "aa + t*(bb - aa)", "q2": "q1/2", "q3": "2*q1", "c1": "G1/2", "c2": "nu/2", "start_m": "kap/4"},
    "initial": {"m": "start_m"},
}
WORK = """F G L K Z M P N n p z h law sde rule table rows row like full self_ c state network noise history params times
    lower upper matrix propagate evolve gauss integral tail start step denoise nfe coefficients d e d1 w1 y L0 b GG change
    panels columns data given shape lambda_ Diffusion Law beta g k a rate""".split()  # noqa: SIM905
TAKEN = """s t0 t1 t_m1 alpha sigma offset sigma_data alpha_1 alpha_s time_of log_alpha phi1 skip out inp one skip_0 out_0 sigma_0
    factor_A self torch math smooth START DATA PARAMS""".split()  # noqa: SIM905
TAKEN_BY_A_STEP = "d e y d1 e2 w1 d_end x_new mean mean_of_x".split()  # noqa: SIM905
FREE = [("m", "s"), ("m", "alpha_s")]  # a component stands in no integral
ROLES = ("aa", "nu", "kap", "q1", "q2", "q3", "start_m", "c1", "c2")  # parameters, lets with time, lets without
SAMPLERS = [("rvv", "denoiser"), ("sscs", "denoiser"), ("conjugate-vv", "eps-L")]


def renamed(**names: str) -> dict[str, Any]:
    text = json.dumps(PLAIN)
    for old, new in names.items():
        text = re.sub(rf"\b{old}\b", new, text)
    return json.loads(text)


def run(spec: Any, sampler: Any, network: str) -> list[torch.Tensor]:
    """The table, the factor of the start, a step and the mean of the data."""
    module = ss.load(ss.emit(ss.derive(spec, sampler, network), certified=False))
    table = module.coefficients(TIMES)
    state = tuple(torch.linspace(k, k + 1.0, 3, dtype=torch.float64) for k in range(len(module.COMPONENTS)))
    draws = tuple(torch.full((3,), 0.5 + k, dtype=torch.float64) for k in range(module.DRAWS))

    def ask(inputs: tuple[torch.Tensor, ...], time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(0.1 * torch.tanh(inputs[k % len(inputs)] + time) for k in range(module.OUTPUTS))

    stepped, _ = module.step(state, table[0].unbind(), ask, draws)
    return [table, module.start(1.0), *stepped, *module.denoise(state, table[-1].unbind(), ask)]


@functools.cache
def plain(*sampler: str) -> list[torch.Tensor]:
    return run(PLAIN, *sampler)


def hold(names: dict[str, str], *sampler: str) -> None:
    """The names change nothing."""
    found, wanted = run(renamed(**names), *sampler), plain(*sampler)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", range(0, len(WORK), 3), ids=lambda k: " ".join(WORK[k : k + 3]))
def test_any_other_name_changes_nothing(start: int, sampler: tuple[str, str]) -> None:
    """Nine names at a time, three further on each time: each name is once a parameter, a let with time and a let without."""
    hold(dict(zip(ROLES, (WORK * 2)[start : start + 9], strict=True)), *sampler)


@pytest.mark.parametrize(
    ("role", "name"),
    [(r, name) for r in ("aa", "q1", "start_m", "m") for name in TAKEN if (r, name) not in FREE],
)
def test_a_name_of_the_formulas_is_refused_in_one_line(role: str, name: str) -> None:
    with pytest.raises(ss.InputError, match=r"uses? this name") as refused:
        ss.load_sde(renamed(**{role: name}))
    assert "rename it" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", TAKEN_BY_A_STEP)
def test_a_component_named_like_a_value_of_the_step_is_refused(name: str) -> None:
    with pytest.raises(ss.InputError, match="the emitted step uses this name"):
        ss.load_sde(renamed(m=name))


COMPONENTS = [*(name for name in WORK if name not in TAKEN_BY_A_STEP), "s", "alpha_s"]


@pytest.mark.parametrize("pair", list(zip(COMPONENTS[::2], COMPONENTS[1::2], strict=True)), ids=" ".join)
def test_any_other_component_changes_nothing(pair: tuple[str, str]) -> None:
    hold(dict(zip("xm", pair, strict=True)), "sscs", "denoiser")


@pytest.mark.parametrize("name", ["skip_0", "sigma_data", "START", "self"])
def test_a_parameter_of_a_sampler_is_refused_for_the_same_names(name: str) -> None:
    with pytest.raises(ss.InputError, match=r"uses? this name"):
        ss.load_sampler({"name": "own", "family": "conjugate", "B": name, "params": {name: 1.0}})


def test_the_long_rates_of_a_pair_have_names_that_are_free() -> None:
    """dx = f x dt + sqrt(g2) dw in every text, whatever the user's names are; the numbers are those of the pair."""
    pair = {"name": "own", "state": ["{x}"], "params": {"{a}": 0.5, "{b}": 0.3}}
    pair |= {"alpha": "exp(-{a}*t^2/(1 + t))", "sigma": "t*sqrt(1 + {b}*t)/(1 + t)"}
    tables = []
    for x, a, b, rates in (("x", "a", "b", ("f", "g2")), ("f", "f_", "g2", ("f__", "g2_")), ("g2", "f", "g2__", ("f_", "g2_"))):
        names = {"{x}": x, "{a}": a, "{b}": b}
        spec = json.loads(functools.reduce(lambda text, name: text.replace(name, names[name]), names, json.dumps(pair)))
        text = ss.emit(ss.derive(spec, "euler-maruyama", "denoiser"), certified=False)
        f, g2 = rates
        drift = "*".join(sorted((f, x)))
        assert f"d{x} = {drift} dt + sqrt({g2}) dw" in text and f"with {f} = alpha'/alpha, {g2} = " in text
        assert all(len(line) <= 120 for line in text.splitlines())
        module = ss.load(text)
        tables.append(module.coefficients(TIMES))
        sde, t = module.Diffusion(**module.PARAMS), TIMES.clone().requires_grad_()
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        rate, spread = (torch.autograd.grad(each.sum(), t, retain_graph=True)[0] for each in (alpha.log(), sigma**2))
        torch.testing.assert_close(getattr(sde, f)(t), rate, rtol=1e-13, atol=0)
        torch.testing.assert_close(getattr(sde, g2)(t), spread - 2 * rate * sigma**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(tables[1:], tables[:1] * 2, rtol=1e-14, atol=0)


def test_lets_are_printed_in_the_words_of_those_before_them() -> None:
    """As they were spelled, unless somebody gave them other values since."""
    spec = PLAIN | {"let": {"q1": "aa + t*(bb - aa)", "q2": "q1/2", "q3": "4*q2", "c1": "G1/2", "c2": "nu/2", "start_m": "kap/4"}}
    sde = ss.load_sde(spec)
    assert [str(sde.let_words[name]) for name in ("q2", "q3")] == ["q1/2", "4*q2"]
    text = ss.emit(ss.derive(sde, "rvv", "denoiser"), certified=False)
    assert "with q3 = 4*q2" in text and "q2 = self.q2(t)\n        return 4*q2" in text
    for one, two in zip(run(spec, "rvv", "denoiser"), plain("rvv", "denoiser"), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-13)
    other = dataclasses.replace(sde, let={**sde.let, "q2": sde.let["q1"] / 3})
    assert str(other.let_words["q2"]) == str(other.let["q2"]) and str(other.let_words["q3"]) == str(sde.let["q3"])


def test_what_somebody_spells_in_python_is_held_to_the_grammar() -> None:
    """Text that would vanish from the value of a let, but not from the module."""
    evil = sp.Symbol("__import__('os')", real=True)
    words = sp.Add(sp.Symbol("q1", real=True) / 2, sp.Mul(0, evil, evaluate=False), evaluate=False)
    sde = dataclasses.replace(ss.load_sde(PLAIN), spelled={"q2": words})
    with pytest.raises(ss.InputError, match=r"sde\.let: holds .*which is no name"):
        ss.emit(ss.derive(sde, "rvv", "denoiser"), certified=False)
