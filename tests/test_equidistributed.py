"""Grids on which the steps err alike: the one that is known for Euler's step, better ones on a network, refusals."""

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.measure.choosing import Error
from stepsmith.measure.problems import GaussianMixture

DATA = GaussianMixture([1.0], [[0.0, 0.0]], [0.5])
UNSEEN = range(1000, 1032)  # seeds


def error(module, grid, network, truth):
    return Error.of(ss.sample(module, network, grid, UNSEEN, dtype=torch.float64), truth).loss


def test_on_gaussian_data_the_steps_of_euler_are_even_in_the_angle_of_sigma():
    sde = ss.load_sde("edm")
    grid = ss.equidistributed("edm_conjugate", DATA.network(), sde, 16, shape=(2,))
    angles = torch.atan(torch.from_numpy(sde.at().effective_sigma(grid.times.numpy())) / 0.5)
    steps = -angles.diff()
    assert grid.steps == 16 and (steps / steps.mean() - 1).abs().max() < 0.1


@pytest.mark.parametrize(("name", "steps"), [("vp_adams_3", 20), ("psld_rvv2", 10), ("vp_ddim", 6)])
def test_on_a_trained_network_unseen_paths_end_closer_than_on_the_common_grids(name, steps):
    module, sde, network = ss.load(name), ss.load_sde(name.split("_")[0]), ss.networks.load("digits")
    start = 0.9 if sde.name == "vp" else 0.6
    fine = ss.TimeGrid.logsnr(sde, 80, start)
    truth = ss.sample(module, network, fine, UNSEEN, dtype=torch.float64)
    grid = ss.equidistributed(module, network, sde, steps, start=start)
    common = [getattr(ss.TimeGrid, kind)(sde, steps, start) for kind in ("logsnr", "edm", "quadratic")]
    errors = [error(module, each, network, truth) for each in (grid, *common)]
    assert errors[0] < 0.9 * min(errors[1:])
    assert torch.equal(grid.times[[0, -1]], fine.times[[0, -1]])


TWO = GaussianMixture([0.4, 0.6], [[1.0, 0.2], [-1.0, 0.5]], [0.3, 0.5])


@pytest.mark.parametrize("name", ["vp_unipc_2", "vp_unipc_3"])
def test_a_network_that_is_called_where_the_step_leads_is_called_for_every_step(name):
    """UniPC asks at the predicted state, another one for every end of a step."""
    grid = ss.equidistributed(name, TWO.network(), "vp", 8, seeds=range(16), shape=(2,))
    sample = lambda module, grid: ss.sample(module, TWO.network(), grid, UNSEEN, dtype=torch.float64)  # noqa: E731
    truth = sample("vp_adams_3", ss.TimeGrid.logsnr("vp", 200))
    assert Error.of(sample(name, grid), truth).loss < 0.4 * Error.of(sample(name, ss.TimeGrid.logsnr("vp", 8)), truth).loss


def test_the_paths_start_at_the_parameters_that_are_asked_for():
    params = {"sigma_max": 2.0}
    grid = ss.equidistributed("ve_conjugate", DATA.network(), "ve", 16, seeds=range(64), shape=(2,), params=params)
    steps = -torch.atan(torch.from_numpy(ss.load_sde("ve").at(**params).effective_sigma(grid.times.numpy())) / 0.5).diff()
    assert (steps / steps.mean() - 1).abs().max() < 0.05


def test_conditions_go_with_the_paths_and_the_range_of_a_network_bounds_the_grid():
    known = ss.networks.denoiser(lambda y, sigma, shift: (y - shift) / (1 + sigma**2) + shift, (2,), sigma_range=(0.02, 20.0))
    grid = ss.equidistributed("vp_ddim", known, "vp", 6, seeds=range(4), cond={"shift": torch.ones(4, 2)})
    assert ss.load_sde("vp").at().effective_sigma(grid.times[[0, -1]].numpy()) == pytest.approx([20.0, 0.02])


@pytest.mark.parametrize(
    ("network", "given", "words"),
    [
        (lambda z, t: (z[0] * (float("nan") if t < 0.3 else 0.5),), {}, "network: a step from .* is not finite"),
        (lambda z, t: z[0], {}, "network: it gives Tensor, not a tuple"),
        (lambda z, t: (z[0].mul_(0.5),), {}, "network: it writes into its inputs"),
        (DATA.network(), {"seeds": [0]}, "seeds: one path has no spread"),
        (DATA.network(), {"sde": "psld"}, "sde: the module is one of vp, not of psld; give vp"),
    ],
)
@pytest.mark.parametrize("steps", [5, 12])
def test_what_gives_no_errors_to_compare_is_refused(network, given, words, steps):
    with pytest.raises(InputError, match=words):
        ss.equidistributed("vp_ddim", network, **{"sde": "vp", "steps": steps, "seeds": range(4), "shape": (2,), **given})


@pytest.mark.parametrize("name", ["vp_euler_maruyama", "psld_roba"])
def test_what_has_no_error_of_a_step_is_refused(name):
    module = ss.load(name)
    sde = ss.load_sde(module.SDE)
    with pytest.raises(InputError, match="take a deterministic sampler"):
        ss.equidistributed(module, DATA.network(), sde, 10, shape=(2,))


def test_a_number_of_steps_that_is_none_is_refused():
    with pytest.raises(InputError, match="steps"):
        ss.equidistributed("vp_ddim", DATA.network(), ss.load_sde("vp"), 0, shape=(2,))
