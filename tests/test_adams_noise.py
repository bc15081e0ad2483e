"""Noise in the family adams: published samplers are settings of it, its weak order is proven, every row held to balls.

The published formulas stand here as they are printed, for one block in lambda = log(alpha/sigma).
"""

import numpy as np
import pytest
import sympy as sp
import torch

import stepsmith as ss
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure.coefficients import worst_of
from stepsmith.measure.probe import moments
from stepsmith.measure.problems import Gaussian, GaussianMixture
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.sampler import steps_of

TIMES = torch.tensor([0.98, 0.81, 0.6, 0.44, 0.3, 0.21, 0.1, 0.06, 0.015], dtype=torch.float64)
MIXTURE = GaussianMixture([0.4, 0.6], [[0.7, -0.3], [-0.5, 0.8]], [0.2, 0.35])
DDIM = "-log(1 + eta**2*(exp(-2*h) - 1))/(2*h)"


def noisy(order, noise="eta", eta=1.0, frame="x0", clock="log", corrector=False):
    spec = {"name": "own", "family": "adams", "target": "sde", "order": order, "frame": frame, "clock": clock}
    return {"sampler": {**spec, "corrector": corrector, "noise": noise, "params": {"eta": eta}}}


def loaded(method):
    """The module, without what its head says of orders, which takes seconds."""
    vars(method).update(weak_order=None, strong_order=None, why="")
    return ss.load(ss.emit(method, certified=False))


def lambdas(sde, times):
    """alpha, sigma and log(alpha/sigma)."""
    view = ss.load_sde(sde).at()
    alpha = torch.tensor([view.transition(float(t), 0.0)[0, 0] for t in times], dtype=torch.float64)
    sigma = torch.tensor([view.covariance(float(t))[0, 0] for t in times], dtype=torch.float64).sqrt()
    return alpha, sigma, torch.log(alpha / sigma)


def draws():
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(64, 2, dtype=torch.float64, generator=generator) for _ in range(len(TIMES))]


def walked(module):
    """The states after each step of a run with the exact denoiser and fixed draws."""
    first, *noise = draws()
    state, history, states = (first,), (torch.zeros_like(first),) * module.HISTORY, []
    network = lambda inputs, sigma: (MIXTURE.denoiser(inputs[0], sigma),)  # noqa: E731
    table = module.coefficients(TIMES)
    for row, xi, (step, _) in zip(table.unbind(), noise, steps_of(module, len(table)), strict=True):
        state, history = step(state, row.unbind(), network, (xi,), history)
        states.append(state[0])
    return torch.stack(states)


def gap(found, told):
    return ((found - told).abs().amax((1, 2)) / told.abs().amax((1, 2))).max().item()


# -- published samplers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_its_eta_is_order_one_with_that_contraction(eta):
    shipped = ss.derive("vp", "ddim-eta", params={"eta": eta})
    assert gap(walked(loaded(shipped)), walked(loaded(ss.derive("vp", noisy(1, DDIM, eta))))) < 1e-10


def sde_multistep(eta, rule):
    """z' = sigma'/sigma e^(-eta h) z + alpha' rule(h, h of the step before, D, D[-1]) + sigma' sqrt(1 - e^(-2 eta h)) xi."""
    alpha, sigma, lam = lambdas("vp", TIMES)
    z, *noise = draws()
    data, states = [], []
    for i, xi in enumerate(noise):
        h = lam[i + 1] - lam[i]
        data.insert(0, MIXTURE.denoiser(z / alpha[i], sigma[i] / alpha[i]))
        pull, spread = torch.exp(-eta * h), torch.sqrt(-torch.expm1(-2 * eta * h))
        step = rule(h, lam[i] - lam[i - 1] if i else None, data)
        z = sigma[i + 1] / sigma[i] * pull * z + alpha[i + 1] * step + sigma[i + 1] * spread * xi
        states.append(z)
    return torch.stack(states)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_sde_dpm_solver_pp_2m_of_type_heun_is_order_two(eta):
    """k-diffusion's sample_dpmpp_2m_sde, solver_type heun: (1 - (1 - e^-k)/k) (D - D[-1])/r, k = (1 + eta) h."""

    def rule(h, before, data):
        k = (1 + eta) * h
        first = -torch.expm1(-k) * data[0]
        return first if before is None else first + (torch.expm1(-k) / k + 1) * h / before * (data[0] - data[1])

    own = loaded(ss.derive("vp", noisy(2, eta=eta)))
    assert gap(walked(own), sde_multistep(eta, rule)) < 1e-10


