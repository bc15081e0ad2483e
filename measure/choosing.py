"""What ``stepsmith tune`` chooses among, and how a choice is judged: on paths of the user's own network.

A path starts where a seed says and ends where a teacher takes it, a row of the family with many steps.  A candidate is a row of
the family adams on a grid; its error on some paths is

    pooled   the root mean square over all paths of the distance to the teacher's ends, a number a coordinate
    median   the median of the root mean squares of the paths

    mean     their mean

and candidates are ranked by sqrt(mean median).  The pooled error is carried by the few paths that end in another mode, and with
32 paths it chooses by which of them those are: on digits at 10 calls sqrt(pooled median) chooses a median 8 % larger and no
smaller pooled error (docs/tune.md; with 64 paths and more its pooled error is the smaller one).

Paths are halved: one half chooses, the other says whether the choice holds.

The steps of a chosen grid are then searched: in log sigma each is multiplied by exp(2 tanh(th/2)) and all are scaled to the same
whole, with th by COBYLA (Powell 1994) from th = 0, which needs no derivatives of the network.  Any grid has the row's order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import scipy.optimize
import torch

from stepsmith.measure.slopes import carried
from stepsmith.runtime.grid import TimeGrid
from stepsmith.runtime.noise import NoiseSource
from stepsmith.runtime.roots import invert_increasing

SCALES = (0.5, 1.0, 2.0)  # of tan, in standard deviations of the data
ASINH = ((0.3, 1.5), (0.3, 2.5), (1.0, 1.5), (1.0, 2.5), (1.0, 4.0))  # centre in standard deviations of the data, k

FIRST_STRETCH = 0.3  # of a step in the search, at first
BAD, TINY = 50.0, 1e-300  # log of the loss where a run is not finite; the least loss, that of an exact run being 0


@dataclass(frozen=True)
class Row:
    """A row of the family adams; ``source`` is what load_sampler reads."""

    frame: str
    order: int
    clock: str
    corrector: bool

    @property
    def name(self) -> str:
        marks = ("c" if self.corrector else "", "" if self.frame == "x0" else f"-{self.frame.lower()}")
        return f"adams-{self.order}{''.join(marks)}" + ("" if self.clock == "log" else f"-{self.clock}")

    @property
    def source(self) -> dict[str, Any]:
        return {"sampler": {"name": self.name, "family": "adams", **asdict(self)}}


BASELINE = Row("x0", 3, "log", True)
ROWS = (
    BASELINE,
    Row("x0", 2, "log", True),
    Row("x0", 2, "log", False),
    Row("x0", 3, "log", False),
    Row("eps-R", 2, "log", True),
    Row("eps-R", 3, "log", False),
    Row("gaussian", 2, "theta", True),
    Row("gaussian", 3, "theta", True),
    Row("gaussian", 4, "theta", True),
    Row("gaussian", 3, "theta", False),
    Row("gaussian", 2, "log", True),
    Row("gaussian", 3, "log", True),
    Row("gaussian", 4, "log", True),
)
BLOCKS = (BASELINE, *(row for row in ROWS if row.frame == "gaussian" and row.clock == "theta"))  # of several blocks


@dataclass(frozen=True)
class Candidate:
    """A row on a grid, with the numbers that the grid takes; ``th`` says how its steps are stretched."""

    row: Row
    grid: str
    given: Mapping[str, float] = field(default_factory=dict)
    th: tuple[float, ...] = ()

    def __hash__(self) -> int:
        return hash((self.row, self.grid, *self.given.items(), self.th))

    @property
    def name(self) -> str:
        numbers = ", ".join(f"{key} {value:g}" for key, value in self.given.items())
        searched = ", its steps searched" if self.th else ""
        return f"{self.row.name} on {self.grid}" + (f" ({numbers})" if numbers else "") + searched

    def times(self, sde: Any, steps: int, start: float, end: float) -> torch.Tensor:
        times = getattr(TimeGrid, self.grid)(sde, steps, start, end, **self.given).times
        if not self.th:
            return times
        sigma = sde.at().effective_sigma
        levels = stretched(torch.from_numpy(np.log(sigma(times.numpy()))), torch.tensor((*self.th, 0.0), dtype=torch.float64))
        inner = invert_increasing(sigma, levels[1:-1].exp().numpy(), *times[[-1, 0]].tolist())
        return torch.cat((times[:1], torch.from_numpy(inner), times[-1:]))


def stretched(levels: torch.Tensor, th: torch.Tensor) -> torch.Tensor:
    """Falling levels whose steps are multiplied by exp(2 tanh(th/2)) and scaled to the same whole."""
    steps = levels.diff() * (2 * torch.tanh(th / 2)).exp()
    inner = levels[0] + (levels[-1] - levels[0]) * (steps.cumsum(0) / steps.sum())[:-1]
    return torch.cat((levels[:1], inner, levels[-1:]))


FIRST = Candidate(BASELINE, "logsnr")  # what a choice has to beat: UniPC's idea


def grids(spread: float) -> tuple[tuple[str, dict[str, float]], ...]:
    """The grids to try for data of the standard deviation ``spread``."""
    tans = (("tan", {"scale": rounded(scale * spread)}) for scale in SCALES)
    asinhs = (("asinh", {"centre": rounded(centre * spread), "k": k}) for centre, k in ASINH)
    return ("logsnr", {}), ("edm", {}), ("quadratic", {}), *tans, *asinhs


def searched(candidate: Candidate, steps: int, error: Callable[[Candidate], Error], evaluations: int) -> Candidate:
    """The candidate with th of the least loss that COBYLA finds in so many evaluations of the ``error``."""
    seen: dict[float, Candidate] = {}

    def loss(th: np.ndarray) -> float:
        trial = replace(candidate, th=tuple(map(rounded, th)))
        value = min(math.log(max(error(trial).loss, TINY)), BAD)
        seen.setdefault(value, trial)
        return value

    options = {"maxiter": evaluations, "rhobeg": FIRST_STRETCH}
    scipy.optimize.minimize(loss, np.zeros(steps - 1), method="COBYLA", options=options)
    return seen[min(seen)]


def candidates(blocks: int, spread: float) -> list[Candidate]:
    """Every row on every grid, the baseline first."""
    return [Candidate(row, *grid) for row in (ROWS if blocks == 1 else BLOCKS) for grid in grids(spread)]


def leaders(ranked: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best candidate of each of the best rows; ``ranked`` begins with the best of all."""
    best: dict[Row, Candidate] = {}
    for candidate in ranked:
        best.setdefault(candidate.row, candidate)
    return list(best.values())[:count]


