"""Blurring diffusion: a coefficient a frequency, the cosine transform around the network."""

from __future__ import annotations

import ast
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.fft
import sympy as sp
import torch

import stepsmith as ss
from stepsmith.derive.maths import calculus
from stepsmith.derive.maths.calculus import t
from stepsmith.derive.proofs.reference import worst
from stepsmith.errors import InputError, Unsupported
from stepsmith.measure import probe
from stepsmith.measure.coefficients import limit, worst_of
from stepsmith.measure.problems import SpectralGaussian
from stepsmith.runtime import spectral

SHAPE = (6, 8)
K2 = spectral.field_of((1, *SHAPE))
BLUR, FLOOR = 20.0, 0.001
SAMPLERS = ("euler", "euler-maruyama", "conjugate", "oso")
# The same schedule without the field, and another field diffusion given by F and G: the heat equation with noise.
PLAIN = {"name": "plain", "state": ["u"], "time": [0.0, 0.995], "alpha": "cos(pi/2*t)", "sigma": "sin(pi/2*t)"}
HEAT = {
    "name": "heat", "state": ["u"], "field": "freq", "F": [["-tau*freq - 1/2"]], "G": [["sqrt(1 + t)"]],
    "let": {"tau": "slow*t"}, "params": {"slow": 0.4},
}  # fmt: skip

TWO = {**HEAT, "state": ["u", "m"], "F": [["-freq", "1"], ["-1", "-1"]], "G": [["0"], ["1"]]}


@cache
def module_of(sampler: str, network: str = "eps-L") -> Any:
    return ss.load(ss.emit(ss.derive("blurring", sampler, network), certified=False))


def published(time: float | torch.Tensor, k2: Any = K2) -> tuple[Any, Any]:
    """alpha and sigma of arXiv 2209.05557, appendix A: dissipation time sigma_B^2 / 2, sigma_B = 20 sin^2(pi t / 2)."""
    time = torch.as_tensor(time, dtype=torch.float64)
    dissipation = (BLUR * torch.sin(time * math.pi / 2) ** 2) ** 2 / 2
    scaling = torch.exp(-k2 * dissipation) * (1 - FLOOR) + FLOOR
    return torch.cos(math.pi / 2 * time) * scaling, torch.sin(math.pi / 2 * time)


PROBLEM = SpectralGaussian(
    torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(SHAPE), 0.02 + 0.5 * torch.exp(-K2 / 3)
)


def exact_network(kind: str = "eps-L") -> Any:
    return PROBLEM.network(kind, lambda time: published(time)[0], lambda time: published(time)[1])


# --- the diffusion ----------------------------------------------------------------------------------------------------


