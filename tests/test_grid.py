"""Time grids: the formulas, the inversion of the effective sigma, and what is refused."""

import numpy as np
import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.runtime import TimeGrid, budget_steps
from stepsmith.runtime.grid import followed
from stepsmith.runtime.roots import invert_increasing

torch.set_num_threads(1)


class View:
    def __init__(self, beta_max=20.0):
        self.beta_max, self.calls = beta_max, 0

    def effective_sigma(self, t):
        self.calls += t.size
        return np.sqrt(np.expm1(t * (0.1 + 0.5 * (self.beta_max - 0.1) * t)))


class VP:
    name, time = "vp", (0.0, 1.0)

    def at(self, **params):
        self.view = View(**params)
        return self.view


class Flow:
    """alpha = 1 - t: the effective sigma t/(1 - t) is infinite at t = 1."""

    name, time = "flow", (0.0, 1.0)

    def at(self, **params):
        return self

    def effective_sigma(self, t):
        with np.errstate(divide="ignore"):
            return t / (1 - t)


MAKERS = [TimeGrid.uniform, TimeGrid.quadratic, TimeGrid.logsnr, TimeGrid.edm, TimeGrid.tan, TimeGrid.asinh]


@pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("ends", [(1.0, 1e-3), (0.9, 1e-5)])
def test_every_grid_runs_down_between_exactly_the_ends_that_were_asked_for(make, steps, ends):
    grid = make(VP(), steps, *ends)
    assert grid.times.dtype == torch.float64 and grid.times.device.type == "cpu"
    assert grid.steps == steps and grid.times.shape == (steps + 1,)
    assert (grid.times[0].item(), grid.times[-1].item()) == ends
    assert (grid.times.diff() < 0).all() and grid.name == make.__name__


def test_start_defaults_to_the_end_of_the_span_and_end_to_a_thousandth():
    for make in MAKERS:
        grid = make(VP(), 5)
        assert (grid.times[0].item(), grid.times[-1].item()) == (1.0, 1e-3)


def test_uniform_and_quadratic_follow_their_formulas():
    k = np.arange(11) / 10
    np.testing.assert_allclose(TimeGrid.uniform(VP(), 10).times, 1 + k * (1e-3 - 1), rtol=1e-14)
    np.testing.assert_allclose(TimeGrid.quadratic(VP(), 10).times, 1e-3 + (1 - 1e-3) * (1 - k) ** 2, rtol=1e-14)


def test_quadratic_is_the_striding_of_the_public_psld_code():
    T, eps, n = 1.0, 1e-3, 25
    t_final = T - eps
    ts = torch.linspace(0, t_final, n + 1, dtype=torch.float64)
    published = T - t_final * torch.flip(1 - (ts / t_final) ** 2, dims=[0])
    np.testing.assert_allclose(TimeGrid.quadratic(VP(), n).times, published, rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 10, 300])
@pytest.mark.parametrize("end", [1e-3, 1e-5, 1e-9])
def test_logsnr_and_edm_space_the_effective_sigma_evenly_to_float64(steps, end):
    for grid, warp in (
        (TimeGrid.logsnr(VP(), steps, end=end), np.log),
        (TimeGrid.edm(VP(), steps, end=end), lambda s: s ** (1 / 7)),
        (TimeGrid.edm(VP(), steps, end=end, rho=3), lambda s: s ** (1 / 3)),
    ):
        level = warp(View().effective_sigma(grid.times.numpy()))
        even = np.linspace(level[0], level[-1], steps + 1)
        assert np.abs(level - even).max() <= 4e-15 * np.abs(level).max()


def test_parameters_reach_the_effective_sigma():
    grid, other = TimeGrid.edm(VP(), 4), TimeGrid.edm(VP(), 4, params={"beta_max": 8.0})
    assert (grid.times[1:-1] - other.times[1:-1]).abs().min() > 1e-3


def test_the_inversion_is_exact_and_takes_few_values():
    view = View()
    times = np.geomspace(1e-5, 0.99, 500)
    found = invert_increasing(view.effective_sigma, View().effective_sigma(times), 1e-5, 1.0)
    assert np.abs(found / times - 1).max() < 4e-15
    assert view.calls < 12 * times.size


def test_explicit_keeps_the_very_times_and_owns_them():
    source = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    grid = TimeGrid.explicit(source, VP())
    source[1] = 0.95
    assert grid.times.tolist() == [0.9, 0.5, 0.1] and grid.steps == 2
    assert TimeGrid.explicit(np.array([3.0, 1.0])).times.tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("times", "word"),
    [
        ([0.5, 0.9], "decrease"),
        ([0.9, 0.5, 0.5], "decrease"),
        ([0.9, float("nan"), 0.1], "nan"),
        ([float("inf"), 0.1], "inf"),
        ([0.5], "shape"),
        ([[0.9, 0.5]], "shape"),
        (["a", "b"], "not times"),
        ([1.5, 0.5], "span"),
        ([1.0, 0.0], "span"),
        ([1.0, -0.1], "span"),
    ],
)
def test_bad_times_are_refused_in_one_line(times, word):
    with pytest.raises(InputError, match=word) as caught:
        TimeGrid.explicit(times, VP())
    assert caught.value.key == "grid" and caught.value.where == "-" and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__)
