"""Runs that begin at data, at a state of the caller's, or keep a part of the data; conditions, batches, and the way back."""

import re
from pathlib import Path

import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError
from stepsmith.measure.probe import moments
from stepsmith.measure.problems import Gaussian, GaussianMixture

PAGE = Path(__file__).parents[1] / "docs" / "sampling.md"
SEEDS = 10_000
MEAN, SPREAD = 0.4, 0.6  # of Gaussian data
MIXTURE = GaussianMixture([0.4, 0.6], [[0.7, -0.3], [-0.5, 0.8]], [0.3, 0.4])


def grid_of(sde, steps, start=None, end=1e-3):
    return ss.TimeGrid.logsnr(ss.load_sde(sde), steps, start, end)


def denoiser(inputs, sigma):
    return (MIXTURE.denoiser(inputs[0], sigma),)


@pytest.mark.parametrize("sde", ["vp", "psld"])
def test_a_run_from_data_has_the_law_of_data_that_are_noised_and_sampled_again(sde):
    """Gaussian data N(m, v), one image x0 noised to s = sigma_eff: the posterior mean and variance, in three standard errors."""
    name = f"{sde}_adams_3"
    problem = Gaussian(torch.tensor([MEAN], dtype=torch.float64), SPREAD**2)
    grid, x0 = grid_of(sde, 60, start=0.5, end=1e-5), 1.3
    s2 = float(ss.load_sde(sde).at().effective_sigma(0.5)) ** 2
    network = lambda inputs, sigma: (problem.denoiser(inputs[0], sigma),)  # noqa: E731
    found = ss.sample(name, network, grid, range(SEEDS), shape=(1,), dtype=torch.float64, init=torch.tensor([x0]))
    # y = x0 + s n; the flow takes y to the data of the same quantile: m + (y - m) sqrt(v/(v + s2)) where the flow is scalar,
    # and for more blocks the same law, N(m, v) seen from y, up to the blocks' own noise.
    shrink = (SPREAD**2 / (SPREAD**2 + s2)) ** 0.5
    if sde == "vp":
        mean, variance = MEAN + (x0 - MEAN) * shrink, s2 * shrink**2
    else:
        mean, variance = exact_flow(sde, 0.5, x0)
    assert abs(found.mean().item() - mean) < 3 * (variance / SEEDS) ** 0.5
    assert abs(found.var().item() / variance - 1) < 3 * (2 / SEEDS) ** 0.5


def exact_flow(sde, start, x0):
    """Mean and variance of x at START of the probability flow of Gaussian data, from z ~ q(z | x0) at a time, by its matrix."""
    module, network = ss.load(f"{sde}_adams_3"), Gaussian(torch.tensor([MEAN], dtype=torch.float64), SPREAD**2)
    L, D = module.start(start), module.start_data(start)
    run = moments(
        module, lambda inputs, sigma: (network.denoiser(inputs[0].unsqueeze(-1), sigma).squeeze(-1),),
        grid_of(sde, 400, start=start, end=1e-5), start_mean=(D[:, 0] * x0).tolist(), start_cov=L @ L.T,
    )  # fmt: skip
    return run.data_mean, run.data_var


def test_the_state_of_the_caller_is_taken_as_it_is():
    grid = grid_of("vp", 5)
    x = torch.randn(3, 2, dtype=torch.float64)
    found = ss.sample("vp_ddim", denoiser, grid, range(3), shape=(2,), dtype=torch.float64, start=x)
    again = ss.sample("vp_ddim", denoiser, grid, (7, 8, 9), shape=(2,), dtype=torch.float64, start=(x,))
    assert torch.equal(found, again)


