"""Parts of the data that are known: the path that they follow in a run, and what the rest then is."""

import re
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError

PAGE = Path(__file__).parents[1] / "docs" / "inpainting.md"
SEEDS = 10_000
KEPT = sorted(path.stem for path in (Path(__file__).parents[1] / "generated").glob("[a-z]*.py") if "blurring" not in path.name)
factor = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MEAN, COVARIANCE = torch.linspace(-1, 1, 6, dtype=torch.float64), factor @ factor.T / 6 + 0.1 * torch.eye(6, dtype=torch.float64)
IMAGE, MASK = torch.tensor([0.5, 9.0, -1.0, 9.0, 9.0, 1.5], dtype=torch.float64), torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
KNOWN = MASK.bool()


def fn(y, sigma):
    """E[data | data + sigma noise = y] of normal data."""
    return MEAN + (y - MEAN) @ torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(6, dtype=y.dtype), COVARIANCE)


NETWORK = ss.networks.denoiser(fn, (6,), dtype=torch.float64)


def grid_of(module, steps, end=1e-5):
    return ss.TimeGrid.logsnr(ss.load_sde(module.SDE), steps, None, end)


def conditional():
    """Mean and covariance of the unknown places given the known ones."""
    gain = COVARIANCE[~KNOWN][:, KNOWN] @ torch.linalg.inv(COVARIANCE[KNOWN][:, KNOWN])
    mean = MEAN[~KNOWN] + gain @ (IMAGE[KNOWN] - MEAN[KNOWN])
    return mean, COVARIANCE[~KNOWN][:, ~KNOWN] - gain @ COVARIANCE[KNOWN][:, ~KNOWN]


def gaps(samples):
    """How many standard errors the mean and the covariance of the unknown places lie from the exact conditional law, at most."""
    (mean, covariance), found = conditional(), samples[:, ~KNOWN]
    spread = covariance.diagonal()
    errors = ((spread[:, None] * spread + covariance**2) / len(found)).sqrt()
    off = (found.mean(0) - mean).abs() / (spread / len(found)).sqrt()
    return off.max().item(), ((torch.cov(found.T) - covariance).abs() / errors).max().item()


@pytest.mark.parametrize(
    ("name", "steps"), [("vp_adams_3", 20), ("vp_adams_3", 60), ("psld_adams_3", 60), ("vp_sde_dpmpp_2m", 200)]
)
def test_a_denoiser_that_is_told_the_known_places_gives_the_exact_conditional_law_of_gaussian_data(name, steps):
    told, module = ss.networks.inpainting(NETWORK, IMAGE, MASK, iterations=3), ss.load(name)
    samples = ss.sample(module, told, grid_of(module, steps), range(SEEDS), dtype=torch.float64)
    assert (samples[:, KNOWN] - IMAGE[KNOWN]).abs().max() < 1e-2  # the noise of the last time, which last="denoise" removes
    assert max(gaps(samples)) < 3


def test_ten_steps_are_too_few_for_that_and_a_mean_at_the_end_gives_the_known_places_back():
    told, module = ss.networks.inpainting(NETWORK, IMAGE, MASK, iterations=3), ss.load("vp_adams_3")
    samples = ss.sample(module, told, grid_of(module, 10), range(SEEDS), dtype=torch.float64, last="denoise")
    assert torch.equal(samples[:, KNOWN], IMAGE[KNOWN].expand(SEEDS, -1)) and max(gaps(samples)) > 3


def test_as_many_iterations_as_known_places_solve_exactly():
    y, sigma = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor(0.7).double()
    (found,) = ss.networks.inpainting(NETWORK, IMAGE, MASK, iterations=3)((y,), sigma)
    jacobian = torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(6), COVARIANCE)
    mean = fn(y, sigma)
    right = (IMAGE - mean)[:, KNOWN] @ torch.linalg.inv(jacobian[KNOWN][:, KNOWN])
    assert torch.allclose(found, mean + right @ jacobian[KNOWN], rtol=1e-10)


def test_places_that_are_known_up_to_noise_are_so_for_the_mean():
    """(M C M^T + s^2)^-1 with C the covariance of the data given y; what is known stands in its place all the same."""
    y, sigma, noise = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.7, 0.4
    told = ss.networks.inpainting(NETWORK, IMAGE, MASK, iterations=3, noise=noise)
    (found,) = told((y,), torch.tensor(sigma, dtype=torch.float64))
    given = sigma**2 * torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(6), COVARIANCE)
    mean = fn(y, sigma)
    right = (IMAGE - mean)[:, KNOWN] @ torch.linalg.inv(given[KNOWN][:, KNOWN] + noise**2 * torch.eye(3))
    assert torch.allclose(found[:, ~KNOWN], (mean + right @ given[KNOWN])[:, ~KNOWN], rtol=1e-10)
    assert torch.equal(found[:, KNOWN], IMAGE[KNOWN].expand(5, -1))


