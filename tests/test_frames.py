"""The frame eps-R of emitted modules: orthogonal against the Cholesky factor, I at the data end, a solution of its equation."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import stepsmith as ss

torch.set_num_threads(1)
SPECS = ("psld", "cld", "swinging-damping", "hold", "hold-damped", "docs/three-blocks.toml")
EDGES = [1.5**-k for k in range(18)]  # pieces of the span down to 1e-3, in which R is read at Gauss nodes
NODES, WEIGHTS = (values / 2 for values in np.polynomial.legendre.leggauss(16))  # on (-1/2, 1/2)


@cache
def module_of(name: str) -> Any:
    return ss.load(ss.emit(ss.derive(name, "conjugate", "eps-R"), certified=False))


@cache
def frames(name: str) -> tuple[list[float], torch.Tensor]:
    """The times of a grid over the whole span, its pieces and their nodes, and R at each, from the module's own law."""
    pieces = [[a, *((a + b) / 2 - (a - b) * NODES).tolist()] for a, b in itertools.pairwise(EDGES)]
    times = [*itertools.chain(*pieces), EDGES[-1]]
    module, grid = module_of(name), torch.tensor(times, dtype=torch.float64)
    _, inverse = module.Law(module.Diffusion(**module.PARAMS), grid).gddim(grid)
    return times, -inverse.permute(2, 1, 0)


@pytest.mark.parametrize("name", SPECS)
def test_r_is_an_orthogonal_turn_of_the_cholesky_factor_on_the_whole_span(name: str) -> None:
    times, R = frames(name)
    view = ss.load_sde(name).at()
    for time, r in zip(times, R.numpy(), strict=True):
        sigma = view.covariance(time)
        size = np.sqrt(np.diag(sigma))
        assert (np.abs(r @ r.T - sigma) / np.outer(size, size)).max() < 1e-12, time
        if time > 0.04:  # nearer the data the rounding of R itself, times the condition of L, is more
            turn = np.linalg.solve(view.factor(time), r)
            assert np.abs(turn @ turn.T - np.eye(len(turn))).max() < 1e-12, time
    assert (np.abs(R[-1].numpy() - view.factor(times[-1])) / size[:, None]).max() < 1e-12  # O = I at the data end of the grid


@pytest.mark.parametrize("name", SPECS)
def test_r_is_that_of_the_independent_route(name: str) -> None:
    times, R = frames(name)
    view = ss.load_sde(name).at()
    for k in (0, 25, 80, 150):
        wanted = view.factor(times[k], "gddim", end=times[-1])
        size = np.sqrt(np.diag(view.covariance(times[k])))
        assert (np.abs(R[k].numpy() - wanted) / size[:, None]).max() < 1e-12, times[k]


@pytest.mark.parametrize("name", SPECS)
def test_r_solves_its_equation_on_the_whole_span(name: str) -> None:
    """R(a) - R(b) is the integral of F R + G G^T R^-T / 2 over each piece (a, b), all from the module's own tables."""
    times, R = frames(name)
    module, at = module_of(name), torch.tensor(times, dtype=torch.float64)
    sde = module.Diffusion(**module.PARAMS)
    F, G = sde.F(at), sde.G(at)
    right = F @ R + G @ G.mT @ torch.linalg.inv(R).mT / 2
    for k in range(len(EDGES) - 1):
        first, nodes, last = 17 * k, slice(17 * k + 1, 17 * k + 17), 17 * (k + 1)
        weights = torch.tensor(WEIGHTS * (times[first] - times[last]))[:, None, None]
        gap = R[first] - R[last] - (weights * right[nodes]).sum(0)
        rates = 1 + (times[first] - times[last]) * F[first].abs().sum(-1)  # the integral multiplies the rounding of R by F
        size = (rates * torch.maximum(R[first].norm(dim=-1), R[last].norm(dim=-1)))[:, None]  # of a row: blocks differ in size
        assert float((gap / size).abs().max()) < 1e-12, times[first]


