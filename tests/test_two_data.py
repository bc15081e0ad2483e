"""Diffusions with two data blocks: emitted, loaded, run; `denoise` is the mean of both blocks given the state."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import stepsmith as ss
from stepsmith.errors import InputError

torch.set_num_threads(1)

# The data blocks stand on both sides of the auxiliary one, in an order of their own.
PAIR = {
    "name": "pair", "state": ["x", "u", "q"], "data": ["q", "x"], "time": [0.0, 1.0],
    "F": [["-1", "2", "0"], ["-2", "-3", "1"], ["1/2", "0", "-2"]],
    "G": [["1", "0", "0"], ["0", "2", "0"], ["0", "0", "sqrt(2)"]],
    "initial": {"u": "1/10"},
}  # fmt: skip
GIVEN = np.array([[0.5, 0.2], [0.2, 0.8]])  # the covariance of the data (x, q)
MEAN = np.array([0.7, -0.4])
DATA = [0, 2]


@cache
def module_of(sampler: str, network: str) -> Any:
    return ss.load(ss.emit(ss.derive(PAIR, sampler, network), certified=False))


def law(view: Any, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Psi of the data, and the mean and covariance of z_t for data N(MEAN, GIVEN)."""
    psi = view.transition(time, 0.0)[:, DATA]
    return psi, psi @ MEAN, psi @ GIVEN @ psi.T + view.covariance(time)


def network_of(view: Any, kind: str) -> Any:
    def network(inputs: tuple[torch.Tensor, ...], time: torch.Tensor) -> tuple[torch.Tensor, ...]:
        _, mean, cov = law(view, float(time))
        z = torch.stack(inputs, dim=-1)
        score = (torch.tensor(mean) - z) @ torch.tensor(np.linalg.inv(cov))
        out = score if kind == "score" else -score @ torch.tensor(view.factor(float(time)))
        return out.unbind(-1)

    return network


@pytest.mark.parametrize("time", [0.3, 1e-3])
@pytest.mark.parametrize(("sampler", "network"), [("euler", "score"), ("conjugate", "eps-L"), ("O B! A", "eps-L")])
def test_denoise_is_the_mean_of_both_data_blocks(sampler: str, network: str, time: float) -> None:
    module, view = module_of(sampler, network), ss.load_sde(PAIR).at()
    state = tuple(torch.tensor(values, dtype=torch.float64) for values in ([0.3, -1.0], [1.1, 0.2], [-0.6, 0.9]))
    row = module.coefficients([time * 1.1, time])[-1].unbind(0)
    found = module.denoise(state, row, network_of(view, network))
    psi, mean, cov = law(view, time)
    z = torch.stack(state, dim=-1).numpy()
    wanted = MEAN + (z - mean) @ np.linalg.inv(cov) @ psi @ GIVEN
    assert torch.equal(found[1], state[1])
    for k, block in enumerate(DATA):
        np.testing.assert_allclose(found[block].numpy(), wanted[:, k], rtol=1e-9, atol=1e-10)


def test_what_is_given_of_the_data_is_given_of_both_blocks() -> None:
    module, sde = module_of("conjugate", "eps-L"), ss.load_sde(PAIR)
    network, grid = network_of(sde.at(), "eps-L"), ss.TimeGrid.quadratic(sde, 4, end=1e-2)
    image = torch.zeros(2, 3, dtype=torch.float64)
    ss.sample(module, network, grid, range(2), shape=(3,), dtype=torch.float64, init=(image, image))
    with pytest.raises(InputError, match="init: the number of data blocks is 2 for pair, not 1"):
        ss.sample(module, network, grid, range(2), shape=(3,), dtype=torch.float64, init=image)
    with pytest.raises(InputError, match="data: pair has 2 data blocks; invert a diffusion with one"):
        ss.invert(module, network, grid, image, dtype=torch.float64)


def test_a_run_returns_the_first_data_block_and_the_callback_sees_both() -> None:
    module, sde = module_of("conjugate", "eps-L"), ss.load_sde(PAIR)
    grid, seen = ss.TimeGrid.quadratic(sde, 40, end=1e-2), []
    out = ss.sample(
        module, network_of(sde.at(), "eps-L"), grid, range(4000), shape=(), dtype=torch.float64,
        callback=lambda k, z, x0: seen.append(z),
    )  # fmt: skip
    assert torch.equal(out, seen[-1][module.DATA]) and module.DATA == 2
    _, mean, cov = law(sde.at(), 1e-2)
    found = np.cov(torch.stack(seen[-1]).numpy())
    np.testing.assert_allclose(found, cov, atol=0.08)
    np.testing.assert_allclose(torch.stack(seen[-1]).mean(-1).numpy()[DATA], mean[DATA], atol=0.4)
