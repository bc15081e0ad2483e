"""One network, one law: the probability flow of every diffusion that the bridge drives ends at the same data.

For data N(MEAN, VARIANCE) every run starts from the exact law of z where the effective noise is HIGH and ends where it is LOW.
There the network is asked once more: E[x0 | z_end] has the mean MEAN and the variance VARIANCE^2/(VARIANCE + LOW^2), whatever
the diffusion.  A sampler of order p misses it by O(h^p), so two diffusions differ by no more, and less by 2^-p at half the step.
Exact moments (the affine probe), no Monte Carlo.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import stepsmith as ss
from stepsmith.derive import catalogue
from stepsmith.measure import probe

MEAN, VARIANCE, MU = 0.3, 0.25, -0.4
HIGH, LOW = 2.0, 0.25
FIRST, MOST = 80, 1280  # steps; doubled until the slope settles
LANDED = VARIANCE**2 / (VARIANCE + LOW**2)
NETWORK = ss.problems.Gaussian(MEAN, VARIANCE).network()


def one_call_a_step() -> list[str]:
    """The modules of the catalogue that take the bridge, draw nothing and call it once a step."""
    samplers = {name: ss.load_sampler(name) for name in ss.list_samplers()}
    plain = {name for name, sampler in samplers.items() if (sampler.nfe, sampler.target) == (1, "ode")}
    return [row.name for row in catalogue.rows() if row.network == "denoiser" and row.sampler in plain]


NAMES = one_call_a_step()


@cache
def ends(sde: str) -> tuple[float, float]:
    """The times at which the effective noise is HIGH and LOW."""
    diffusion = ss.load_sde(sde)
    view, (low, high) = diffusion.at(), diffusion.time
    first = low + 1e-6 * (high - low)
    return tuple(  # type: ignore[return-value]
        brentq(lambda time, s=s: math.log(float(view.effective_sigma(time)) / s), first, high, xtol=1e-13) for s in (HIGH, LOW)
    )


@cache
def landed(name: str, steps: int) -> np.ndarray:
    """(mean, variance) of E[x0 | z_end] after so many steps."""
    module = ss.load(name)
    sde = ss.load_sde(module.SDE)
    begin, end = ends(module.SDE)
    view, given = sde.at(), dict.fromkeys(sde.constant, MU)
    psi = view.transition(begin, sde.time[0])[:, sde.data[0]]
    mean = psi * MEAN + view.offset(begin, sde.time[0]) @ np.array([*given.values(), 1.0])
    cov = torch.tensor(view.covariance(begin) + VARIANCE * np.outer(psi, psi))
    grid = ss.TimeGrid.uniform(sde, steps, start=begin, end=end)
    run = probe.moments(module, NETWORK, grid, mean, cov, last="denoise", constants=given)
    return np.array([run.data_mean, run.data_var])


def test_every_diffusion_of_the_bridge_is_there() -> None:
    alone = {"blurring"}  # a noise level a frequency: no scalar denoiser
    assert {ss.load(name).SDE for name in NAMES} == set(ss.list_sdes()) - alone


@pytest.mark.parametrize("name", NAMES)
def test_it_lands_on_the_law_of_the_data_at_its_proven_order(name: str) -> None:
    order = ss.load(name).ORDER
    for moment, wanted in ((0, MEAN), (1, LANDED)):
        steps, slope, fine = FIRST, 0.0, 1.0
        while slope <= order - 0.1 and fine > 1e-11 and steps < MOST:
            coarse, fine = (abs(landed(name, count)[moment] - wanted) for count in (steps, 2 * steps))
            slope, steps = math.log2(max(coarse, 1e-300) / max(fine, 1e-300)), 2 * steps
        assert fine < 1e-11 or slope > order - 0.1, (order, slope, fine)
    assert abs(landed(name, 2 * FIRST)[0] - MEAN) < 0.03 and abs(landed(name, 2 * FIRST)[1] / LANDED - 1) < 0.1


def test_diffusions_agree_with_one_another_beyond_the_error_of_each() -> None:
    """The limits of all runs, by Richardson's extrapolation, are one law to the next order; the runs themselves are not."""
    limits = []
    for name in NAMES:
        gain = 2 ** ss.load(name).ORDER
        limits.append((gain * landed(name, 2 * FIRST) - landed(name, FIRST)) / (gain - 1))
    raw = np.array([landed(name, 2 * FIRST) for name in NAMES])
    spread, narrowed = np.ptp(raw, axis=0), np.ptp(np.array(limits), axis=0)
    assert (spread > 1e-3).all() and (narrowed < spread / 10).all(), (spread, narrowed)
    assert (np.abs(np.array(limits) - (MEAN, LANDED)).max(0) < spread / 10).all()