def test_bad_steps_and_ends_are_refused_with_their_key(make):
    for arguments, key in (
        ((0,), "steps"),
        ((-3,), "steps"),
        ((2.5,), "steps"),
        ((True,), "steps"),
        ((5, 1.1), "start"),
        ((5, float("nan")), "start"),
        ((5, 1.0, 0.0), "end"),
        ((5, 0.5, 0.5), "end"),
        ((5, 0.5, 0.7), "end"),
    ):
        with pytest.raises(InputError) as caught:
            make(VP(), *arguments)
        assert caught.value.key == key, arguments


def test_a_bad_rho_and_an_infinite_sigma_are_refused():
    with pytest.raises(InputError, match="positive") as caught:
        TimeGrid.edm(VP(), 5, rho=0)
    assert caught.value.key == "rho"
    with pytest.raises(InputError, match="start a little earlier"):
        TimeGrid.logsnr(Flow(), 5)
    assert TimeGrid.logsnr(Flow(), 5, start=0.999).steps == 5
    assert TimeGrid.uniform(Flow(), 5).times[0] == 1.0


def test_more_steps_than_float64_can_tell_apart_are_refused():
    with pytest.raises(InputError, match="decrease"):
        TimeGrid.uniform(VP(), 100, start=0.5 + 4e-16, end=0.5)


def test_a_budget_buys_whole_steps_and_tells_what_is_left():
    assert budget_steps(50, 1) == (50, 0)
    assert budget_steps(50, 3) == (16, 2)
    assert budget_steps(50, 1, "denoise") == (49, 0)
    assert budget_steps(50, 2, "denoise") == (24, 1)
    for budget, last in ((2, "none"), (3, "denoise")):
        with pytest.raises(InputError, match="buys no step") as caught:
            budget_steps(budget, 3, last)
        assert caught.value.key == "nfe"
    with pytest.raises(InputError, match="not known"):
        budget_steps(5, 1, "twice")


def test_tan_and_asinh_space_what_they_are_named_for_evenly():
    sigma = lambda grid: View().effective_sigma(grid.times.numpy())  # noqa: E731
    angles = np.arctan(sigma(TimeGrid.tan(VP(), 12, scale=0.7)) / 0.7)
    np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0], rtol=1e-9)
    spread = np.arcsinh(np.log(sigma(TimeGrid.asinh(VP(), 12, centre=0.2, k=3.0)) / 0.2) / 3.0)
    np.testing.assert_allclose(np.diff(spread), np.diff(spread)[0], rtol=1e-9)