def test_sde_dpm_solver_pp_2m_of_type_midpoint_has_half_of_phi_one_for_phi_two():
    """The shipped row: its weight of (D - D[-1])/r is (1 - e^-k)/2, the exact one 1 - (1 - e^-k)/k: apart by k^2/12 + O(k^3)."""
    k = sp.Symbol("k", positive=True)
    exact, shipped = 1 - (1 - sp.exp(-k)) / k, (1 - sp.exp(-k)) / 2
    assert sp.series(exact - shipped, k, 0, 3).removeO() == k**2 / 12
    midpoint = lambda h, before, data: (  # noqa: E731
        -torch.expm1(-2 * h) * data[0]
        + (0 if before is None else -torch.expm1(-2 * h) / 2 * h / before * (data[0] - data[1]))
    )
    assert gap(walked(loaded(ss.derive("vp", "sde-dpmpp-2m"))), sde_multistep(1.0, midpoint)) < 1e-10


@pytest.mark.parametrize(("steps", "tau"), [(1, 1.0), (2, 0.5), (3, 1.0)])
def test_the_corrector_with_noise_is_sa_solver_with_its_integrals_exact(steps, tau):
    """SA-Solver (arXiv 2309.05019, equations 14 to 18): Adams-Bashforth through ``steps`` values, Adams-Moulton through one more,
    b_j = alpha' (1 + tau^2) int e^(-(1 + tau^2)(lambda' - l)) L_j(l) dl, one draw for both.
    """
    alpha, sigma, lam = lambdas("vp", TIMES)
    z, *noise = draws()
    x, w = map(torch.as_tensor, np.polynomial.legendre.leggauss(40))
    x, w = (x + 1) / 2, w / 2

    def moved(z, i, nodes, values, xi):
        h, c = lam[i + 1] - lam[i], 1 + tau**2
        at = lam[i] + h * x
        total = torch.exp(-(tau**2) * h) * sigma[i + 1] / sigma[i] * z
        for j, value in enumerate(values):
            L = torch.ones_like(at)
            for k, node in enumerate(nodes):
                L = L * ((at - node) / (nodes[j] - node)) if k != j else L
            total = total + alpha[i + 1] * c * h * (w * torch.exp(-c * (lam[i + 1] - at)) * L).sum() * value
        return total + sigma[i + 1] * torch.sqrt(-torch.expm1(-2 * tau**2 * h)) * xi

    times, data, states = [lam[0]], [MIXTURE.denoiser(z / alpha[0], sigma[0] / alpha[0])], []
    for i, xi in enumerate(noise):
        p = min(steps, len(data))
        predicted = moved(z, i, times[:p], data[:p], xi)
        states.append(predicted)
        new = MIXTURE.denoiser(predicted / alpha[i + 1], sigma[i + 1] / alpha[i + 1])
        z = moved(z, i, [lam[i + 1], *times[:p]], [new, *data[:p]], xi)
        times, data = [lam[i + 1], *times], [new, *data]
    own = loaded(ss.derive("vp", noisy(steps, "eta**2", tau, corrector=True)))
    assert gap(walked(own), torch.stack(states)) < 1e-10


def test_sa_solver_as_diffusers_ships_it_replaces_its_integrals_by_their_first_terms():
    """Of D - D[-1] in the corrector it has k/2, exact is phi_2's 1 - (1 - e^-k)/k = k/2 - k^2/6 + ..., k = (1 + tau^2) h."""
    k = sp.Symbol("k", positive=True)
    assert sp.series(1 - (1 - sp.exp(-k)) / k, k, 0, 3).removeO() == k / 2 - k**2 / 6


def test_er_sde_is_the_contraction_of_its_function():
    """ER-SDE-Solver-1 (arXiv 2309.06169): z' = alpha' (q z/alpha + (1 - q) D + sqrt(s'^2 - q^2 s^2) xi), q = phi(s')/phi(s),
    s = sigma/alpha; here phi = s (1 + s)."""
    alpha, sigma, _ = lambdas("vp", TIMES)
    z, *noise = draws()
    s, states = sigma / alpha, []
    for i, xi in enumerate(noise):
        q = s[i + 1] * (1 + s[i + 1]) / (s[i] * (1 + s[i]))
        data = MIXTURE.denoiser(z / alpha[i], s[i])
        z = alpha[i + 1] * (q * z / alpha[i] + (1 - q) * data + torch.sqrt(s[i + 1] ** 2 - q**2 * s[i] ** 2) * xi)
        states.append(z)
    own = loaded(ss.derive("vp", noisy(1, "eta*sigma_hat/(1 + sigma_hat)")))
    assert gap(walked(own), torch.stack(states)) < 1e-10