def test_alpha_and_sigma_are_those_published_and_solve_their_equations() -> None:
    sde = ss.load_sde("blurring")
    k2 = sde.symbols["k2"]
    values = {sde.symbols[name]: sp.nsimplify(value, rational=True) for name, value in sde.params.items()}
    alpha, variance = sde.transition(t, 0)[0], sde.covariance(t)[0]
    assert calculus.is_zero(alpha.diff(t) - sde.F[0] * alpha)
    assert calculus.is_zero(variance.diff(t) - 2 * sde.F[0] * variance - sde.GG[0])
    for time, at in ((0.01, 19.0), (0.1, 0.3), (0.4, 0.0), (0.4, 1.0), (0.9, 0.3)):
        point = {**values, t: sp.Rational(str(time)), k2: sp.Rational(str(at))}
        a, s = published(time, at)
        assert float(alpha.subs(point)) == pytest.approx(float(a), rel=1e-12)
        assert math.sqrt(float(variance.subs(point))) == pytest.approx(float(s), rel=1e-12)
        view = sde.at(k2=at)
        assert view.transition(time, 0.0)[0, 0] == pytest.approx(float(a), rel=1e-12)
        assert view.covariance(time)[0, 0] == pytest.approx(float(s) ** 2, rel=1e-12)
    assert float(sde.at().transition(0.5, 0.0)[0, 0]) == pytest.approx(math.cos(math.pi / 4))  # no frequency: the constant image


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"field": "slow"}, "sde.params", "'slow' is defined twice"),
        ({"field": "t"}, "sde.params", "'t' is reserved"),
        ({"field": 3}, "sde.params", "is no name"),
        ({"field": "sigma"}, "sde.params.sigma", "the formulas of a step use this name"),
        ({"field": "other"}, "sde.F[0][0]", "unknown name 'freq'"),
        ({"constraints": ["freq > 0"]}, "sde.constraints", "unknown name 'freq'"),
        ({"let": {"tau": "t", "above": "freq + 1"}, "constraints": ["above > 0"]}, "sde.constraints", "unknown name 'above'"),
    ],
)
def test_what_is_no_field_is_refused(change: dict, key: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        ss.load_sde({**HEAT, **change})
    assert caught.value.key == key and words in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("sde", "sampler", "network", "words"),
    [
        ("blurring", "conjugate", "denoiser", "given one noise level"),
        ("blurring", "conjugate", "edm", "given one noise level"),
        (TWO, "rvv", "eps-L", "more than one block"),
        ({**HEAT, "offset": ["1"]}, "euler", "eps-L", "or an offset"),
        ("blurring", {"name": "c", "family": "conjugate-splitting", "composition": "A!",
                      "parts": {"A": {"linear": "rest", "score": "all", "solve": "conjugate"}}}, "eps-L", "conjugate parts"),
        ("blurring", "sscs", "eps-L", "the law that F and G of blurring would keep"),
    ],
)  # fmt: skip
def test_what_is_not_derived_for_a_field_is_refused_by_name(sde: Any, sampler: Any, network: str, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        ss.derive(sde, sampler, network)


# --- the table --------------------------------------------------------------------------------------------------------

TIMES = torch.tensor([0.99, 0.7, 0.3, 0.1, 0.02], dtype=torch.float64)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_table_of_frequencies_is_the_tables_of_each(sampler: str) -> None:
    module = module_of(sampler)
    table = module.coefficients(TIMES, k2=K2)
    assert table.shape == (4, len(module.COEFFICIENTS), *SHAPE) and table.dtype == torch.float64
    factor = module.start(0.99, k2=K2)
    assert factor.shape == (1, 1, *SHAPE)
    for place in ((0, 0), (0, 5), (3, 2), (5, 7)):
        alone = module.coefficients(TIMES, k2=K2[place])
        assert alone.shape == table.shape[:2]
        torch.testing.assert_close(alone, table[(..., *place)], rtol=1e-13, atol=0)  # sums in another order
        assert torch.equal(module.start(0.99, k2=float(K2[place])), factor[(..., *place)])
    row = module.coefficients(TIMES, k2=K2.flatten())
    assert torch.equal(row, table.flatten(2))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_constant_image_is_diffused_without_blur(sampler: str) -> None:
    """k2 = 0: the plain cosine diffusion, column by column."""
    plain = ss.load(ss.emit(ss.derive(PLAIN, sampler, "eps-L"), certified=False))
    module = module_of(sampler)
    assert module.COEFFICIENTS == plain.COEFFICIENTS
    found, wanted = module.coefficients(TIMES, k2=0.0), plain.coefficients(TIMES)
    assert ((found - wanted).abs() <= 1e-13 * wanted.abs()).all()
    assert not torch.allclose(module.coefficients(TIMES, k2=1.0), wanted, rtol=1e-3)


def test_a_field_that_is_no_eigenvalue_is_refused() -> None:
    with pytest.raises(ValueError, match="k2 must be zero or more"):
        module_of("conjugate").coefficients(TIMES, k2=-1.0)
    with pytest.raises(TypeError, match="k2"):
        module_of("conjugate").coefficients(TIMES)


@pytest.mark.parametrize(("sampler", "network"), [*((s, "eps-L") for s in SAMPLERS), ("conjugate", "x0"), ("conjugate", "v")])
def test_coefficients_agree_with_the_taylor_route_at_several_frequencies(sampler: str, network: str) -> None:
    method, module = ss.derive("blurring", sampler, network), module_of(sampler, network)
    times = [0.995 * 1e-5 ** (k / 12) for k in range(13)]
    for value in (0.0, 0.05, 2.0, 19.5) if network == "eps-L" else (0.0, 2.0):
        found = worst_of(method, times, (2, 11), module=module, field=value)
        assert found.error < limit(times[-1]), (value, found)


def test_the_reference_reads_the_frequency() -> None:
    method, module = ss.derive("blurring", "conjugate", "eps-L"), module_of("conjugate")
    table = [dict(zip(module.COEFFICIENTS, row, strict=True)) for row in module.coefficients(TIMES, k2=0.5).tolist()]
    assert worst(method, TIMES.tolist(), table, (2,), field=0.5).error < 1e-12
    assert worst(method, TIMES.tolist(), table, (2,), field=0.5001).error > 1e-6


def test_a_field_given_by_F_and_G() -> None:
    """Quadrature at nodes (F through a let, no stationary law): the same numbers for a field as for each frequency alone."""
    method = ss.derive(HEAT, "conjugate", "eps-L")
    module = ss.load(ss.emit(method, certified=False))
    grid, k2 = [0.9, 0.5, 0.2], torch.tensor([[0.0, 0.3], [1.0, 4.0]], dtype=torch.float64)
    table = module.coefficients(grid, freq=k2)
    for place in ((0, 0), (0, 1), (1, 1)):
        value = float(k2[place])
        assert torch.allclose(table[(..., *place)], module.coefficients(grid, freq=value), rtol=1e-13, atol=0)
        assert worst_of(method, grid, module=module, field=value).error < 1e-12


IDENTITY = {"name": "ci", "family": "conjugate", "B": "b", "params": {"b": 0.3}}


@pytest.mark.parametrize("sampler", ["conjugate", "oso", "euler", IDENTITY], ids=str)
def test_a_field_may_have_the_name_of_a_variable_of_the_module(sampler: Any) -> None:
    text = str(HEAT).replace("freq", "width")
    renamed = ss.load(ss.emit(ss.derive(ast.literal_eval(text), sampler, "eps-L"), certified=False))
    module = ss.load(ss.emit(ss.derive(HEAT, sampler, "eps-L"), certified=False))
    grid, k2 = [0.9, 0.5, 0.2], torch.tensor([0.0, 2.5], dtype=torch.float64)
    found, wanted = renamed.coefficients(grid, width=k2), module.coefficients(grid, freq=k2)  # terms are sorted by name
    assert renamed.FIELD == "width" and ((found - wanted).abs() <= 1e-14 * wanted.abs()).all()


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "heun"])
def test_lines_of_text_run_a_frequency_at_a_time(sampler: str) -> None:
    """Rows of their own at the start of a grid, a history, two calls: as for each frequency alone, and proven."""
    method, module = ss.derive("blurring", sampler, "eps-L"), module_of(sampler)
    table = module.coefficients(TIMES, k2=K2)
    assert method.order == 2 and torch.equal(module.coefficients(TIMES, k2=K2[3, 2]), table[..., 3, 2])
    assert worst_of(method, TIMES.tolist(), (0, 1, 3), module=module, field=float(K2[3, 2])).error < 1e-12