@pytest.mark.parametrize("name", ["vp_ddim", "psld_rvv2"])
def test_a_start_of_unit_data_is_the_law_of_the_state_when_the_data_are_normal(name):
    module, grid = ss.load(name), grid_of(name.split("_")[0], 4)
    L, D = module.start(grid.times[0]), module.start_data(grid.times[0])
    factor = torch.linalg.cholesky(L @ L.T + D @ D.T)
    normals = [ss.NoiseSource(range(3)).normal((2,), "start", 0, j, dtype=torch.float64) for j in range(len(L))]
    state = tuple(sum(w * z for w, z in zip(row, normals, strict=True)) for row in factor)
    runs = [
        ss.sample(name, denoiser, grid, range(3), shape=(2,), dtype=torch.float64, start=start) for start in ("unit", state, None)
    ]
    assert torch.allclose(runs[0], runs[1], rtol=1e-12) and not torch.allclose(runs[0], runs[2], rtol=1e-8)
    assert name != "vp_ddim" or abs(factor.item() - 1) < 1e-12


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("name", ["vp_ddim_eta", "psld_roba"])
def test_generators_give_what_is_drawn_in_its_order(name):
    """The start, then the draws of each step, as the loop of the module's docstring would draw them."""
    module, grid = ss.load(name), grid_of(name.split("_")[0], 4)
    draw = lambda: torch.randn(3, 2, generator=own)  # noqa: E731
    (own,) = generators([5])
    normals = [draw() for _ in module.COMPONENTS]
    state = tuple(
        sum(w * z.double() for w, z in zip(row, normals, strict=True)).float() for row in module.start(grid.times[0]).tolist()
    )
    for row in module.coefficients(grid.times):
        noise = tuple(draw() for _ in range(module.DRAWS))
        state, _ = module.step(state, row.unbind(), lambda y, s: (denoiser(y, s)[0].float(),), noise)
    given = lambda y, s: (denoiser(y, s)[0].float(),)  # noqa: E731
    found = ss.sample(name, given, grid, range(3), shape=(2,), generator=generators([5])[0])
    assert torch.allclose(found, state[module.DATA], rtol=1e-5, atol=1e-6)


def test_a_generator_a_sample_makes_the_batch_indifferent():
    image, mask = torch.tensor([0.7, 5.0]), torch.tensor([1.0, 0.0])
    given = {"shape": (2,), "dtype": torch.float64, "init": image, "mask": mask}
    runs = [
        ss.sample("psld_roba", denoiser, grid_of("psld", 5), range(4), generator=generators(seeds), batch=batch, **given)
        for seeds, batch in ((range(4), None), (range(4), 1), (range(4, 8), None))
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", ["vp_adams_3", "psld_rvv2", "rectified_flow_conjugate"])
def test_a_baked_module_begins_at_data_as_its_module_does(name):
    grid = grid_of(ss.load(name).SDE, 5, start=0.6)
    baked = ss.load(ss.bake(name, grid))
    runs = [
        ss.sample(each, denoiser, at, range(3), shape=(2,), init=torch.tensor([0.7, -0.2]), dtype=torch.float64)
        for each, at in ((name, grid), (baked, None))
    ]
    assert torch.equal(*runs)


@pytest.mark.parametrize("name", ["vp_ddim", "vp_ddim_eta", "psld_rvv2", "psld_roba"])
def test_what_is_known_stays_and_the_rest_goes_on_from_it(name):
    mask, image = torch.tensor([1.0, 0.0]), torch.tensor([0.7, 5.0])
    seen = []
    module = ss.load(name)
    grid = grid_of(module.SDE.replace("_", "-"), 30)
    keep = lambda k, state, x0: seen.append(state[module.DATA][:, 0].clone())  # noqa: E731
    found = ss.sample(
        module, denoiser, grid, range(2000), shape=(2,), dtype=torch.float64, init=image, mask=mask, callback=keep
    )
    assert (found[:, 0] == image.double()[0]).all()
    assert not (found[:, 1] - 5.0).abs().min() < 1e-6
    for time, known in list(zip(grid.times[1:].tolist(), seen, strict=True))[::6]:
        L, D = module.start(time), module.start_data(time)
        mean, variance = D[module.DATA, 0] * 0.7, (L @ L.T)[module.DATA, module.DATA]
        assert abs(known.mean() - mean) < 4 * (variance / 2000) ** 0.5
        assert abs(known.var() / variance - 1) < 4 * (2 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("name", "steps"), [("vp_ddim", 40), ("psld_rvv", 100), ("psld_conjugate", 40), ("rectified_flow_conjugate", 40)]
)
def test_data_go_back_to_the_state_that_samples_them(name, steps):
    """Four iterations a step and the way forth: 200 calls where a step makes one."""
    module = ss.load(name)
    grid = grid_of(module.SDE, steps)
    data = MIXTURE.sample(64, 4).double()
    calls = []

    def network(inputs, sigma):
        calls.append(1)
        return denoiser(inputs, sigma)

    state = ss.invert(module, network, grid, data, dtype=torch.float64)
    assert len(calls) == 4 * steps * module.NFE
    again = ss.sample(module, denoiser, grid, range(64), shape=(2,), dtype=torch.float64, start=state)
    assert (again - data).abs().max() < 1e-3 * data.abs().max()


def test_conditions_go_back_with_their_samples():
    def network(inputs, sigma, *, shift):
        (denoised,) = denoiser(inputs, sigma)
        return (denoised + shift,)

    module, grid, data = ss.load("vp_ddim"), grid_of("vp", 40), MIXTURE.sample(6, 4).double()
    shift = {"shift": torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)[:, None]}
    state = ss.invert(module, network, grid, data, dtype=torch.float64, cond=shift)
    again = ss.sample(module, network, grid, range(6), shape=(2,), dtype=torch.float64, start=state, cond=shift)
    assert (again - data).abs().max() < 1e-3 * data.abs().max()
    with pytest.raises(InputError, match="shift has 2 entries, and there are 6 seeds"):
        ss.invert(module, network, grid, data, dtype=torch.float64, cond={"shift": torch.zeros(2, 1)})


