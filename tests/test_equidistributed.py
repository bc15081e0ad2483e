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


@pytest.mark.parametrize("name", ["vp_euler_maruyama", "psld_roba"])
def test_what_has_no_error_of_a_step_is_refused(name):
    module = ss.load(name)
    sde = ss.load_sde(module.SDE)
    with pytest.raises(InputError, match="take a deterministic sampler"):
        ss.equidistributed(module, DATA.network(), sde, 10, shape=(2,))


def test_a_number_of_steps_that_is_none_is_refused():
    with pytest.raises(InputError, match="steps"):
        ss.equidistributed("vp_ddim", DATA.network(), ss.load_sde("vp"), 0, shape=(2,))
