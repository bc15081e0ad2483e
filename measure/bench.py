"""Samplers against each other at equal numbers of network calls, on exact problems and on trained networks.

All start from the same states and end at the same time; each takes as many steps as a budget of calls buys.  Deterministic
samplers are held to the probability flow, e = (found - exact) of a path, root mean square over its coordinates:

    pooled   root of the mean of e^2 over the paths: set by the few that end elsewhere
    median   the median of e over the paths

and geometric means over the problems.  Samplers that draw noise are held to the law at the end: the variance of the data over
the exact one, and the sliced Wasserstein distance to exact samples, in standard deviations (beside that of exact samples).

A peer is a sampler as diffusers or k-diffusion ship it (the emitted row, equal to 1e-10: tests/test_shipped.py), or gDDIM's
multistep for several blocks, on the peers' grids.  ``best peer`` is the best of them in hindsight, budget by budget.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stepsmith.errors import InputError, Unsupported
from stepsmith.measure.budgets import PIECE, drawn_mixture, steps_within
from stepsmith.measure.flow import Laws, transport
from stepsmith.measure.problems import GaussianMixture
from stepsmith.measure.slopes import network_of, starts
from stepsmith.runtime.grid import TimeGrid, followed
from stepsmith.runtime.noise import NoiseSource
from stepsmith.runtime.sampler import sample, steps_of

BUDGETS = (5, 8, 10, 15, 20, 30, 50)
LOW = 0.01  # the effective sigma at which a run ends
FINE = 200  # steps of the run that a trained network is held to
SEED = 5  # of the starts
CALIBRATION = 77  # the seed of the 64 samples whose spread is sigma_data; they are not judged
SLICES = 64
SHIPPED = ("ddim", "dpmpp-2m", "dpmpp-3m", "dpmpp-2s", "unipc-2", "unipc-3", "deis-2", "deis-3", "heun")
OURS_NOISY, SKEW = "adams-2-gaussian-sde", "adams-3-gaussian-skew"  # on the grid tan
NOISY = ("sde-dpmpp-2m", "sde-dpmpp-3m", "sa-solver", "ddim-eta")
PUBLISHED, SPLIT = ("euler-maruyama", "sscs"), ("roba", "baoab")  # of several blocks; the second are ours
OURS = {
    "logsnr": ("adams-2", "adams-3"), "asinh": ("adams-2", "adams-3", "adams-3-gaussian"), "tan": ("adams-3-gaussian",),
}  # fmt: skip
State = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Contestant:
    """A sampler (a name or a spec) on a grid; ``peer`` where others ship it."""

    sampler: Any
    grid: str
    peer: bool = False
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or str(self.sampler)


def gddim(order: int) -> dict[str, Any]:
    """gDDIM's multistep: Adams-Bashforth in t on epsilon with the factor R (arXiv 2206.05564)."""
    spec = {"name": "gddim", "family": "adams", "order": order, "frame": "eps-R", "clock": "-t", "corrector": False}
    return {"sampler": spec}


def contestants(sde: Any, noise: bool) -> tuple[Contestant, ...]:
    """The peers of a diffusion, and ours."""
    if noise:
        shipped = tuple(Contestant(s, g, True) for s in NOISY for g in ("logsnr", "edm"))
        split = tuple(Contestant(s, "quadratic", s in PUBLISHED) for s in (*PUBLISHED, *SPLIT))
        return (*(shipped if sde.n == 1 else split), Contestant(OURS_NOISY, "tan"))
    if sde.n == 1:
        peers_ = tuple(Contestant(s, g, True) for s in SHIPPED for g in ("logsnr", "edm", "uniform"))
    else:
        grids = ("quadratic", "logsnr", "uniform")
        peers_ = tuple(Contestant(gddim(q), g, True, f"gddim-{q}") for q in (1, 2, 3) for g in grids)
    ours = tuple(Contestant(s, g) for g, samplers in OURS.items() for s in samplers)
    return peers_ + ours + (Contestant(SKEW, "tan") if sde.n > 1 else Contestant("unipc-3", "asinh"),)


@dataclass(frozen=True, eq=False)
class Task:
    """What is sampled: the network of a module's kind, the start (n, paths, ...), where the flow takes the data block, and
    where that with the skew drift does, the same of one block.
    """

    network: Callable[[Any], Any]
    start: torch.Tensor
    end: torch.Tensor
    spread: float
    skewed: torch.Tensor