def test_shifted_is_the_timesteps_of_flow_models():
    """diffusers' FlowMatchEulerDiscreteScheduler with shift: sigma = shift s/(1 + (shift - 1) s), s from 1 to 1/1000."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    sigmas = scheduler.sigmas[:-1].double().numpy()
    grid = TimeGrid.shifted("rectified-flow", 9, 1.0, float(sigmas[-1]))
    np.testing.assert_allclose(grid.times.numpy(), sigmas, rtol=2e-6)
    np.testing.assert_allclose(TimeGrid.shifted(VP(), 9, shift=1.0).times, TimeGrid.uniform(VP(), 9).times, rtol=1e-13)
    with pytest.raises(InputError, match="shift"):
        TimeGrid.shifted(VP(), 9, shift=0.0)


def test_asinh_lies_between_tan_and_logsnr_in_its_limits():
    wide = TimeGrid.asinh(VP(), 9, k=1e6).times
    np.testing.assert_allclose(wide, TimeGrid.logsnr(VP(), 9).times, rtol=1e-6)


def test_sigmas_are_taken_as_they_are():
    given = [100.0, 30.0, 3.0, 0.7, 0.02]
    grid = TimeGrid.sigmas(VP(), given)
    np.testing.assert_allclose(View().effective_sigma(grid.times.numpy()), given, rtol=1e-13)
    assert grid.name == "sigmas" and grid.steps == 4


@pytest.mark.parametrize("given", [[3.0, 4.0], [200.0, 1.0], [1.0, 0.0], [1.0]])
def test_sigmas_that_are_none_are_refused(given):
    with pytest.raises(InputError, match="grid"):
        TimeGrid.sigmas(VP(), given)


def test_timesteps_are_indices_of_a_table_of_sigmas():
    betas = np.linspace(1e-4, 0.02, 1000)
    table = np.sqrt(1 / np.cumprod(1 - betas) - 1)
    grid = TimeGrid.timesteps(VP(), [990, 500, 20.5, 3], table)
    told = [table[990], table[500], np.sqrt(table[20] * table[21]), table[3]]
    np.testing.assert_allclose(View().effective_sigma(grid.times.numpy()), told, rtol=1e-12)
    with pytest.raises(InputError, match="0 to 999"):
        TimeGrid.timesteps(VP(), [1000, 3], table)


@pytest.mark.parametrize(("make", "key"), [(TimeGrid.tan, "scale"), (TimeGrid.asinh, "centre"), (TimeGrid.asinh, "k")])
def test_what_must_be_positive_is_held_to_it(make, key):
    with pytest.raises(InputError) as told:
        make(VP(), 5, **{key: 0.0})
    assert told.value.key == key


def test_a_diffusion_may_be_named() -> None:
    psld = ss.load_sde("psld")
    for make in MAKERS:
        assert torch.equal(make("psld", 5).times, make(psld, 5).times)
    assert torch.equal(TimeGrid.sigmas("vp", [3.0, 0.1]).times, TimeGrid.sigmas(ss.load_sde("vp"), [3.0, 0.1]).times)
    with pytest.raises(InputError, match="no sde of the catalogue is named 'nowhere'"):
        TimeGrid.quadratic("nowhere", 5)
    with pytest.raises(InputError, match="is outside the time span"):
        TimeGrid.explicit([2.0, 1.0], "vp")
    with pytest.raises(InputError):
        TimeGrid.quadratic(5, 5)


@pytest.mark.parametrize("make", MAKERS, ids=lambda m: m.__name__)
def test_a_grid_for_a_network_lies_within_what_it_knows_unless_told(make):
    network = ss.networks.denoiser(lambda y, sigma: y, (2,), (0.05, 20.0))
    for params in ({}, {"beta_max": 25.0}) if make not in MAKERS[:2] else ({},):
        given = {"params": params} if params else {}
        sigma = ss.load_sde("vp").at(**params).effective_sigma
        times = make("vp", 4, network=network, **given).times.numpy()
        assert np.allclose(sigma(times[[0, -1]]), [20.0, 0.05], rtol=1e-10)
    assert make("vp", 4, 0.9, 1e-4, network=network).times[[0, -1]].tolist() == [0.9, 1e-4]
    assert torch.equal(make("vp", 4, network=lambda y, sigma: y).times, make("vp", 4).times)


def test_a_law_that_is_followed_once_gives_the_grids_of_one_that_is_followed_anew():
    sde = ss.load_sde("psld")
    law = followed(sde)
    for steps in (20, 5):
        assert torch.equal(TimeGrid.logsnr(law, steps).times, TimeGrid.logsnr(sde, steps).times)
    assert law.at() is law.at() and sde.at() is not sde.at()


def test_sigmas_far_beyond_an_open_span_are_reached() -> None:
    for name, levels in (("edm", [1e300, 1e7, 1.0]), ("ve", [1e5, 1.0]), ("rectified-flow", [1e7, 1.0])):
        sde = ss.load_sde(name)
        grid = TimeGrid.sigmas(sde, levels)
        assert sde.at().effective_sigma(grid.times.numpy()) == pytest.approx(levels, rel=1e-7), name


@pytest.mark.parametrize("table", ["abc", ["a", "b"], [0.0, 0.1, 0.5], [-1.0, 0.1, 0.5], [0.5, 0.1], [0.1, float("inf")]])
def test_a_table_of_timesteps_that_is_none_is_refused(table: object) -> None:
    with pytest.raises(InputError, match=r"grid: "):
        TimeGrid.timesteps("vp", [1, 0], table)
    with pytest.raises(InputError, match=r"the table does not rise .* such as sqrt\(1/alphas_cumprod - 1\)"):
        TimeGrid.timesteps("vp", [2, 1, 0], [0.9999, 0.9, 0.1])


def test_views_of_arrays_that_run_backwards_are_taken() -> None:
    table = np.geomspace(100, 0.01, 1000)
    backwards = TimeGrid.timesteps("vp", np.array([10, 500, 900])[::-1], table[::-1])
    assert torch.equal(backwards.times, TimeGrid.timesteps("vp", [900, 500, 10], table[::-1].copy()).times)
    assert TimeGrid.explicit(np.linspace(0.1, 1, 5)[::-1]).times[0] == 1


@pytest.mark.parametrize("given", [{"end": "x"}, {"start": [1, 2]}, {"scale": "a"}])
def test_ends_and_scales_that_are_no_numbers_are_refused(given: dict) -> None:
    with pytest.raises(InputError, match="is not a"):
        TimeGrid.tan("vp", 5, **given)