def test_a_batch_changes_no_sample_and_conditions_go_with_their_seeds():
    def network(inputs, sigma, *, shift, words):
        assert len(words) == len(inputs[0])
        return (MIXTURE.denoiser(inputs[0], sigma) + shift[:, None],)

    cond = {"shift": torch.linspace(0, 1, 7, dtype=torch.float64), "words": ["a"]}
    runs = [
        ss.sample("vp_dpmpp_2m", network, grid_of("vp", 6), range(7), shape=(2,), dtype=torch.float64, cond=cond, batch=batch)
        for batch in (None, 3, 7, 100)
    ]
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init": torch.zeros(5)}, "init: what is given of shape"),
        ({"init": torch.zeros(2), "start": torch.zeros(2)}, "init: start says where"),
        ({"mask": torch.ones(2)}, "mask: there are no data to keep"),
        ({"mask": torch.tensor([0.0, 2.0]), "init": torch.zeros(2)}, r"mask: it has values outside of \[0, 1\]"),
        ({"mask": torch.tensor([0, 255]), "init": torch.zeros(2)}, "divide a mask of 0 .. 255 by 255"),
        ({"init": torch.tensor([0, 255], dtype=torch.uint8)}, "init: it has whole numbers, .* such as image / 127.5 - 1"),
        ({"start": (torch.zeros(2), torch.zeros(2))}, "start: it has 2 components, and vp has 1; give a tuple"),
        ({"cond": {"label": torch.zeros(9)}}, "cond: label has 9 entries, and there are 3 seeds"),
        ({"cond": {"label": torch.tensor(1.0)}}, "cond: label is no tensor or list"),
        ({"init": (torch.zeros(2), torch.zeros(2))}, "init: the number of data blocks is 1 for vp, not 2; give a tensor"),
        ({"init": [0.1, 0.2]}, "init: the number of data blocks is 1 for vp, not 2"),
        ({"batch": 0}, "batch: 0 seeds"),
        ({"init": torch.full((2,), float("nan"))}, "not finite"),
        ({"start": "noise"}, "start: 'noise' is no start; give 'unit'"),
        ({"start": "unit", "init": torch.zeros(2)}, "init: start says where"),
        ({"generator": [torch.Generator()] * 2}, "generator: 2 of Generator; give one torch.Generator, or a list of 3"),
        ({"generator": 7}, "generator: 1 of int"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16' is no dtype of torch; give torch.float32"),
        ({"dtype": torch.int8}, "dtype: torch.int8 cannot hold a state"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_call(options, words):
    def network(inputs, sigma, **cond):
        raise AssertionError

    with pytest.raises(InputError, match=words):
        ss.sample("vp_ddim", network, grid_of("vp", 4), range(3), shape=(2,), **options)


def test_a_method_is_no_module():
    method = ss.derive("vp", "ddim")
    for given in (method, None):
        with pytest.raises(InputError, match=rf"{type(given).__name__}, and no emitted module; give ss.load"):
            ss.sample(given, denoiser, grid_of("vp", 4), range(3), shape=(2,))


@pytest.mark.parametrize("name", ["vp_dpmpp_2m", "vp_ddim_eta"])
def test_no_way_back_through_noise_or_memory(name):
    with pytest.raises(InputError, match="draws noise, remembers"):
        ss.invert(name, denoiser, grid_of("vp", 4), torch.zeros(1, 2))


def test_a_baked_module_and_a_number_of_iterations_that_is_none_are_refused():
    grid, data = grid_of("vp", 12), MIXTURE.sample(4, 4).double()
    with pytest.raises(InputError, match="sampler: a baked module knows the law of the state at its start alone"):
        ss.invert(ss.load(ss.bake("vp_ddim", grid)), denoiser, None, data)
    for given in (0, 2.5, "4", True):
        with pytest.raises(InputError, match=r"iterations: .* a whole number, 1 or more"):
            ss.invert("vp_ddim", denoiser, grid, data, iterations=given)


def test_a_step_that_is_too_long_to_be_solved_is_told():
    with pytest.raises(InputError, match="of a step is left"):
        ss.invert("vp_ddim", denoiser, grid_of("vp", 2), MIXTURE.sample(4, 4).double(), dtype=torch.float64, iterations=1)


def test_every_sample_is_solved_to_its_own_size():
    data, big = MIXTURE.sample(1, 1).double(), torch.full((1, 2), 1e6, dtype=torch.float64)
    grid, told = grid_of("vp", 12), []
    for rows in ((data,), (data, big), (big, data)):
        with pytest.raises(InputError, match="of a step is left") as caught:
            ss.invert("vp_ddim", denoiser, grid, torch.cat(rows), dtype=torch.float64)
        told.append(str(caught.value))
    assert len(set(told)) == 1
    linear = ss.networks.denoiser(lambda y, sigma: y / (1 + sigma**2), (2,), dtype=torch.float64)
    (state,) = ss.invert("vp_ddim", linear, grid_of("vp", 40), torch.cat((0 * big, big)), dtype=torch.float64)
    assert (state[0] == 0).all() and state[1].isfinite().all()


def test_data_that_are_no_tensor_of_samples_do_not_go_back():
    for data, words in (((torch.zeros(2, 3), torch.zeros(2, 3)), "data: it is no tensor"), (1.0, "data: it is a single number")):
        with pytest.raises(InputError, match=words):
            ss.invert("vp_ddim", denoiser, grid_of("vp", 4), data)


def test_guidance_is_two_networks_in_one_call_and_only_inside_its_interval():
    seen = []

    def fn(y, sigma, *, label):
        seen.append(len(y))
        return 0.5 * y + label[:, None]

    network = ss.networks.denoiser(fn, (2,), dtype=torch.float64)
    guided = ss.networks.guided(network, 3.0, {"label": torch.tensor([0.0])}, interval=(0.5, 2.0))
    y, label = torch.randn(4, 2, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0, 4.0])
    for sigma, w in ((0.4, 1.0), (1.0, 3.0), (2.1, 1.0)):
        (out,) = guided((y,), torch.tensor(sigma, dtype=torch.float64), label=label)
        assert torch.allclose(out, 0.5 * y + w * label[:, None].double(), rtol=1e-14)
    assert seen == [8, 8, 8]
    (whole,) = ss.networks.guided(network, 3.0, {"label": torch.tensor([0.0])}, rescale=1.0)((y,), torch.tensor(1.0), label=label)
    assert torch.allclose(whole.std(1), (0.5 * y + label[:, None]).std(1), rtol=1e-12)
    with pytest.raises(InputError, match="cond: the conditions are none"):
        guided((y,), torch.tensor(1.0))


def test_guidance_keeps_float64_and_leaves_constant_outputs_as_they_are():
    null, label, sigma = {"label": torch.zeros(1).double()}, torch.tensor([1.0, 2.0]).double(), torch.tensor(1.0).double()
    for shape in ((), (1,), (3,), (2, 3)):
        network = ss.networks.denoiser(lambda y, sigma, label: 0 * y + label.reshape(-1, *[1] * (y.ndim - 1)), shape, dtype=None)
        y = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
        for options in ({}, {"interval": (0.1, 10.0)}, {"rescale": 0.7}):
            (out,) = ss.networks.guided(network, 1.1, null, **options)((y,), sigma, label=label)
            assert torch.allclose(out, 1.1 * label.reshape(-1, *[1] * len(shape)).expand_as(y), rtol=1e-15)
            assert torch.autograd.grad(out.sum(), y)[0].isfinite().all()


def test_the_page_about_sampling_runs_and_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    image, halves, variants = names["image"], names["halves"], names["variants"]
    assert torch.equal(halves[..., :14], image.expand(4, 1, 28, 28)[..., :14])
    assert 0 < (variants - image).square().mean() < (names["labelled"][:4] - image).square().mean()
    assert (names["again"] - image).abs().max() < 2e-2 * image.abs().max()
    assert names["labelled"].shape == (10, 1, 28, 28)