# --- the transform ----------------------------------------------------------------------------------------------------


def test_the_transform_is_the_orthonormal_cosine_transform() -> None:
    x = torch.randn(2, 3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transform = spectral.Transform.of((3, *SHAPE), torch.float64)
    assert np.allclose(transform.forth(x).numpy(), scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"), atol=1e-13)
    assert (transform.back(transform.forth(x)) - x).abs().max() < 1e-13
    half = spectral.Transform.of((3, *SHAPE), torch.bfloat16)
    assert half.rows.dtype == torch.float32 and half.forth(x.bfloat16()).dtype == torch.bfloat16


def test_k2_is_the_eigenvalue_of_the_heat_kernel() -> None:
    """exp(-k2 tau) on the coefficients is Gaussian blur of variance 2 tau, far from the border."""
    shape, tau = (1, 64, 64), 4.0
    image = torch.zeros(shape, dtype=torch.float64)
    image[0, 32, 32] = 1
    transform = spectral.Transform.of(shape, torch.float64)
    blurred = transform.back(torch.exp(-spectral.field_of(shape) * tau) * transform.forth(image))[0]
    gaussian = torch.exp(-((torch.arange(64, dtype=torch.float64) - 32) ** 2) / (4 * tau)) / math.sqrt(4 * math.pi * tau)
    assert (blurred - gaussian[:, None] * gaussian).abs().max() < 1e-4 * blurred.max()


@pytest.mark.parametrize("kind", ["eps-L", "x0", "score", "v"])
def test_the_exact_network_is_that_of_the_written_out_gaussian(kind: str) -> None:
    """Autograd of the log density of the coefficients."""
    time = torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = published(time)
    transform = spectral.Transform.of(SHAPE, torch.float64)
    image = torch.randn(3, 1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = transform.forth(image).requires_grad_()
    total = alpha**2 * PROBLEM.variance + sigma**2
    log_prob = -((z - alpha * PROBLEM.mean) ** 2 / (2 * total)).sum()
    score = torch.autograd.grad(log_prob, z)[0]
    eps, data = -sigma * score, (z + sigma**2 * score) / alpha
    wanted = {"score": score, "eps-L": eps, "x0": data, "v": alpha * eps - sigma * data}[kind]
    (found,) = exact_network(kind)((image,), time)
    assert (transform.forth(found) - wanted).abs().max() < 1e-10


# --- the step and the run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_step_takes_a_plain_row_and_keeps_the_dtype(sampler: str, dtype: torch.dtype) -> None:
    """Without the runtime too: the unbound row of the table, each column a tensor of float64."""
    module, seen = module_of(sampler), []

    def network(inputs: Any, time: Any) -> Any:
        seen.append(time)
        assert all(x.dtype == dtype for x in inputs)
        return (inputs[0] / 2,)

    table = module.coefficients(TIMES, k2=K2)
    state = (torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype),)
    noise = tuple(torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype) for _ in range(module.DRAWS))
    after, _ = module.step(state, table[1].unbind(0), network, noise)
    mean = module.denoise(state, table[1].unbind(0), network)
    assert after[0].dtype == mean[0].dtype == dtype and after[0].shape == state[0].shape
    assert seen[0].dim() == 0 and seen[0].dtype == torch.float64 and seen[0] == TIMES[1]
    for place in ((0, 0), (2, 5)):  # the same numbers as one frequency alone in float64, rounded once
        alone, _ = module.step(
            tuple(x[(..., *place)].double() for x in state), module.coefficients(TIMES, k2=K2[place])[1].unbind(0),
            lambda inputs, time: ((inputs[0].to(dtype) / 2).double(),), tuple(x[(..., *place)].double() for x in noise),
        )  # fmt: skip
        gap = (after[0][(..., *place)].double() - alone[0]).abs()
        assert (gap <= 2 * torch.finfo(dtype).eps * (1 + alone[0].abs())).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_moments_of_every_frequency_converge_to_the_exact_ones_at_order_one(sampler: str) -> None:
    module, begin, end = module_of(sampler), 0.9, 0.15
    for place in ((0, 0), (1, 0), (2, 3)):
        k2, m, c = float(K2[place]), float(PROBLEM.mean[place]), float(PROBLEM.variance[place])
        (a0, s0), (a1, s1) = (published(time, k2) for time in (begin, end))

        def network(inputs: Any, time: Any, k2: float = k2, m: float = m, c: float = c) -> Any:
            a, s = published(time, k2)
            return (s * (inputs[0] - a * m) / (a**2 * c + s**2),)

        gaps = []
        for steps in (200, 400):
            grid = ss.TimeGrid.uniform(ss.load_sde("blurring"), steps, start=begin, end=end)
            found = probe.moments(
                module, network, grid, [a0 * m], torch.tensor([[a0**2 * c + s0**2]]), params={"k2": k2}
            )
            gaps.append((abs(found.mean[-1, 0] - a1 * m).item(), abs(found.cov[-1, 0, 0] - (a1**2 * c + s1**2)).item()))
        for kind in (0, 1):
            first, second = (gap[kind] for gap in gaps)
            assert second < 1e-12 or math.log2(first / second) > 0.9, (place, kind, gaps)
            assert second < 0.05


def test_samples_have_the_moments_of_the_data() -> None:
    grid = ss.TimeGrid.uniform(ss.load_sde("blurring"), 300, start=0.99, end=1e-3)
    network = exact_network()
    images = ss.sample(module_of("oso"), network, grid, range(1500), dtype=torch.float64, last="denoise")
    assert images.shape == (1500, 1, *SHAPE)
    u = spectral.Transform.of(SHAPE, torch.float64).forth(images)[:, 0]
    assert ((u.mean(0) - PROBLEM.mean).abs() < 5 * (PROBLEM.variance / 1500).sqrt() + 0.05).all()
    ratio = u.var(0) / PROBLEM.variance
    assert (ratio - 1).abs().max() < 0.25 and ratio.mean().item() == pytest.approx(1, abs=0.04)


def test_float32_and_float64_runs_agree_and_the_network_sees_images() -> None:
    shapes = []
    exact = exact_network()

    def network(inputs: Any, time: Any) -> Any:
        shapes.append((inputs[0].shape, inputs[0].dtype, time.dtype, time.dim()))
        return exact(inputs, time)

    grid = ss.TimeGrid.quadratic(ss.load_sde("blurring"), 12)
    wide, narrow = (
        ss.sample(module_of("conjugate"), network, grid, [3, 4], dtype=dtype, shape=(1, *SHAPE))
        for dtype in (torch.float64, torch.float32)
    )
    assert wide.dtype == torch.float64 and narrow.dtype == torch.float32 and (wide - narrow).abs().max() < 1e-4
    assert set(shapes) == {((2, 1, *SHAPE), d, torch.float64, 0) for d in (torch.float64, torch.float32)}


def test_a_shape_without_height_and_width_is_refused() -> None:
    with pytest.raises(InputError, match="no image"):
        ss.sample(module_of("conjugate"), lambda inputs, time: inputs, ss.TimeGrid.explicit([0.9, 0.5]), [0], shape=(3,))


def test_the_mean_of_a_picture_has_a_law_where_a_closed_form_would_divide_by_zero() -> None:
    spec = {**HEAT, "F": [["-freq/10"]], "G": [["1"]], "let": {}, "params": {}}
    module = ss.load(ss.emit(ss.derive(spec, "conjugate", "x0")))
    sigma = module.start(0.7, freq=torch.tensor([0.0, 1.0], dtype=torch.float64)).flatten()
    assert sigma.tolist() == pytest.approx([0.7**0.5, (5 * (1 - math.exp(-0.14))) ** 0.5], rel=1e-13)