# -- proofs and measurements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sde", "settings", "weak"),
    [
        ("vp", {"order": 1}, 1), ("vp", {"order": 2}, 2), ("psld", {"order": 2, "frame": "gaussian", "clock": "theta"}, 2),
        ("vp", {"order": 1, "noise": DDIM, "eta": 0.5}, 1), ("vp", {"order": 1, "corrector": True}, 1),
        ("vp", {"order": 2, "noise": "eta*sigma_hat/(1 + sigma_hat)"}, 2), ("vp", {"order": 2, "frame": "eps-R"}, 2),
    ],
)  # fmt: skip
def test_the_weak_order_is_proven_for_the_reverse_sde_with_this_eta(sde, settings, weak):
    assert ss.derive(sde, noisy(**settings)).weak_order == weak


@pytest.mark.parametrize(("sde", "eta"), [("vp", 1.0), ("vp", 0.3), ("psld", 1.0), ("psld", 0.4), ("hold", 1.0)])
def test_gaussian_data_keep_their_law_at_every_step_however_long(sde, eta):
    """In the frame of Gaussian data a step is exact on them: z = p mu + L' xi for every eta, five steps or fifty."""
    module = loaded(ss.derive(sde, noisy(2, eta=eta, frame="gaussian", clock="theta")))
    view, times = ss.load_sde(sde).at(), TIMES[:6].tolist()
    e = np.eye(len(module.COMPONENTS))[:, [module.DATA]]
    law = lambda t: view.covariance(t) + 0.25 * (p := view.transition(t, 0.0) @ e) @ p.T  # noqa: E731
    network = Gaussian(0.3, 0.25).network()
    found = moments(module, network, TimeGrid(TIMES[:6]), start_cov=torch.as_tensor(law(times[0])), params={"sigma_data": 0.5})
    for t, cov in zip(times, found.cov, strict=True):
        assert np.abs(cov.numpy() - law(t)).max() < 1e-10 * np.abs(law(t)).max()


@pytest.mark.parametrize(
    ("sde", "settings"),
    [
        ("vp", {"order": 2, "corrector": True}), ("vp", {"order": 2, "frame": "gaussian", "clock": "theta"}),
        ("edm", {"order": 2, "noise": "eta*t/(1 + t)", "frame": "eps-R"}), ("psld", {"order": 2, "corrector": True}),
        ("psld", {"order": 2, "frame": "gaussian", "clock": "theta", "noise": "eta/(1 + sigma_hat)"}),
        ("vp", {"order": 1, "noise": DDIM, "eta": 0.5}),
    ],
)  # fmt: skip
def test_every_row_is_that_of_the_independent_reference(sde, settings):
    method = ss.derive(sde, noisy(**settings))
    times = [method.sde.time[1] * 10 ** (-4 * k / 24) for k in range(25)]
    assert worst_of(method, times, [0, 2, 23], module=loaded(method)).error < 1e-12


# -- the spec ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "ode"}, "the steps draw noise"), ({"noise": 0}, "without noise"), ({"noise": "gamma"}, "gamma"),
        ({"noise": "h"}, "names the step h"), ({"noise": "h", "corrector": False, "frame": "gaussian"}, "names the step h"),
        ({"noise": "0.0"}, "is zero"), ({"noise": -0.5}, "has no value between"), ({"noise": "t - 1/2"}, "at t = 0.25"),
        ({"noise": 1e300}, "has no value between"), ({"noise": "-sigma_hat"}, "has no value between"),
    ],
)  # fmt: skip
def test_a_noise_that_does_not_fit_is_refused(changes, words):
    spec = noisy(2, corrector=True)
    spec["sampler"] |= changes
    with pytest.raises(InputError, match=words):
        ss.derive("vp", spec)


def test_epsilon_of_several_blocks_takes_no_noise():
    with pytest.raises(Unsupported, match="is not derived with noise or a skew drift"):
        ss.derive("psld", noisy(2, frame="eps-R"))


@pytest.mark.parametrize("eta", [1.0, 5.0, 30.0, 1e6])
def test_an_eta_of_several_blocks_keeps_its_digits_or_is_refused(eta):
    method = ss.derive("psld", noisy(2, eta=eta, frame="gaussian", clock="theta"))
    times, module = [0.35, 0.28, 0.2], loaded(method)
    if eta <= 5:
        assert worst_of(method, times, [0, 1], module=module).error < 1e-12
    else:
        with pytest.raises(ValueError, match="the rates are too large"):
            module.coefficients(times)