@dataclass(frozen=True, eq=False)
class Bench:
    """A diffusion with the times between which it is run, and the tasks."""

    sde: Any
    high: float
    low: float
    tasks: tuple[Task, ...]

    @classmethod
    def exact(cls, sde: Any, paths: int, seed: int = SEED) -> Bench:
        """Three mixtures of Gaussians, two in the plane and one in eight dimensions; the truth is the exact flow."""
        high, low = _ends(sde, (0.0, math.inf))
        view = sde.at()
        top, least = (float(s) for s in view.effective_sigma(np.array([high, low])))
        levels = np.geomspace(top, least, 1 + math.ceil(math.log(top / least, PIECE)))
        inner = TimeGrid.sigmas(sde, levels[1:-1]).times.tolist()
        law = Laws.of(view, [high, *inner, low])
        problems = planar(10 * seed + 1), planar(10 * seed + 2), drawn_mixture(seed=10 * seed + 3)
        return cls(sde, high, low, tuple(_exact_task(sde, law, problem, paths) for problem in problems))

    @classmethod
    def trained(cls, sde: Any, network: Any, paths: int, load: Callable[[Any], Any], seed: int = SEED) -> Bench:
        """A network of this kind; the truth is ``adams-3`` at 200 steps even in log sigma from the same starts."""
        high, low = _ends(sde, network.sigma_range or (0.0, math.inf))
        module = load("adams-3")
        L = torch.as_tensor(module.start(high), dtype=torch.float64)
        source, shape = NoiseSource(range(10**6 * seed, 10**6 * seed + paths)), tuple(network.shape)
        normals = torch.stack([source.normal(shape, "start", 0, j, dtype=torch.float64) for j in range(len(L))])
        start = torch.tensordot(L, normals, 1)
        sample(module, network, TimeGrid.logsnr(sde, 1, high, low), [0], dtype=torch.float64)  # refuses one that does not fit
        fine = TimeGrid.logsnr(sde, FINE, high, low).times
        own = NoiseSource(range(CALIBRATION * 10**6, CALIBRATION * 10**6 + 64))
        apart = torch.stack([own.normal(shape, "start", 0, j, dtype=torch.float64) for j in range(len(L))])
        ends = [run(module, network, fine, each, {}) for each in (start, torch.tensordot(L, apart, 1))]
        skewed = run(load(SKEW), network, fine, start, {}) if sde.n > 1 else ends[0]
        return cls(sde, high, low, (Task(lambda module: network, start, ends[0], float(ends[1].var(0).mean().sqrt()), skewed),))

    @functools.cached_property
    def law(self) -> Any:
        return followed(self.sde)

    def times(self, grid: str, steps: int, spread: float) -> torch.Tensor:
        """The grid between the ends; ``tan`` at the spread of the data."""
        more = {"scale": spread} if grid == "tan" else {}
        found: torch.Tensor = getattr(TimeGrid, grid)(self.law, steps, self.high, self.low, **more).times
        return found

    def cell(self, module: Any, grid: str, calls: int) -> dict[str, float]:
        """What is measured of a module at a budget, geometric means over the tasks; nothing where no step is bought."""
        steps = steps_within(module, calls)
        if not steps:
            return {}
        each = [self._measured(module, self.times(grid, steps, task.spread), task) for task in self.tasks]
        return {key: math.exp(sum(math.log(max(one[key], 1e-300)) for one in each) / len(each)) for key in each[0]}

    def _measured(self, module: Any, times: torch.Tensor, task: Task) -> dict[str, float]:
        params = {"sigma_data": task.spread} if "sigma_data" in module.PARAMS else {}
        found = run(module, task.network(module), times, task.start, params)
        if any(draws for _, draws in steps_of(module, len(times) - 1)):
            spread = task.end.std(0).mean()
            ratio = (found.flatten(1).var(0).sum() / task.end.flatten(1).var(0).sum()).item()
            return {"variance": ratio, "distance": sliced(found, task.end) / float(spread)}
        end = task.skewed if getattr(module, "SKEW", False) else task.end
        squares = (found - end).flatten(1).square().mean(1)
        pooled, middle = squares.mean().sqrt().item(), squares.sqrt().median().item()
        if not math.isfinite(pooled):
            return dict.fromkeys(("pooled", "median", "error"), math.inf)
        # Two standard errors of pooled are told by that of the mean of the squares.
        return {"pooled": pooled, "median": middle, "error": float(squares.std() / len(squares) ** 0.5 / (2 * pooled))}