@pytest.mark.parametrize("name", ["vp_ddim_eta", "psld_roba", "psld_baoab"])
def test_the_known_part_follows_one_path_of_the_diffusion_given_the_data(name):
    """White w = L^-1 (z - D x0) at two times: unit covariances, and between them L0^-1 Psi L1."""
    module, seen = ss.load(name), []
    grid, x0 = grid_of(module, 40, 1e-3), 1.2
    keep = lambda k, state, _: seen.append(torch.stack([z[:, 0] for z in state]))  # noqa: E731
    network = ss.networks.denoiser(lambda y, sigma: y / (1 + sigma**2), (2,), dtype=torch.float64)
    ss.sample(
        module, network, grid, range(SEEDS), dtype=torch.float64, init=torch.tensor([x0, 0.0]).double(),
        mask=torch.tensor([1.0, 0.0]), callback=keep,
    )  # fmt: skip
    for i, j in ((0, 1), (10, 11), (20, 26), (38, 39)):
        times, ends = (grid.times[i + 1], grid.times[j + 1]), (seen[i], seen[j])
        if j == 39:  # the data take their place in what is returned, not in the state
            assert ends[1].std() > 0
        factors = [module.start(time) for time in times]
        means = [module.start_data(time) * x0 for time in times]
        white = [torch.linalg.solve_triangular(L, z - m, upper=False) for L, z, m in zip(factors, ends, means, strict=True)]
        between = torch.linalg.solve_triangular(factors[0], module.transition(*times) @ factors[1], upper=False)
        unit = torch.eye(len(between), dtype=torch.float64)
        for found, wanted in ((white[0] @ white[1].T, between), (white[1] @ white[1].T, unit)):
            assert (found / SEEDS - wanted).abs().max() < 3 * (2 / SEEDS) ** 0.5
        assert white[1].mean(1).abs().max() < 3 / SEEDS**0.5


def test_replacing_the_known_part_is_not_the_conditional_law_and_resampling_comes_near_it():
    """Two places of correlation .8: the mean of the second given 1.2 at the first is .96."""
    rho, x0, module = 0.8, 1.2, ss.load("vp_ddim_eta")
    both = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    network = ss.networks.denoiser(
        lambda y, sigma: y @ torch.linalg.solve(both + sigma**2 * torch.eye(2, dtype=y.dtype), both), (2,), dtype=torch.float64
    )
    given = {"init": torch.tensor([x0, 0.0]), "mask": torch.tensor([1.0, 0.0]), "dtype": torch.float64}
    runs = [
        ss.sample(module, network, grid_of(module, 40, 1e-3), range(4000), resample=times, **given)[:, 1].mean().item()
        for times in (1, 4, 16)
    ]
    errors = [abs(mean - rho * x0) for mean in runs]
    assert errors[0] > 0.3 > errors[1] > errors[2] and errors[2] < 0.06


@pytest.mark.parametrize("name", KEPT)
def test_a_module_says_how_the_states_at_two_times_belong_together(name):
    module = ss.load(name)
    at, end = ss.load_sde(module.SDE.replace("_", "-")).at(), min(module.END, 50.0)
    for time, before in ((0.9 * end, 0.4 * end), (0.3 * end, 0.29 * end), (0.1 * end, 0.001 * end)):
        wanted, found = torch.as_tensor(at.transition(time, before)), module.transition(time, before)
        assert (found - wanted).abs().max() < 1e-11 * wanted.abs().max().clamp_min(1e-300)
        pair = torch.tensor([[time], [before]], dtype=torch.float64)
        assert torch.allclose(module.transition(*pair)[0], found, rtol=1e-14)


def test_the_matrix_between_two_times_keeps_its_digits_where_a_block_forgets_fast():
    stiff = {"name": "stiff", "state": ["x", "m"], "params": {"a": 30.0}, "initial": {"m": "1"}}
    stiff |= {"F": [["-a", "1"], ["-1", "-1"]], "G": [["1", "0"], ["0", "1"]]}
    method = ss.derive(stiff, "conjugate")
    module, at = ss.load(ss.emit(method)), method.sde.at()
    for time, before in ((0.9, 0.8), (0.9, 0.1), (1.0, 0.01)):
        wanted = torch.as_tensor(at.transition(time, before))
        assert (module.transition(time, before) - wanted).abs().max() < 1e-13 * wanted.abs().max()
    with pytest.raises(ValueError, match="earlier"):
        module.transition(0.5, 0.5)


def test_the_page_runs_and_keeps_what_is_known():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    for kept in (names["right"], names["halves"], names["better"]):
        assert torch.equal(kept[..., :14], names["image"].expand(4, 1, 28, 28)[..., :14])


def test_what_does_not_fit_is_refused_before_any_call():
    def network(inputs, sigma):
        raise AssertionError

    given = {"shape": (2,), "init": torch.zeros(2), "mask": torch.ones(2)}
    baked = ss.load(ss.bake("vp_ddim_eta", grid_of(ss.load("vp_ddim_eta"), 4)))
    grid = grid_of(ss.load("vp_ddim"), 4)
    for module, options, words in (
        ("vp_ddim", {"resample": 0}, "resample: a step cannot be taken 0 times"),
        ("vp_ddim", {"resample": 2, "mask": None, "init": None}, "resample: no part is known; give init and mask"),
        ("vp_dpmpp_2m", {"resample": 2}, "resample: vp dpmpp-2m remembers earlier outputs"),
        (baked, {}, "mask: vp ddim-eta is baked, and knows the law .*; take the module that it was made from"),
    ):
        with pytest.raises(InputError, match=words):
            ss.sample(module, network, grid if isinstance(module, str) else None, range(3), **{**given, **options})
    twice = ss.networks.inpainting(ss.networks.inpainting(NETWORK, IMAGE, MASK), IMAGE, MASK)
    with pytest.raises(InputError, match=r"network: it gives no derivatives; .* one image and mask"):
        ss.sample("vp_ddim", twice, grid, range(3))
    with pytest.raises(InputError, match="only a Network of the kind denoiser"):
        ss.networks.inpainting(fn, IMAGE, MASK)
    with pytest.raises(InputError, match=r"image: it does not broadcast to a sample of shape \(6,\)"):
        ss.networks.inpainting(NETWORK, torch.zeros(5), MASK)
    with pytest.raises(InputError, match="mask: it has values other than 0 and 1"):
        ss.networks.inpainting(NETWORK, IMAGE, MASK / 2)
