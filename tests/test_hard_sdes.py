"""Stiff, singular, unstable, defective and noiseless SDEs: the numbers are right, or the SDE is refused by name."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import expm

import stepsmith as ss
from stepsmith.derive import reference
from stepsmith.errors import InputError, Unsupported
from stepsmith.templates.render import columns_of_row

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
    method = ss.derive(spec, sampler, network)
    table = ss.load(ss.emit(method)).coefficients(torch.tensor(times, dtype=torch.float64)).tolist()
    columns = functools.partial(columns_of_row, method, len(times) - 1)
    return reference.worst(method, columns, times, table, range(len(times) - 1)).measured


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("sampler", ["conjugate", "euler-maruyama"])
def test_the_coefficients_of_a_hard_sde_are_right(kind: str, sampler: str) -> None:
    assert worst(HARD[kind], sampler) < 1e-13


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
    module = ss.load(ss.emit(method))
    with pytest.raises(ValueError, match="too stiff: shorten the span"):
        module.coefficients(torch.tensor(TIMES, dtype=torch.float64))
    with pytest.raises(Unsupported, match="too large, or too far apart"):
        ss.load_sde(STIFF).at().covariance(1.0)


def test_a_fast_block_that_stands_alone_is_right() -> None:
    """A rate of a million over a hundred of its times: closed forms, no panels."""
    one = {"name": "fast", "state": ["x"], "F": [["-1000000"]], "G": [["1000"]], "time": [0.0, 1e-4]}
    times = [1e-4, 3e-5, 5e-6, 1e-6, 1e-7]
    assert max(worst(one, sampler, times=times) for sampler in ("euler-maruyama", "conjugate")) < 1e-13


def test_an_sde_without_noise_is_refused() -> None:
    with pytest.raises((InputError, Unsupported), match=re.compile("noise", re.I)):
        ss.derive(sde([["-1", "0"], ["0", "-1"]], [["0"], ["0"]]), "conjugate")


def test_noise_that_never_reaches_a_block_is_refused() -> None:
    """The data block is moved by nothing random: Sigma is singular at every time and there is no score."""
    alone = sde([["-1", "0"], ["0.5", "-1"]], [["0"], ["1"]])
    with pytest.raises((InputError, Unsupported), match=re.compile("noise", re.I)):
        ss.derive(alone, "conjugate")


def test_entries_that_are_singular_in_the_span_are_refused() -> None:
    pole = {"name": "pole", "state": ["x"], "F": [["-1/(0.4 - t)"]], "G": [["1"]]}
    with pytest.raises(Unsupported, match="singular"):
        ss.load_sde(pole).at().covariance(0.8)
    with pytest.raises(InputError, match="has no real finite value"):
        ss.load_sde({**pole, "F": [["-1/(0.5 - t)"]]})