def run(module: Any, network: Any, times: torch.Tensor, start: torch.Tensor, params: Mapping[str, float]) -> torch.Tensor:
    """The data block at the end of a run from the states ``start`` (n, paths, ...), float64; noise by the path."""
    table = module.coefficients(times, **params)
    state: State = start.unbind(0)
    history: State = (torch.zeros_like(state[0]),) * module.HISTORY
    noise, shape = NoiseSource(range(len(state[0]))), tuple(state[0].shape[1:])
    with torch.no_grad():
        for k, (row, (step, draws)) in enumerate(zip(table.unbind(0), steps_of(module, len(table)), strict=True)):
            normals = tuple(noise.normal(shape, "step", k, j, dtype=torch.float64) for j in range(draws))
            state, history = step(state, row.unbind(0), network, normals, history)
    found: torch.Tensor = state[module.DATA]
    return found


def sliced(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The sliced Wasserstein distance: root of the mean over directions of the mean squared gap of sorted projections."""
    a, b = found.flatten(1), exact.flatten(1)
    ways = torch.randn(a.shape[1], SLICES, dtype=a.dtype, generator=torch.Generator().manual_seed(0))
    ways = ways / ways.norm(dim=0)
    return float(((a @ ways).sort(0).values - (b @ ways).sort(0).values).square().mean().sqrt())


def planar(seed: int) -> GaussianMixture:
    """Six components in the plane, standard deviations 0.2 along and 0.04 across, turned at random."""
    generator = torch.Generator().manual_seed(seed)
    weights = 0.3 + torch.rand(6, generator=generator, dtype=torch.float64)
    means = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    angles = math.pi * torch.rand(6, generator=generator, dtype=torch.float64)
    along = torch.stack((angles.cos(), angles.sin()), dim=-1)
    across = torch.stack((-angles.sin(), angles.cos()), dim=-1)
    outer = lambda v, s: s**2 * v[:, :, None] * v[:, None, :]  # noqa: E731
    return GaussianMixture(weights, means, outer(along, 0.2) + outer(across, 0.04))


def _exact_task(sde: Any, law: Laws, problem: GaussianMixture, paths: int) -> Task:
    first, score, ends = starts(law, problem, paths, ()), problem.score_network("score", law, sde.data[0]), []
    for skew in (False, True) if sde.n > 1 else (False,):
        state = first
        for piece in law.pieces:
            state = transport(piece, score, state, (), 3, skew)
        ends.append(state[sde.data[0]])
    spread = float(problem.sample(64, CALIBRATION).var(0).mean().sqrt())
    network = functools.partial(network_of, problem=problem, law=law)
    return Task(network, first, ends[0], spread, ends[-1])


def _ends(sde: Any, bounds: tuple[float, float]) -> tuple[float, float]:
    """The times of a run: from the end of the span, or the network's largest sigma, to a sigma of LOW, or its least."""
    if sde.constant or sde.field or len(sde.data) != 1:
        what = f"{sde.name} has constants, several data blocks or a coefficient a frequency"
        raise Unsupported(what, "compare samplers on another diffusion")
    first, last = (float(t) for t in sde.time)
    reached = sde.at().effective_sigma(np.array([first + 1e-6 * (last - first), last])).tolist()
    levels = [min(reached[1], bounds[1]), max(reached[0], bounds[0], LOW)]
    high, low = TimeGrid.sigmas(sde, levels).times.tolist()
    return (last if levels[0] == reached[1] else high), low


@dataclass(frozen=True)
class Line:
    """A contestant and its cells, a dict a budget."""

    contestant: Contestant
    cells: tuple[Mapping[str, float], ...] = field(default=())

    def values(self, key: str) -> list[float]:
        """A measure, budget by budget; infinite where no step is bought."""
        return [cell.get(key, math.inf) for cell in self.cells]


def compete(
    bench: Bench, lines: Sequence[Contestant], budgets: Sequence[int], load: Callable[[Any], Any]
) -> Iterator[Line]:
    """The contestants in turn, measured; ``load`` makes a module of a sampler."""
    for contestant in lines:
        module = load(contestant.sampler)
        yield Line(contestant, tuple(bench.cell(module, contestant.grid, calls) for calls in budgets))


def best_peer(lines: Sequence[Line], key: str) -> list[float]:
    """The least of the peers, budget by budget."""
    peers = [line.values(key) for line in lines if line.contestant.peer]
    if not peers:
        raise InputError("-", "sampler", "no peer is among the contestants", "leave --sampler out")
    return [min(column) for column in zip(*peers, strict=True)]


def ratio(line: Line, best: Sequence[float], key: str) -> float:
    """The geometric mean over the budgets of a measure to that of the best peer."""
    pairs = [(own, peer) for own, peer in zip(line.values(key), best, strict=True) if math.isfinite(own) and math.isfinite(peer)]
    return math.exp(sum(math.log(own / peer) for own, peer in pairs) / len(pairs)) if pairs else math.inf