@pytest.mark.parametrize("name", ["psld", "cld", "hold"])
def test_a_cholesky_network_is_stepped_in_the_frame_of_r(name: str) -> None:
    """z' = Psi z + (Psi - U) Sigma (-L^-T) n, U = R(t1) R(t0)^-1 with R of the independent route, from the emitted table."""
    module = ss.load(ss.emit(ss.derive(name, "conjugate", "eps-L", "eps-R"), certified=False))
    view, n = ss.load_sde(name).at(), len(module.COMPONENTS)
    t0, t1 = 0.3, 0.2
    row = dict(zip(module.COEFFICIENTS, module.coefficients([t0, t1])[0].tolist(), strict=True))
    U = view.factor(t0, "gddim", end=t1)
    U = view.factor(t1, "gddim", end=t1) @ np.linalg.inv(U)
    psi, L = view.transition(t1, t0), view.factor(t0)
    gap = -(psi - U) @ L
    for i, a in enumerate(module.COMPONENTS):
        for j, b in enumerate(module.COMPONENTS):
            assert row[f"{a}_{b}"] == pytest.approx(psi[i, j], rel=1e-12, abs=1e-14)
            assert row[f"{a}_e_{b}"] == pytest.approx(gap[i, j], rel=1e-11, abs=1e-13)
    assert n in (2, 3)


def net(kind: str, outputs: Any) -> Any:
    return lambda inputs, time: outputs(inputs)


@pytest.mark.parametrize(
    ("outputs", "what"),
    [
        (lambda inputs: inputs[:1], "1 outputs"),
        (lambda inputs: (*inputs, inputs[0]), "3 outputs"),
        (lambda inputs: inputs[0], "not a tuple"),
        (lambda inputs: tuple(x[:, :1] for x in inputs), "shape"),
        (lambda inputs: tuple(torch.cat((x, x), dim=1) for x in inputs), "shape"),
    ],
    ids=["too few", "too many", "a tensor", "one channel, which would be broadcast", "too many channels"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_outputs_that_do_not_fit_are_an_error_before_the_state_is_touched(outputs: Any, what: str, batch: int) -> None:
    module, seen = ss.load(ss.emit(ss.derive("psld", "conjugate", "eps-L"), certified=False)), []
    grid = ss.TimeGrid.uniform(ss.load_sde("psld"), 3)
    with pytest.raises(ss.InputError, match=what):
        ss.sample(module, net("eps-L", outputs), grid, range(batch), shape=(3, 4, 4), callback=lambda k, z, x0: seen.append(k))
    assert not seen


@pytest.mark.parametrize(
    ("network", "more", "what"),
    [
        ({"inputs": 1, "outputs": 2}, {}, "has 1 inputs"),
        ({"inputs": 2, "outputs": 1}, {}, "has 1 outputs"),
        ({"kind": "denoiser"}, {}, "of kind denoiser"),
        ({"shape": (1, 8, 8)}, {"shape": (3, 8, 8)}, "takes samples of shape"),
        ({"shape": (1, 8, 8)}, {"params": {"Gamma": float("inf")}}, "not finite"),
    ],
    ids=["inputs", "outputs", "kind", "shape", "parameter"],
)
def test_a_network_that_says_what_does_not_fit_is_never_called(network: dict[str, Any], more: dict[str, Any], what: str) -> None:
    class Declared:
        def __call__(self, inputs: Any, time: Any) -> Any:
            raise AssertionError("called")

    wrong = Declared()
    wrong.__dict__.update(network)
    grid = ss.TimeGrid.uniform(ss.load_sde("psld"), 3)
    with pytest.raises(ss.InputError, match=what):
        ss.sample("psld_conjugate_eps_l", wrong, grid, range(2), **({"shape": (1, 8, 8)} | more))


def test_a_frame_that_the_sde_does_not_have_is_refused() -> None:
    with pytest.raises((ss.InputError, ss.Unsupported), match="v is defined for one block"):
        ss.derive("psld", "conjugate", "v")
    with pytest.raises((ss.InputError, ss.Unsupported)):
        ss.derive("psld", "conjugate", "denoiser", frame="eps-Q")
    with pytest.raises(ss.InputError, match="do not fit the 2 blocks"):
        one = __import__("sympy").ImmutableMatrix([[1]])
        ss.derive("psld", "conjugate", ss.ScoreParameterization("mine", one, one, one))


def test_a_denoiser_is_never_told_a_sigma_below_zero() -> None:
    sde = {"name": "over", "state": ["x"], "params": {"w": 1.0}, "alpha": "cos(w*t)", "sigma": "sin(w*t)"}
    module = ss.load(ss.emit(ss.derive(sde, "conjugate"), certified=False))

    def network(inputs: Any, time: Any) -> Any:
        raise AssertionError("called")

    with pytest.raises(ss.InputError, match="is not positive: alpha of over passes zero"):
        ss.sample(module, network, ss.TimeGrid.explicit([1.0, 0.5, 0.1]), range(2), shape=(1, 8, 8), params={"w": 2.0})
