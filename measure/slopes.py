"""Measured orders, without Monte Carlo: float64, a compact span, N doubled until the slope converges.

    weak            the affine probe's mean and covariance of a run on Gaussian data N(MU, S0), from the exact law at t_a down
                    to t_b, against the exact law there:  m = Psi e MU + o,  P = S0 (Psi e) (Psi e)^T + Sigma.
    deterministic   a run from a few hundred states of a Gaussian mixture in two dimensions with the exact network of the
                    module's kind, against the probability flow through the same states (flow.transport).

The error of a run of N steps is a vector, exact minus numerical in standard deviations at t_b.  Its size is the median over
the states and the root of the mean square (weak: the largest entry); slope = log2(e_N / e_2N) is the lower of the two, read
where errors are above 1e3 machine epsilons, and converged when two in a row differ by at most 0.05.

A small wrong term hides behind a large right one until N is large.  On smooth grids the error has an expansion e = c_0 + c_1 h
+ c_2 h^2 + ..., so that interpolation through the runs tells each c_k, vector by vector; ``limit`` is the lowest k whose c_k is
beyond doubt, the power that the slope falls to as h goes to 0.  A c_0 of a thousandth of the error of the last run shows.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stepsmith.measure import probe
from stepsmith.measure.flow import Law, Laws, transport
from stepsmith.measure.problems import Gaussian, GaussianMixture
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.networks import edm_coefficients
from stepsmith.runtime.sampler import steps_of

State = tuple[torch.Tensor, ...]
Network = Callable[[State, torch.Tensor], State]

FLOOR = 1e3 * torch.finfo(torch.float64).eps
CONVERGED = 0.05  # two slopes in a row
FIRST, LEAST, MOST = 8, 128, 1024  # steps: of the first run, before which nothing converges, of the last run
DOUBT = 4.0  # a coefficient is seen when it is this many times what one run fewer changes in it
SPAN = (2.0, 0.6)  # effective sigma at t_a and t_b: the data have a standard deviation of about 1
STRETCH = {"uniform": 1.0, "uneven": 4.0}  # first step to last step of a grid
STATES, SEED = 200, 1
MU, S0 = 0.7, 0.45
GIVEN = (0.3, -0.2)  # what a constant component is held at, a number a dimension
MIXTURE = GaussianMixture(
    [0.5, 0.3, 0.2],
    [[0.9, -0.5], [-0.8, 0.4], [0.2, 0.9]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.25, -0.05], [-0.05, 0.35]], [[0.2, 0.0], [0.0, 0.3]]],
)


@dataclass(frozen=True)
class Slope:
    """The reading on one grid: the runs and their errors, the last slope, whether it has converged, and ``limit``: the lowest
    power of h that is seen in the errors, None where that takes more runs."""

    grid: str
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    value: float
    converged: bool
    limit: int | None

    @property
    def lowest(self) -> float:
        """The slope, or the power that it will fall to."""
        return self.value if self.limit is None else min(self.value, float(self.limit))

    def constant(self, order: int) -> float:
        """e N^order of the last run."""
        return self.errors[-1] * float(self.steps[-1]) ** order


@dataclass(frozen=True, eq=False)
class Reference:
    """What the modules of one diffusion are measured on: the span, the law on it, and exact trajectories.

    ``params``: the parameters that the law was made with, where they are not the defaults, and the frequency of a diffusion
    that has a coefficient a frequency.
    """

    law: Law
    params: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, view: Any, params: Mapping[str, float] | None = None) -> Reference:
        """From a numeric view (runtime/grid.py) that also gives ``rates(t)``: F, the terms of the offset and G G^T.

        Where the effective sigma does not reach the span, the span is that of its largest value; where the law is too far from
        a polynomial, its upper half, at most twice.
        """
        high, low = (_time_of(view, sigma) for sigma in _span(view))
        for _ in range(2):
            with contextlib.suppress(ArithmeticError):
                return cls(Law.of(view, low, high), dict(params or {}))
            low = (low + high) / 2
        return cls(Law.of(view, low, high), dict(params or {}))

    def arguments(self, module: Any, own: Mapping[str, float] | None = None) -> dict[str, float]:
        """The parameters as keyword arguments of a module, which takes those that it needs, and the sampler's ``own``."""
        taken = {*module.PARAMS, getattr(module, "FIELD", "")}
        return {name: value for name, value in {**self.params, **(own or {})}.items() if name in taken}

    @property
    def constants(self) -> tuple[str, ...]:
        return tuple(self.law.sde.constant)

    def times(self, steps: int, grid: str) -> torch.Tensor:
        """From t_a to t_b, uniform, or each step longer than the last in the same proportion."""
        share = torch.arange(steps + 1, dtype=torch.float64) / steps
        if STRETCH[grid] != 1.0:
            share = torch.expm1(-share * math.log(STRETCH[grid])) / (1 / STRETCH[grid] - 1)
        times = self.law.high + (self.law.low - self.law.high) * share
        times[0], times[-1] = self.law.high, self.law.low
        return times

    @functools.cached_property
    def given(self) -> State:
        values = torch.tensor(GIVEN, dtype=torch.float64).expand(STATES, len(GIVEN))
        return (values,) * len(self.constants)

    @functools.cached_property
    def start(self) -> torch.Tensor:
        """States of the mixture at t_a, (n, STATES, 2)."""
        return starts(self.law, MIXTURE, STATES, self.given)

    @functools.cached_property
    def end(self) -> torch.Tensor:
        """Where the probability flow takes them by t_b."""
        return self._moved(False)

    @functools.cached_property
    def skewed(self) -> torch.Tensor:
        """Where the flow with the skew drift does."""
        return self._moved(True)

    def _moved(self, skew: bool) -> torch.Tensor:
        score = MIXTURE.score_network("score", self.law, self.law.sde.data[0])
        return transport(self.law, score, self.start, self.given, skew=skew)


