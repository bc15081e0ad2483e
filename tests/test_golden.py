"""The printed numbers of the source paper's re-derivation (psld-and-splitting.md, sections 4.3 and 7)."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

import stepsmith as ss
from stepsmith.runtime import probe, problems

torch.set_num_threads(1)
PSLD = {"Gamma": 0.01, "nu": 4.01, "kappa": 0.04, "beta_min": 8.0, "beta_max": 8.0}
VARIANCE = 0.25


@cache
def module_of(sampler: str, sde: str = "psld", network: str = "denoiser", frame: str | None = None) -> Any:
    return ss.load(ss.emit(ss.derive(sde, sampler, network=network, frame=frame)))


@cache
def view_of(sde: str = "psld") -> Any:
    return ss.load_sde(sde).at()


def close(got: Any, page: Any, digits: float = 1e-12) -> None:
    """Entry by entry; the page prints 15 to 17 digits."""
    got, page = np.asarray(got, dtype=float), np.asarray(page, dtype=float)
    assert got.shape == page.shape
    assert (np.abs(got - page) <= digits * np.abs(page)).all(), (got - page) / page


# --- the kernel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "psi", "sigma"),
    [
        (0.5, [[0.08976482469751433, 0.14362371951602293], [-0.03590592987900573, -0.0538588948185086]],
         [0.9869916107731963, 0.0050795890538757405, 0.24801457686726686]),
        (0.1, [[0.8055634285879424, 0.7160563809670599], [-0.17901409524176498, 0.08950704762088246]],
         [0.22801074474796484, 0.12882510610681536, 0.21603119092705864]),
    ],
)  # fmt: skip
def test_the_psld_kernel(time: float, psi: Any, sigma: Any) -> None:
    close(view_of().transition(time, 0.0), psi)
    close(view_of().covariance(time)[[0, 0, 1], [0, 1, 1]], sigma)


def test_the_inverse_cholesky_factor_of_psld_and_the_emitted_one() -> None:
    page = [[1.006568347249883, -0.010334736398140821], [0.0, 2.008095146345458]]
    close(np.linalg.inv(view_of().factor(0.5, "lower")).T, page)
    emitted = module_of("conjugate", network="eps-L")
    time = torch.tensor([0.5], dtype=torch.float64)
    out, _ = emitted.eps_lower(time, *PSLD.values())
    close(-out[0], page)


@pytest.mark.parametrize(
    ("time", "alpha", "ratio"),
    [
        (0.1, 0.946721798820598, 0.3401765290774009), (0.5, 0.2811828807967524, 3.41291830906912),
        (1.0, 0.006571586494929619, 152.16697028394637),
    ],
)  # fmt: skip
def test_the_vp_kernel(time: float, alpha: float, ratio: float) -> None:
    close(view_of("vp").transition(time, 0.0)[0, 0], alpha)
    close(view_of("vp").effective_sigma(time), ratio)
    row = module_of("conjugate", sde="vp").coefficients([time, 1e-3])[0]
    close(dict(zip(module_of("conjugate", sde="vp").COEFFICIENTS, row.tolist(), strict=True))["sigma_hat_0"], ratio)


# --- one step ---------------------------------------------------------------------------------------------------------


def gaussian_network(module: Any) -> Any:
    """The exact network of data N(0, 0.25) in the parameterisation of the module."""
    exact = problems.Gaussian(0.0, VARIANCE)
    if module.NETWORK == "denoiser":
        return exact.network()
    return exact.score_network(module.NETWORK, view_of(module.SDE))


def affine(module: Any, times: list[float], network: Any, **params: float) -> Any:
    row = module.coefficients(times, **params)[0]
    return probe.affine_map(module, row, network)


def test_the_half_step_of_sscs() -> None:
    """The linear part and the noise of A over h / 2 = 0.005, read off SSCS with h = 0.01 under the stationary score.

    There the kick S vanishes, so the step is A twice: mean squared, covariance Ph C Ph^T + C.
    """
    mean = np.array([[0.9990211924981606, -0.07684778403832006], [0.01921194600958001, 0.9221734084598405]])
    entries = [4.80261461653142e-4, -1.476395477900065e-3, 3.7029952312915004e-2]
    cov = np.array([[entries[0], entries[1]], [entries[1], entries[2]]])
    module = module_of("sscs")
    step = [torch.tensor([v], dtype=torch.float64) for v in (0.495, 0.5)]
    inputs = [PSLD[name] for name in ("Gamma", "nu", "beta_min", "beta_max")]
    decay, factor = module.exact_a(*step, *inputs)
    close(decay[0], mean)
    close(factor[0] @ factor[0].T, cov, 1e-11)  # the page prints the small entries to 15 digits of a difference
    stationary = SimpleNamespace(**{**vars(module), "step": module.step})
    A, b, N = probe.affine_map(stationary, module_of("sscs", network="score").coefficients([0.5, 0.49])[0], score)
    assert b.abs().max() == 0
    close(A, mean @ mean)
    close(N @ N.T, mean @ cov @ mean.T + cov, 1e-11)


def score(inputs: Any, time: Any) -> Any:
    """The score of the stationary law N(0, diag(1, 1/4))."""
    return -inputs[0], -4.0 * inputs[1]


def test_the_exponential_integrator_in_the_cholesky_frame() -> None:
    module = module_of("conjugate", network="eps-L")
    names = module.COEFFICIENTS
    row = dict(zip(names, module.coefficients([0.5, 0.4])[0].tolist(), strict=True))
    step = [[row[f"{i}_{j}"] for j in "xm"] for i in "xm"]
    outputs = [[row[f"{i}_e_{j}"] for j in "xm"] for i in "xm"]
    close(step, [[0.44689218405934567, -3.5751374724747613], [0.8937843681186903, 4.022029656534107]])
    close(outputs, [[-0.0034059328233666222, 1.1223603941274372], [-0.0014049076595682218, -1.8012279152921251]])


STEPS = {
    "euler": ((0.36399452969441, -0.17514681547350), "denoiser", {}),
    "nse": ((0.35604185664908, -0.17514681547350), "denoiser", {}),
    "nvv": ((0.36001819317175, -0.17271770287058), "denoiser", {}),
    "rvv": ((0.36001802017017, -0.17259490403389), "denoiser", {}),
    "conjugate": ((0.35928988387997, -0.16793354801995), "eps-L", {}),
    "conjugate-identity": ((0.35866203729797, -0.16610547455979), "eps-L", {"lam": 2.0}),
    "conjugate-ones": ((0.35989133413021, -0.16766437207577), "eps-L", {"lam": 0.5}),
}


@pytest.mark.parametrize("sampler", STEPS)
def test_one_step_on_gaussian_data(sampler: str) -> None:
    page, network, params = STEPS[sampler]
    module = module_of(sampler, network=network)
    A, b, _ = affine(module, [0.5, 0.48], gaussian_network(module), **params)
    close(A @ torch.tensor([0.3, -0.2], dtype=torch.float64) + b, page)


@pytest.mark.parametrize("sampler", ["euler", "nse", "nvv", "rvv", "rse"])
def test_one_step_by_the_formulas_of_the_page(sampler: str) -> None:
    """Section 4.1 written out in 40 digits, kernel and score included.

    It decides the one number that the page has otherwise: RSE's x is 0.35604151064593, the page prints
    0.35604151063395 (1.2e-11 off; Euler, NSE, NVV and RVV from the same kernel and score agree with it to the last
    digit, and RSE differs from NSE by Gamma beta h (s_x(m) - s_x(m')) / 2 alone).
    """
    with mpmath.workdps(40):
        value = by_hand(sampler)
        module = module_of(sampler)
        A, b, _ = affine(module, [0.5, 0.48], gaussian_network(module))
        got = A @ torch.tensor([0.3, -0.2], dtype=torch.float64) + b
        close(got, [float(v) for v in value], 1e-13)
        if sampler == "rse":
            close(float(value[0]), 0.35604151064593)
            assert abs(float(value[0]) - 0.35604151063395) > 1e-11
        else:
            close([float(v) for v in value], STEPS[sampler][0])


def by_hand(sampler: str) -> tuple[Any, Any]:
    mpf = mpmath.mpf
    Gamma, nu, kappa, beta = mpf(0.01), mpf(4.01), mpf(0.04), mpf(8)
    Mi = (Gamma - nu) ** 2 / 4
    M, t0, t1 = 1 / Mi, mpf(0.5), mpf(0.48)
    h = t0 - t1

    def law(time: Any) -> Any:  # 1.2 with xx0 = 0.25: the law of z for data N(0, 0.25)
        B, c = beta * time, (nu + Gamma) / 2
        N = mpmath.matrix([[(nu - Gamma) / 4, (Gamma - nu) ** 2 / 8], [-mpf(1) / 2, (Gamma - nu) / 4]])
        psi = mpmath.exp(-c * B / 2) * (mpmath.eye(2) + B * N)
        stationary, initial = mpmath.diag([1, M]), mpmath.diag([mpf(VARIANCE), kappa * M])
        return stationary + psi * (initial - stationary) * psi.T

    laws = {time: law(time) ** -1 for time in (t0, t1)}

    def s(x: Any, m: Any, time: Any) -> Any:
        value = -laws[time] * mpmath.matrix([x, m])
        return value[0], value[1]

    def a(x: Any, m: Any, score: Any) -> Any:
        return beta / 2 * (Gamma * x - Mi * m + Gamma * score[0])

    def b(x: Any, m: Any, score: Any) -> Any:
        return beta / 2 * (x + nu * m + M * nu * score[1])

    x, m = mpf(0.3), mpf(-0.2)
    s1 = s(x, m, t0)
    if sampler == "euler":
        return x + h * a(x, m, s1), m + h * b(x, m, s1)
    if sampler in ("nse", "rse"):
        new = m + h * b(x, m, s1)
        return x + h * a(x, new, s(x, new, t0) if sampler == "nse" else s1), new
    half = m + h / 2 * b(x, m, s1)
    moved = x + h * a(x, half, s(x, half, t0) if sampler == "nvv" else s1)
    return moved, half + h / 2 * b(moved, half, s(moved, half, t0 if sampler == "nvv" else t1))


def test_many_steps_end_at_the_exact_value_of_the_page() -> None:
    """The exact flow of one step from (.3, -.2) is (.35973962210446, -.17257177630834): every scheme must tend to it."""
    module = module_of("rvv")
    exact = torch.tensor([0.35973962210446, -0.17257177630834], dtype=torch.float64)
    errors = []
    for steps in (64, 128):
        z = torch.tensor([0.3, -0.2], dtype=torch.float64)
        for row in module.coefficients(torch.linspace(0.5, 0.48, steps + 1, dtype=torch.float64)):
            A, b, _ = probe.affine_map(module, row, gaussian_network(module))
            z = A @ z + b
        errors.append((z - exact).abs().max().item())
    assert errors[1] < 2e-7
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)


# --- moments over a whole grid ----------------------------------------------------------------------------------------

FIGURES = {  # relative error of Var x at 50, 100, 400 steps, as printed
    "euler-maruyama": ("+.122", "+.047", "+.010"), "sscs": ("-.082", "-.041", "-.010"), "noba": ("-.398", "-.219", "-.059"),
    "roba": ("-.400", "-.221", "-.060"), "robab": ("-.073", "-.035", "-.008"), "baoab": ("-.073", "-.035", "-.008"),
}  # fmt: skip


@pytest.mark.parametrize("sampler", FIGURES)
def test_the_variance_over_a_uniform_grid(sampler: str) -> None:
    module, view = module_of(sampler), view_of()

    def law(time: float) -> np.ndarray:
        psi = view.transition(time, 0.0)
        return view.covariance(time) + VARIANCE * np.outer(psi[:, 0], psi[:, 0])

    network = problems.Gaussian(0.0, VARIANCE).network()
    for steps, page in zip((50, 100, 400), FIGURES[sampler], strict=True):
        grid = ss.TimeGrid.uniform(ss.load_sde("psld"), steps, start=1.0, end=1e-3)
        moments = probe.moments(module, network, grid, start_cov=torch.tensor(law(1.0).tolist(), dtype=torch.float64))
        wanted = law(float(grid.times[-1]))[0, 0]
        error = float(moments.cov[-1, 0, 0]) / wanted - 1
        assert f"{error:+.3f}".replace("0.", ".", 1) == page
