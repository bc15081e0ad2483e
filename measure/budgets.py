"""Errors at equal numbers of network calls, over the span that is used in practice, without Monte Carlo.

A run goes from the effective sigma HIGH, or the end of the diffusion's span where that is lower, down to LOW, with as many steps
as the budget buys, on the grid that suits the diffusion: quadratic in t for several blocks, even in log sigma for one.  The
exact network of the module's kind is called; the start has the exact law.

    deterministic   the median over states of the distance in the data block to the exact probability flow (flow.transport):
                    root mean square over the coordinates, in standard deviations of the data
    noise           |v/v* - 1| + |m - m*|/sqrt(v*) of the data's mean m and variance v at the end of a run on Gaussian data,
                    by the affine probe, exact values m*, v*; the largest over the directions of the problem

There are two problems, so that nothing is tuned to one: a mixture in the plane beside a round Gaussian, and a mixture in eight
dimensions drawn from a seed beside a flat Gaussian.  The error of a module is the geometric mean over the two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stepsmith.measure import probe
from stepsmith.measure.flow import Laws, transport
from stepsmith.measure.problems import Gaussian, GaussianMixture
from stepsmith.measure.slopes import GIVEN, MIXTURE, MU, S0, State, carried, gaussian_moments, network_of, starts
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.roots import invert_increasing
from stepsmith.runtime.sampler import steps_of

HIGH, LOW = 160.0, 0.01  # effective sigma
NEAR = 1.01  # where a span ends above LOW, the last sigma over the one at its end
PIECE = 4.0  # what sigma falls by in a piece of the law
PANELS = 3  # of the exact flow in a piece
STATES = 100


@dataclass(frozen=True, eq=False)
class Problem:
    """A mixture for deterministic modules, (mean, variance) of independent directions for those that draw noise."""

    mixture: GaussianMixture
    directions: tuple[tuple[float, float], ...]


def drawn_mixture(size: int = 8, components: int = 5, seed: int = 2) -> GaussianMixture:
    """Weights, means and turned covariances from a seed; standard deviations from 0.05 to 0.6 in each component."""
    generator = torch.Generator().manual_seed(seed)
    weights = 0.5 + torch.rand(components, generator=generator, dtype=torch.float64)
    means = 0.9 * torch.randn(components, size, generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(torch.randn(components, size, size, generator=generator, dtype=torch.float64))[0]
    spread = torch.logspace(math.log10(0.05), math.log10(0.6), size, dtype=torch.float64)
    return GaussianMixture(weights, means, turns @ torch.diag(spread**2) @ turns.mT)


PROBLEMS = (
    Problem(MIXTURE, ((MU, S0),)),
    Problem(drawn_mixture(), ((0.3, 1.0), (-0.5, 0.1), (0.2, 0.01))),
)


@dataclass(frozen=True, eq=False)
class Course:
    """What the modules of one diffusion are run on: the law over the span and the sigmas it runs between."""

    view: Any
    law: Laws
    high: float
    low: float
    field: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[Problem, ...] = PROBLEMS

    @classmethod
    def of(cls, view: Any, field: Mapping[str, float] | None = None) -> Course:
        """From a numeric view (runtime/grid.py) that also gives ``rates(t)``."""
        first, last = (float(t) for t in view.sde.time)
        top = float(view.effective_sigma(last))
        edge = first + 1e-6 * (last - first)
        high, low = min(HIGH, top), max(LOW, NEAR * float(view.effective_sigma(edge)))
        levels = np.geomspace(high, low, 1 + math.ceil(math.log(high / low, PIECE)))
        times = invert_increasing(view.effective_sigma, levels[0 if top > HIGH else 1 :], edge, last).tolist()
        return cls(view, Laws.of(view, times if top > HIGH else [last, *times]), high, low, dict(field or {}))

    @property
    def quadratic(self) -> bool:
        return self.view.sde.n > 1

    @functools.lru_cache(maxsize=256)  # noqa: B019  a course lives as long as its process
    def grid(self, steps: int) -> TimeGrid:
        """Quadratic in t for several blocks, even in log sigma for one."""
        sde = self.view.sde
        if self.quadratic:
            return TimeGrid.quadratic(sde, steps, self.law.high, self.law.low)
        return TimeGrid.logsnr(sde, steps, self.law.high, self.law.low, params=self.field)

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def ends(self, which: int, skew: bool = False) -> tuple[torch.Tensor, torch.Tensor, State]:
        """States of a mixture at the start, where the probability flow (with the ``skew`` drift) takes them, and the constant
        components.
        """
        mixture = self.problems[which].mixture
        values = torch.tensor(GIVEN, dtype=torch.float64).repeat(-(-mixture.size // len(GIVEN)))[: mixture.size]
        given = (values.expand(STATES, -1),) * len(self.law.sde.constant)
        start = starts(self.law, mixture, STATES, given)
        score, state = mixture.score_network("score", self.law, self.law.sde.data[0]), start
        for piece in self.law.pieces:
            state = transport(piece, score, state, given, PANELS, skew)
        return start, state, given


@dataclass(frozen=True)
class Outcome:
    """A module at a budget: steps and calls of the run, the errors on the two problems, and ``why`` where there is no run."""

    steps: int
    calls: int
    errors: tuple[float, ...]
    why: str = ""

    @property
    def error(self) -> float:
        """The geometric mean over the problems; inf where a run failed or did not stay finite."""
        if not self.errors or not all(math.isfinite(e) for e in self.errors):
            return math.inf
        return math.prod(self.errors) ** (1 / len(self.errors))


def steps_within(module: Any, budget: int) -> int:
    """The most steps whose calls, as ``module.nfe`` counts them, are within the budget; 0 where none is."""
    steps = budget // module.NFE + 2  # a last step may cost less
    while steps and module.nfe(steps) > budget:
        steps -= 1
    return steps


def outcome(module: Any, course: Course, budget: int) -> Outcome:
    """The module at a budget of network calls; ``why`` says what it raised."""
    steps = steps_within(module, budget)
    if not steps:
        return Outcome(0, 0, (), "buys no step")
    error = noise_error if any(draws for _, draws in steps_of(module, steps)) else flow_error
    try:
        errors = tuple(error(module, course, k, steps) for k in range(len(course.problems)))
    except (ArithmeticError, ValueError, RuntimeError) as failure:
        return Outcome(steps, module.nfe(steps), (), f"{type(failure).__name__}: {failure}")
    return Outcome(steps, module.nfe(steps), errors)


def flow_error(module: Any, course: Course, which: int, steps: int) -> float:
    """The median distance of the data block to the exact flow."""
    start, end, given = course.ends(which, getattr(module, "SKEW", False))
    mixture = course.problems[which].mixture
    network = network_of(module, mixture, course.law)
    found = carried(module, network, course.grid(steps).times, start, given, course.field)
    scale = mixture.moments()[1].diagonal().mean().sqrt()
    distance = (found[module.DATA] - end[module.DATA]).square().mean(1).sqrt() / scale
    return math.inf if not torch.isfinite(distance).all() else distance.median().item()


def noise_error(module: Any, course: Course, which: int, steps: int) -> float:
    """The largest error of variance and mean over the directions of the Gaussian data."""
    law, names = course.law, tuple(course.law.sde.constant)
    given = torch.full((len(names),), GIVEN[0], dtype=torch.float64)
    errors = []
    for mean, variance in course.problems[which].directions:
        (m0, P0), (m1, P1) = (gaussian_moments(law, t, mean, variance, given) for t in (law.high, law.low))
        network = network_of(module, Gaussian(mean, variance), law)
        constants = dict.fromkeys(names, GIVEN[0]) or None
        found = probe.moments(module, network, course.grid(steps), m0, P0, params=course.field, constants=constants)
        exact = P1[module.DATA, module.DATA].item()
        errors.append(
            abs(found.data_var / exact - 1) + abs(found.data_mean - m1[module.DATA].item()) / math.sqrt(exact)
        )
    return max(e if math.isfinite(e) else math.inf for e in errors)
