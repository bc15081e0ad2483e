"""The skew drift of the family adams: several blocks move what the denoiser sees as one block does."""

import numpy as np
import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import orders, slopes
from stepsmith.measure.coefficients import worst_of
from stepsmith.measure.flow import Law, transport
from stepsmith.measure.problems import GaussianMixture

MIXTURE = GaussianMixture([0.4, 0.6], [[0.7, -0.3], [-0.5, 0.8]], [0.2, 0.35])


def skewed(order, frame="gaussian", clock="theta", corrector=True, **more):
    spec = {"name": "own", "family": "adams", "order": order, "frame": frame, "clock": clock, "corrector": corrector}
    return {"sampler": {**spec, "skew": True, **more}}


def loaded(method):
    """The module, without what its head says of orders, which takes seconds."""
    vars(method).update(order=None, step_order=None, local_error=None, weak_order=None, strong_order=None, why="")
    return ss.load(ss.emit(method, certified=False))


def seen(law, t, z):
    """y and the effective sigma of some states at t."""
    p = law.transition(t, 0.0)[:, law.sde.data[0]]
    w = np.linalg.solve(law.covariance(t), p)
    return torch.tensordot(torch.from_numpy(w / (w @ p)), z, 1), float(w @ p) ** -0.5


@pytest.mark.parametrize("sde", ["psld", "hold"])
def test_what_the_denoiser_sees_follows_the_flow_of_one_block_and_without_the_skew_drift_it_does_not(sde):
    view = ss.load_sde(sde).at()
    law, z = Law.of(view, 0.3, 0.5, ("lower",)), torch.randn(len(view.sde.state), 16, 2, dtype=torch.float64)
    score = MIXTURE.score_network("score", law)
    (y, first), one = seen(law, 0.5, z), ss.load_sde("edm").at()
    scalar = Law.of(one, seen(law, 0.3, z)[1], first, ("lower",))  # alpha = 1, sigma = t
    exact = transport(scalar, MIXTURE.score_network("score", scalar), y[None])[0]
    ends = [seen(law, 0.3, transport(law, score, z, skew=skew))[0] for skew in (True, False)]
    assert (ends[0] - exact).abs().max() < 1e-9 and (ends[1] - exact).abs().max() > 1e-3


@pytest.mark.parametrize(("sde", "frame", "clock"), [("psld", "x0", "log"), ("cld", "gaussian", "theta")])
def test_the_order_is_proven_against_the_flow_with_the_skew_drift_and_measured(sde, frame, clock):
    method = ss.derive(sde, skewed(2, frame, clock))
    assert (method.step_order, method.order) == (3, 3)
    assert all(term.power == 4 and term.coefficient != 0 for term in method.local_error)
    own = loaded(ss.derive(sde, skewed(2, frame, clock)))
    assert own.SKEW and slopes.measure(own, orders.reference(method.sde), "uniform").value > 3 - 0.1


@pytest.mark.parametrize(("sde", "settings"), [("psld", {}), ("cld", {"target": "sde", "noise": "0.5"})])
def test_every_row_is_that_of_the_independent_reference(sde, settings):
    method = ss.derive(sde, skewed(2, **settings))
    times = [method.sde.time[1] * 10 ** (-4 * k / 24) for k in range(25)]
    assert worst_of(method, times, [1, 23], module=loaded(method)).error < 1e-12


def test_noise_and_a_skew_drift_have_a_weak_order_together():
    assert ss.derive("cld", skewed(1, corrector=False, target="sde", noise="0.5")).weak_order == 1


def test_one_block_and_epsilon_have_no_skew_drift_and_it_is_true_or_false():
    with pytest.raises(Unsupported, match="of one block is zero"):
        ss.derive("vp", skewed(2))
    with pytest.raises(Unsupported, match="noise or a skew drift"):
        ss.derive("psld", skewed(2, "eps-R", "log"))
    with pytest.raises(InputError, match="neither true nor false"):
        ss.derive("psld", skewed(2) | {"sampler": {**skewed(2)["sampler"], "skew": 1}})