def rounded(value: float) -> float:
    """To four digits: nothing depends on more, and they are to be read."""
    return float(f"{value:.4g}")


@dataclass(frozen=True)
class Error:
    """Of a candidate on some paths."""

    pooled: float
    median: float
    mean: float

    @classmethod
    def of(cls, found: torch.Tensor, ends: torch.Tensor) -> Error:
        squares = (found - ends).flatten(1).square().mean(1)
        if not torch.isfinite(squares).all():
            return cls(math.inf, math.inf, math.inf)
        roots = squares.sqrt()
        return cls(squares.mean().sqrt().item(), roots.median().item(), roots.mean().item())

    @property
    def loss(self) -> float:
        return math.sqrt(self.mean * self.median)


@dataclass(frozen=True, eq=False)
class Paths:
    """Starts (n, K, ...) and the data at the ends (K, ...) of K paths, float64, and the conditions, an entry a path."""

    starts: torch.Tensor
    ends: torch.Tensor
    cond: Mapping[str, Any] = field(default_factory=dict)

    def half(self, which: int) -> Paths:
        """Every second path."""
        cond = {name: value[which::2] for name, value in self.cond.items()}
        return Paths(self.starts[:, which::2], self.ends[which::2], cond)

    def given(self, network: Any) -> Any:
        """The network with the conditions of these paths."""
        return functools.partial(network, **self.cond) if self.cond else network

    @property
    def spread(self) -> float:
        """The root of the mean variance of the ends over the paths."""
        return rounded(self.ends.var(0).mean().sqrt().item())


def drawn(
    module: Any, start: float, seeds: Sequence[int], shape: Sequence[int], device: Any = "cpu", **params: float
) -> torch.Tensor:
    """Where ``sample`` starts for these seeds and parameters, (n, K, ...)."""
    noise, factor = NoiseSource(seeds).to(device), module.start(start, **params)
    normals = [noise.normal(tuple(shape), "start", 0, j, dtype=torch.float64) for j in range(len(factor))]
    return torch.tensordot(factor.to(device), torch.stack(normals), 1)


def error_of(module: Any, network: Any, times: torch.Tensor, paths: Paths, params: Mapping[str, float]) -> Error:
    """Of a module on a grid; infinite where it refuses the grid."""
    try:
        found = carried(module, paths.given(network), times, paths.starts, (), params)
    except (ValueError, ArithmeticError):
        return Error(math.inf, math.inf, math.inf)
    return Error.of(found[module.DATA], paths.ends)
