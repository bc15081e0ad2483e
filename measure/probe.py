"""The affine probe: what an emitted step does to a Gaussian, exactly and without Monte Carlo.

For data N(mu, S0 I) the exact network is affine in its inputs, so a step is an affine map of its state z (n
components), carried outputs h (H of them) and draws xi (D standard normals), the same for every coordinate:

    (z', h') = A (z, h) + b + N xi,     A (n + H, n + H), b (n + H,), N (n + H, D).

The map is read off by one call of the step on the zero vector and the unit vectors, put side by side in the batch. Mean
and covariance of the joint vector (z, h) then follow exactly over a grid, m' = A m + b, P' = A P A^T + N N^T, all in
float64. The network must be the exact one of such data and must act on each element of the batch by itself
(``problems.Gaussian(mu, S0).network()`` with numbers mu and S0 does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stepsmith.errors import InputError
from stepsmith.runtime.constants import blocks_of, check_constants
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.sampler import steps_of

Network = Callable[..., tuple[torch.Tensor, ...]]
_LINEAR = 1e-9


@dataclass(frozen=True, eq=False)
class AffineMap:
    """(z', h') = A (z, h) + b + N xi, float64."""

    A: torch.Tensor
    b: torch.Tensor
    N: torch.Tensor

    def __iter__(self):
        return iter((self.A, self.b, self.N))


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (steps + 1, n) and covariance (steps + 1, n, n) of the state at every time of the grid, float64.

    ``joint_mean`` (n + H,) and ``joint_cov`` are those of the last state with the outputs carried out of the last step.
    ``data_mean`` and ``data_var`` are numbers: of the sample that ``sample`` would return, with ``last`` taken into
    account.
    """

    mean: torch.Tensor
    cov: torch.Tensor
    joint_mean: torch.Tensor
    joint_cov: torch.Tensor
    data_mean: float
    data_var: float


def affine_map(
    module: Any,
    c_row: Sequence[torch.Tensor] | torch.Tensor,
    network: Network,
    *,
    step: Callable[..., Any] | None = None,
    draws: int | None = None,
) -> AffineMap:
    """The affine map of one step with the coefficients ``c_row`` (K 0-d tensors, or the row).

    ``step`` and ``draws`` default to the module's. Carried outputs are those of ``module.HISTORY``, newest first; each
    is taken as one number a coordinate. Raises InputError (key ``network``) where the step is not affine, tested on one
    more vector.
    """
    row = c_row.unbind(0) if isinstance(c_row, torch.Tensor) else tuple(c_row)
    step = module.step if step is None else step
    draws = module.DRAWS if draws is None else draws
    n, held = len(module.COMPONENTS), module.HISTORY
    width = n + held + draws
    inputs = torch.cat([torch.zeros(1, width), torch.eye(width), _test_vector(width)]).to(torch.float64)
    columns = inputs.unbind(1)
    with torch.no_grad():
        state, history = step(columns[:n], row, network, columns[n + held :], columns[n : n + held])
    outputs = torch.stack([*state, *tuple(history)[:held]], dim=1)  # (2 + width, n + held)
    b = outputs[0]
    linear = (outputs[1:-1] - b).T
    _check_affine(inputs[-1], outputs[-1], linear, b)
    return AffineMap(linear[:, : n + held], b, linear[:, n + held :])


def moments(
    module: Any,
    network: Network,
    grid: TimeGrid,
    start_mean: Sequence[float] | torch.Tensor | None = None,
    start_cov: torch.Tensor | None = None,
    *,
    params: Mapping[str, float] | None = None,
    last: str = "none",
    constants: Mapping[str, float] | None = None,
) -> Moments:
    """Mean and covariance of the state over a grid, exactly; carried outputs start at zero.

    ``start_mean`` (b,) of the b blocks that move defaults to that of ``module.start_mean`` (zero where it has none) and
    ``start_cov`` (b, b) to L L^T of ``module.start``: what :func:`sample` draws. ``constants``: the values of the constant
    components, numbers; they are the last of the n components.
    """
    n, params = len(module.COMPONENTS), dict(params or {})
    table = module.coefficients(grid.times, **params)
    given = check_constants(module, constants, 1, (), torch.float64)
    m, P = _start(module, grid.times[0].item(), params, [float(value) for value in given])
    blocks = blocks_of(module)
    if start_mean is not None:
        m[:blocks] = torch.as_tensor(start_mean, dtype=torch.float64)
    if start_cov is not None:
        P[:blocks, :blocks] = torch.as_tensor(start_cov, dtype=torch.float64)
    means, covs = [m[:n]], [P[:n, :n]]
    for row, (step, draws) in zip(table.unbind(0), steps_of(module, grid.steps), strict=True):
        A, b, N = affine_map(module, row, network, step=step, draws=draws)
        m, P = A @ m + b, A @ P @ A.T + N @ N.T
        means.append(m[:n])
        covs.append(P[:n, :n])
    pick = torch.eye(n, dtype=torch.float64)[module.DATA], torch.tensor(0.0, dtype=torch.float64)
    if last == "denoise":
        pick = _denoise_map(module, table[-1], network)
    data_mean, data_var = pick[0] @ m[:n] + pick[1], pick[0] @ P[:n, :n] @ pick[0]
    return Moments(torch.stack(means), torch.stack(covs), m, P, data_mean.item(), data_var.item())


def _start(
    module: Any, time: float, params: Mapping[str, float], given: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the start with nothing carried yet, for these values of the constant components."""
    n, blocks = len(module.COMPONENTS), blocks_of(module)
    m = torch.zeros(n + module.HISTORY, dtype=torch.float64)
    P = torch.zeros(len(m), len(m), dtype=torch.float64)
    m[blocks:n] = torch.tensor(given, dtype=torch.float64)
    if hasattr(module, "start_mean"):
        m[:blocks] = module.start_mean(time, **params) @ torch.cat([m[blocks:n], torch.ones(1)])
    factor = torch.as_tensor(module.start(time, **params), dtype=torch.float64)
    P[:blocks, :blocks] = factor @ factor.T
    return m, P


def _denoise_map(module: Any, row: torch.Tensor, network: Network) -> tuple[torch.Tensor, torch.Tensor]:
    """(a, b) of the data component after ``denoise``: a . z + b."""
    n = len(module.COMPONENTS)
    inputs = torch.cat([torch.zeros(1, n), torch.eye(n)]).to(torch.float64)
    with torch.no_grad():
        data = module.denoise(inputs.unbind(1), row.unbind(0), network)[module.DATA]
    return data[1:] - data[0], data[0]


def _test_vector(width: int) -> torch.Tensor:
    """One more vector with nothing special about it, to see whether the map is affine."""
    return torch.cos(torch.arange(1.0, width + 1.0, dtype=torch.float64) * 1.7).unsqueeze(0)


def _check_affine(x: torch.Tensor, y: torch.Tensor, linear: torch.Tensor, b: torch.Tensor) -> None:
    size = linear.abs() @ x.abs() + b.abs() + 1e-300
    if not ((y - (linear @ x + b)).abs() <= _LINEAR * size).all():
        raise InputError(
            "-", "network", "the step is not affine with this network", "probe with the exact network of a Gaussian"
        )
