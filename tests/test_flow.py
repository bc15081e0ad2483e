"""Flow models: networks of kind ``flow``, runs from alpha = 0, and diffusions that take times beyond their span."""

import mpmath
import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure.problems import GaussianMixture

FLOW = "rectified-flow"
MIXTURE = GaussianMixture([0.4, 0.6], [[0.7, -0.3], [-0.5, 0.8]], [0.2, 0.35])
BOTH_ENDS = torch.tensor([1.0, 0.83, 0.61, 0.4, 0.22, 0.06], dtype=torch.float64)


def module_of(sde, sampler, network):
    return ss.load(ss.emit(ss.derive(sde, sampler, network), certified=False))


def velocity(inputs, time):
    """E[eps - x0 | x], also at t = 1, where x = eps says nothing of the data."""
    (x,), t = inputs, float(time)
    data = MIXTURE.denoiser(x / (1 - t), torch.tensor(t / (1 - t))) if t < 1 else (MIXTURE.weights @ MIXTURE.means).expand_as(x)
    return ((x - data) / t,)


def data(inputs, time):
    return (inputs[0] - float(time) * velocity(inputs, time)[0],)


def run(module, network, times):
    x = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state, history = (x,), (torch.zeros_like(x),) * module.HISTORY
    table = module.coefficients(times)
    for row in table:
        state, history = module.step(state, row.unbind(), network, (), history)
    return torch.stack((state[0], module.denoise(state, table[-1].unbind(), network)[0]))


def test_the_euler_step_of_a_flow_is_the_conjugate_step_in_its_frame():
    table = module_of(FLOW, "conjugate", "flow").coefficients(BOTH_ENDS)
    assert torch.equal(table[:, 0], BOTH_ENDS[:-1])
    assert torch.equal(table[:, 1], BOTH_ENDS[1:] - BOTH_ENDS[:-1])


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "adams-2", "adams-3", "adams-3-gaussian"])
def test_a_velocity_gives_the_run_of_the_data_that_it_means_from_alpha_0_on(sampler):
    found = run(module_of(FLOW, sampler, "flow"), velocity, BOTH_ENDS)
    told = run(module_of(FLOW, sampler, "x0"), data, BOTH_ENDS)
    assert (found - told).abs().max() < 1e-13


def test_a_flow_of_two_blocks_gives_the_run_of_the_score_that_it_means():
    sde = ss.load_sde("psld")
    view, times = sde.at(), torch.linspace(0.9, 0.05, 7, dtype=torch.float64)
    ends = []
    for kind in ("flow", "score"):
        module, network = module_of(sde, "rvv", kind), MIXTURE.score_network(kind, view)
        state = tuple(torch.randn(2, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
        for row in module.coefficients(times):
            state, _ = module.step(state, row.unbind(), network)
        ends.append(torch.stack(state))
    assert (ends[0] - ends[1]).abs().max() < 1e-11 * ends[1].abs().max()


@pytest.mark.parametrize("sampler", ["adams-2", "adams-3"])
def test_the_first_rows_from_alpha_0_are_the_limit_of_those_from_ever_smaller_alpha(sampler):
    """A first step of length H in log-SNR: the table goes to that of alpha = 0 like 1/H."""
    module = module_of(FLOW, sampler, "x0")
    limit = module.coefficients(BOTH_ENDS)
    gaps = []
    for alpha in (1e-15, 1e-7):
        near = module.coefficients(torch.cat((torch.tensor([1 - alpha], dtype=torch.float64), BOTH_ENDS[1:])))
        gaps.append((near - limit)[1:4].abs().max().item() * -mpmath.log(alpha))
    assert gaps[0] == pytest.approx(gaps[1], rel=0.2) and gaps[0] < 1


def test_the_corrected_second_row_from_alpha_0_takes_the_new_value_for_all_of_the_step():
    module = module_of(FLOW, "adams-2", "x0")
    names, (_, row, *_) = module.COEFFICIENTS, module.coefficients(BOTH_ENDS)
    c = dict(zip(names, row.tolist(), strict=True))
    t0, t1 = BOTH_ENDS[1:3].tolist()
    # z = t0 x_T + (1 - t0) d_m1 becomes t0 x_T + (1 - t0) d, and goes on to t1 with d alone.
    assert c["x_x"] == pytest.approx(t1 / t0, rel=1e-14)
    assert c["x_d_m1"] == pytest.approx(-t1 / t0 * (1 - t0), rel=1e-14)
    assert c["x_d"] == pytest.approx(t1 / t0 * (1 - t0) + (1 - t1) - t1 / t0 * (1 - t0), rel=1e-14)


@pytest.mark.parametrize("network", ["denoiser", "eps-L"])
def test_what_has_no_value_at_alpha_0_is_refused(network):
    with pytest.raises(ValueError, match="float64 does not hold a coefficient"):
        module_of(FLOW, "adams-2", network).coefficients(BOTH_ENDS)


def test_open_diffusions_take_the_sigmas_of_their_users():
    sigmas = [157.407, 80.0, 3.0, 0.02]
    assert ss.TimeGrid.sigmas(ss.load_sde("edm"), sigmas).times.tolist() == pytest.approx(sigmas, rel=1e-15)
    for name, first in (("ve", 157.407), (FLOW, 5000.0)):
        sde, sigmas = ss.load_sde(name), [first, 80.0, 3.0, 0.02]
        times = ss.TimeGrid.sigmas(sde, sigmas).times
        assert sde.at().effective_sigma(times.numpy()) == pytest.approx(sigmas, rel=1e-12)
        module = module_of(sde, "conjugate", "denoiser")
        column = module.COEFFICIENTS.index(module.SIGMA_COLUMNS[0])
        assert times[0] > sde.time[1] and module.coefficients(times)[:, column].tolist() == pytest.approx(sigmas[:-1], rel=1e-12)


def test_a_span_that_is_not_open_ends_where_it_ends():
    with pytest.raises(InputError, match="is not in it"):
        ss.TimeGrid.sigmas(ss.load_sde("vp"), [157.407, 1000.0][::-1])
    with pytest.raises(ValueError, match="within"):
        module_of("vp", "conjugate", "denoiser").coefficients(torch.tensor([1.1, 0.5]))
    with pytest.raises(InputError, match="neither true nor false"):
        ss.load_sde({"sde": {"name": "own", "state": ["x"], "alpha": "1", "sigma": "t", "open": "yes"}})


def test_a_velocity_that_says_nothing_of_the_score_is_refused():
    with pytest.raises(Unsupported, match="does not give its score"):
        ss.derive("cld", "rvv", "flow")
    with pytest.raises(Unsupported, match="does not give its score"):
        ss.derive("ir-sde", "conjugate", "flow")