def mean_of(law: Law | Laws, t: float, x0: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """E[z_t | x0], (n, ...), for a value of every constant component, ``given`` (m, ...)."""
    Psi, o = (torch.from_numpy(np.ascontiguousarray(M)) for M in (law.transition(t, 0.0), law.offset(t, 0.0)))
    known = torch.cat([given, torch.ones_like(x0)[None]])
    return torch.tensordot(Psi[:, law.sde.data[0]], x0, 0) + torch.tensordot(o, known, 1)


def starts(law: Law | Laws, problem: GaussianMixture, count: int, given: State) -> torch.Tensor:
    """States drawn from the exact law of a mixture at the start of the span, (n, count, d)."""
    generator = torch.Generator().manual_seed(SEED)
    L = torch.from_numpy(law.factor(law.high, "lower"))
    x0 = problem.sample(count, SEED)
    normals = torch.randn(len(L), *x0.shape, dtype=torch.float64, generator=generator)
    known = torch.stack(given) if given else x0.new_empty(0, *x0.shape)
    return mean_of(law, law.high, x0, known) + torch.tensordot(L, normals, 1)


def _span(view: Any) -> tuple[float, float]:
    """The effective sigmas at t_a and t_b."""
    most = min(SPAN[0], float(view.effective_sigma(float(view.sde.time[1]))))
    return most, most * (SPAN[1] / SPAN[0])


def _time_of(view: Any, sigma: float) -> float:
    """The time of an effective sigma to three digits, by bisection."""
    low, high = (float(t) for t in view.sde.time)
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if float(view.effective_sigma(middle)) < sigma else (low, middle)
    return min(float(f"{high:.3g}"), float(view.sde.time[1]))


def network_of(module: Any, problem: GaussianMixture, law: Law | Laws) -> Network:
    """The exact network of the module's kind for the problem."""
    if module.NETWORK == "denoiser":
        return problem.network()
    if module.NETWORK != "edm":
        return problem.score_network(module.NETWORK, law, module.DATA)
    sigma_data = module.PARAMS["sigma_data"]

    def raw(inputs: State, time: torch.Tensor) -> State:
        skip, out, scale, _ = edm_coefficients((4 * time).exp(), sigma_data)
        y = inputs[0] / scale
        return ((problem.denoiser(y, (4 * time).exp()) - skip * y) / out,)

    return raw


def measure(module: Any, reference: Reference, grid: str, own: Mapping[str, float] | None = None) -> Slope:
    """The slope on a grid: the weak one of a module that draws noise in any row, else the deterministic one.

    ``own``: values for parameters of the sampler.
    """
    random = any(draws for _, draws in steps_of(module, 3))
    error, sizes = (linear_error, _largest) if random else (mixture_error, _typical)
    return read(lambda steps: error(module, reference, grid, steps, own), sizes, grid)


def linear_error(
    module: Any, reference: Reference, grid: str, steps: int, own: Mapping[str, float] | None = None
) -> torch.Tensor:
    """Exact minus numerical mean and covariance at t_b on Gaussian data, in standard deviations; no Monte Carlo."""
    law, problem = reference.law, Gaussian(MU, S0)
    given = torch.full((len(reference.constants),), GIVEN[0], dtype=torch.float64)
    (m0, P0), (m1, P1) = (gaussian_moments(law, t, MU, S0, given) for t in (law.high, law.low))
    found = probe.moments(
        module, network_of(module, problem, law), TimeGrid.explicit(reference.times(steps, grid)), m0, P0,
        params=reference.arguments(module, own), constants=dict.fromkeys(reference.constants, GIVEN[0]) or None,
    )  # fmt: skip
    n, scale = len(m1), P1.diagonal().sqrt()
    mean, cov = (m1 - found.mean[-1, :n]) / scale, (P1 - found.cov[-1, :n, :n]) / torch.outer(scale, scale)
    return torch.cat([mean, cov.flatten()])


def gaussian_moments(
    law: Law | Laws, t: float, mean: float, variance: float, given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (n,) and covariance (n, n) of z_t for data N(mean, variance)."""
    p = torch.from_numpy(np.ascontiguousarray(law.transition(t, 0.0)[:, law.sde.data[0]]))
    centre = mean_of(law, t, torch.tensor(mean, dtype=torch.float64), given)
    return centre, variance * torch.outer(p, p) + torch.from_numpy(law.covariance(t))


def mixture_error(
    module: Any, reference: Reference, grid: str, steps: int, own: Mapping[str, float] | None = None
) -> torch.Tensor:
    """Exact minus numerical states of the mixture at t_b, (n, STATES, 2), in standard deviations of their block."""
    network = network_of(module, MIXTURE, reference.law)
    end = reference.skewed if getattr(module, "SKEW", False) else reference.end
    params = reference.arguments(module, own)
    state = carried(module, network, reference.times(steps, grid), reference.start, reference.given, params)
    return (end - state) / end.std((1, 2))[:, None, None]


def carried(
    module: Any, network: Network, times: torch.Tensor, start: torch.Tensor, given: State, params: Mapping[str, float]
) -> torch.Tensor:
    """The states (n, ...) where a run of a deterministic module over ``times`` ends, float64."""
    table = module.coefficients(times, **params)
    state: State = (*start.unbind(0), *given)
    history: State = (torch.zeros_like(start[0]),) * module.HISTORY
    with torch.no_grad():
        for row, (step, _) in zip(table.unbind(0), steps_of(module, len(table)), strict=True):
            state, history = step(state, row.unbind(0), network, (), history)
    return torch.stack(state[: len(start)])


def _largest(error: torch.Tensor) -> tuple[float, ...]:
    return (error.abs().max().item(),)


def _typical(error: torch.Tensor) -> tuple[float, ...]:
    """The median of the states' errors and the root of their mean square."""
    squares = error.square().mean((0, 2))
    return squares.sqrt().median().item(), squares.mean().sqrt().item()


def read(error: Callable[[int], torch.Tensor], sizes: Callable[[torch.Tensor], tuple[float, ...]], grid: str) -> Slope:
    """N doubled until the slope converges, the errors sink into the rounding or N has grown to MOST.

    A power below the slope that it converged to may be chance in the interpolation: it is asked for once more with longer runs.
    """
    steps, errors, found = [FIRST], [error(FIRST)], []
    seen = [sizes(errors[0])]
    converged, limit, last = False, None, errors[0]
    while steps[-1] < MOST and not (converged and (limit is None or limit > min(found[-1]) - 0.5)):
        last = error(2 * steps[-1])
        if not max(sizes(last)) >= FLOOR:  # or not a number
            break
        steps, errors, seen = [*steps, 2 * steps[-1]], [*errors, last], [*seen, sizes(last)]
        found.append([math.log2(a / b) for a, b in zip(*seen[-2:], strict=True)])
        if len(found) > 1:
            converged = max(abs(a - b) for a, b in zip(*found[-2:], strict=True)) <= CONVERGED and steps[-1] >= LEAST
            limit = lowest_power(steps, errors) if len(steps) > 3 else None
    if not all(torch.isfinite(e).all() for e in (*errors, last)):
        return Slope(grid, tuple(steps), tuple(size[0] for size in seen), -math.inf, True, None)
    value = min(found[-1]) if found else math.inf  # exact but for rounding
    return Slope(grid, tuple(steps), tuple(size[0] for size in seen), value, converged or not found, limit)


def lowest_power(steps: Sequence[int], errors: Sequence[torch.Tensor]) -> int | None:
    """The lowest k with c_k beyond doubt in e = c_0 + c_1 h + ...: interpolated through all runs, and all but the first."""
    full, less = _interpolated(steps, errors), _interpolated(steps[1:], errors[1:])
    whole = errors[-1].norm().item()
    for k, (c, d) in enumerate(zip(full, less, strict=False)):
        if c.norm().item() > max(DOUBT * (c - d).norm().item(), FLOOR * math.sqrt(c.numel()), 1e-9 * whole):
            return k
    return None


def _interpolated(steps: Sequence[int], errors: Sequence[torch.Tensor]) -> torch.Tensor:
    """c_k h_last^k, one row a power."""
    h = torch.tensor([steps[-1] / n for n in steps], dtype=torch.float64)
    powers = h[:, None] ** torch.arange(len(steps), dtype=torch.float64)
    return torch.linalg.solve(powers, torch.stack([e.flatten() for e in errors]))
