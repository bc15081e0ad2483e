"""Exact-score problems: against autograd of the written-out density, the scalar bridge, and one another."""

import math

import numpy as np
import pytest
import torch

from stepsmith.errors import InputError
from stepsmith.measure.problems import KINDS, Gaussian, GaussianMixture, SmoothedSet

torch.set_num_threads(1)
D = 3


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariances(count):
    root = draw(count, D, D, seed=9)
    return 0.2 * root @ root.mT


PROBLEMS = {
    "gaussian": Gaussian(draw(D), 0.3),
    "gaussian-full": Gaussian(draw(D), covariances(1)[0]),
    "mixture": GaussianMixture([3.0, 7.0], draw(2, D), [0.2, 0.5]),
    "mixture-full": GaussianMixture([3.0, 7.0], draw(2, D), covariances(2)),
    "set": SmoothedSet(draw(20, D), 0.1),
}


def density(problem, p, Sigma):
    """log p(z), z (batch, n d), with the n d x n d covariances written out."""

    def log_prob(z):
        terms = []
        for k, weight in enumerate(problem.weights):
            C = torch.diag(problem.variances[k].expand(D))
            if problem.vectors is not None:
                C = problem.vectors[k] @ C @ problem.vectors[k].T
            whole = torch.kron(torch.outer(p, p), C) + torch.kron(Sigma, torch.eye(D, dtype=torch.float64))
            law = torch.distributions.MultivariateNormal(torch.kron(p, problem.means[k]), whole)
            terms.append(law.log_prob(z) + weight.log())
        return torch.logsumexp(torch.stack(terms), dim=0)

    return log_prob


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("data", [0, -1])
def test_the_score_of_n_blocks_is_the_gradient_of_the_written_out_density(name, n, data):
    problem, Psi, root = PROBLEMS[name], draw(n, n, seed=n), draw(n, n, seed=10 + n).tril()
    Sigma = root @ root.T + 0.1 * torch.eye(n)
    z = draw(6, n * D, seed=20).requires_grad_()
    want = torch.autograd.grad(density(problem, Psi[:, data], Sigma)(z).sum(), z)[0]
    blocks = z.detach().split(D, dim=1)
    found = torch.cat(problem.score(blocks, Psi.numpy(), Sigma.numpy(), data), dim=1)
    assert ((found - want).abs() / (1 + want.abs())).max() < 1e-11


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("sigma", [1e-2, 0.5, 80.0])
def test_the_denoiser_obeys_tweedies_formula(name, sigma):
    problem = PROBLEMS[name]
    y = (problem.sample(6, seed=1) + sigma * draw(6, D, seed=2)).requires_grad_()
    log_prob = density(problem, torch.ones(1, dtype=torch.float64), torch.tensor([[sigma**2]], dtype=torch.float64))
    score = torch.autograd.grad(log_prob(y).sum(), y)[0]
    found = problem.denoiser(y.detach(), torch.tensor(sigma, dtype=torch.float64))
    assert (found - (y.detach() + sigma**2 * score)).abs().max() < 1e-11 * (1 + sigma)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_mean_given_n_blocks_is_the_denoiser_of_the_scalar_bridge(name):
    problem, Psi, root = PROBLEMS[name], draw(3, 3, seed=4), draw(3, 3, seed=5).tril()
    Sigma = root @ root.T + 0.1 * torch.eye(3)
    blocks = draw(6, 3, D, seed=6).unbind(1)
    u = torch.linalg.solve(Sigma, Psi[:, 1])
    q = Psi[:, 1] @ u
    y = sum(weight * block for weight, block in zip(u, blocks, strict=True)) / q
    assert (problem.posterior_mean(blocks, Psi, Sigma, data=1) - problem.denoiser(y, q**-0.5)).abs().max() < 1e-12


@pytest.mark.parametrize("name", PROBLEMS)
def test_samples_have_the_moments_of_the_problem_and_the_seed_decides_them(name):
    problem = PROBLEMS[name]
    drawn = problem.sample(100_000, seed=3)
    mean, cov = problem.moments()
    assert (drawn.mean(0) - mean).abs().max() < 5 * (cov.diagonal().max() / 1e5) ** 0.5
    assert (torch.cov(drawn.T) - cov).abs().max() < 10 * cov.abs().max() / 1e5**0.5
    assert torch.equal(drawn, problem.sample(100_000, seed=3)) and not torch.equal(
        drawn, problem.sample(100_000, seed=4)
    )


def test_small_and_large_noise_stay_finite_and_go_to_the_nearest_point_and_the_mean():
    points = draw(5, D)
    problem = SmoothedSet(points, 0.0)
    assert (problem.denoiser(points + 1e-7, 1e-4) - points).abs().max() < 1e-6
    assert (problem.denoiser(points, torch.tensor(1e8)) - points.mean(0)).abs().max() < 1e-7
    far = GaussianMixture([1.0, 1.0], [[-5.0], [5.0]], 0.1).denoiser(torch.tensor([[-1e3], [1e3]]), 0.05)
    assert torch.isfinite(far).all()


def test_images_and_numbers_keep_their_shape_and_dtype():
    images = SmoothedSet(draw(4, 1, 8, 8), 0.1)
    assert images.shape == (1, 8, 8) and images.sample(3, 0).shape == (3, 1, 8, 8)
    y = torch.zeros(2, 1, 8, 8)
    (found,) = images.network()((y,), torch.tensor(0.5, dtype=torch.float64))
    assert found.shape == y.shape and found.dtype == torch.float32 and images.network().shape == (1, 8, 8)
    number = Gaussian(0.3, 0.25)
    assert number.shape == () and number.sample(4, 0).shape == (4,)
    expected = 0.3 + 0.25 / (0.25 + 4.0) * (1.0 - 0.3)
    assert abs(number.denoiser(torch.ones(1, dtype=torch.float64), 2.0).item() - expected) < 1e-15


class View:
    """An n-block numeric view with fixed, time-scaled matrices."""

    time = (0.0, 1.0)

    def __init__(self, n):
        self.n, root = n, draw(n, n, seed=30).tril().numpy()
        self.S, self.P = root @ root.T + 0.2 * np.eye(n), draw(n, n, seed=31).numpy()

    def transition(self, t, s):
        assert s == 0.0
        return np.eye(self.n) + t * self.P

    def covariance(self, t):
        return t * self.S

    def factor(self, t, kind="lower"):
        S = self.covariance(t)
        lower = np.linalg.cholesky(S)
        turn = np.linalg.qr(self.P)[0]
        return {"lower": lower, "upper": np.linalg.cholesky(S[::-1, ::-1])[::-1, ::-1], "gddim": lower @ turn}[kind]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", ["eps-L", "eps-U", "eps-R", "score", "x0"])
def test_every_parameterisation_gives_back_the_same_score(kind, n):
    problem, view, t = PROBLEMS["mixture-full"], View(n), 0.7
    blocks = draw(5, n, D, seed=40).unbind(1)
    network = problem.score_network(kind, view)
    outputs = torch.stack(network(blocks, torch.tensor(t, dtype=torch.float64)), dim=1)
    assert (network.kind, network.inputs, network.outputs) == (kind, n, outputs.shape[1])
    Psi, Sigma = torch.as_tensor(view.transition(t, 0.0)), torch.as_tensor(view.covariance(t))
    if kind == "x0":
        gap = torch.stack(blocks, dim=1) - Psi[:, 0].reshape(n, 1) * outputs
        found = -torch.linalg.solve(Sigma, gap)
    else:
        kinds = {"eps-L": "lower", "eps-U": "upper", "eps-R": "gddim"}
        weight = torch.eye(n, dtype=torch.float64)
        if kind in kinds:
            weight = -torch.linalg.inv(torch.as_tensor(view.factor(t, kinds[kind]).copy())).T
        found = torch.einsum("ij,bjd->bid", weight, outputs)
    want = torch.stack(problem.score(blocks, Psi, Sigma), dim=1)
    assert ((found - want).abs() / (1 + want.abs())).max() < 1e-12


def test_eps_and_v_of_one_block_are_consistent_with_the_mean():
    problem, view, t = PROBLEMS["mixture"], View(1), 0.4
    z, time = draw(5, D, seed=50), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = view.transition(t, 0.0)[0, 0], math.sqrt(view.covariance(t)[0, 0])
    mean, eps, v = (problem.score_network(kind, view)((z,), time)[0] for kind in ("x0", "eps", "v"))
    assert (alpha * mean + sigma * eps - z).abs().max() < 1e-13
    assert (alpha * eps - sigma * mean - v).abs().max() < 1e-14


def test_networks_that_do_not_exist_are_refused():
    assert set(KINDS) == {"score", "x0", "eps-L", "eps-U", "eps-R", "eps", "v", "flow"}
    for kind, view in (("eps-X", View(1)), ("v", View(2)), ("eps", View(2))):
        with pytest.raises(InputError) as caught:
            Gaussian(0.0).score_network(kind, view)
        assert caught.value.key == "network"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (([0.5, -0.5], [[0.0], [1.0]], 1.0), "weights"),
        (([0.5, float("nan")], [[0.0], [1.0]], 1.0), "weights"),
        (([1.0], [[0.0], [1.0]], 1.0), "means"),
        (([1.0], [[float("inf")]], 1.0), "means"),
        (([1.0], [[0.0]], -1.0), "spread"),
        (([1.0, 1.0], [[0.0], [1.0]], [1.0, 2.0, 3.0]), "spread"),
        (([1.0], [[0.0, 1.0]], [[[1.0, 2.0], [0.0, 1.0]]]), "spread"),
        (([1.0], [[0.0, 1.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "spread"),
    ],
)
def test_what_is_no_mixture_is_refused(arguments, key):
    with pytest.raises(InputError) as caught:
        GaussianMixture(*arguments)
    assert caught.value.key == key
