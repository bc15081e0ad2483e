"""The file derive/specs/defaults.toml: the sampler and grid that ``stepsmith sample`` takes where none is named, and what
docs/which.md says of trained networks.

Every candidate runs on three trained networks and one exact problem.  Its error is the root of mean times median over the paths
of the distance to the end of its own flow (200 steps of adams-3, or of itself with a skew drift), in standard deviations of the
data.  Written down are, for each number of calls, the sampler and grid of the least geometric mean over the problems, and the
best of the other samplers on its own best grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import torch

import stepsmith as ss
from stepsmith import plots
from stepsmith.measure.bench import planar
from stepsmith.measure.choosing import Paths, drawn, error_of
from stepsmith.measure.slopes import carried
from stepsmith.measure.workers import pool, workers_for
from stepsmith.runtime.grid import span_of

GRIDS = ("logsnr", "tan", "asinh")  # in sigma, so that what holds on vp and psld holds on other diffusions
SAMPLERS = {
    "one": ("vp", ("ddim", "dpmpp-2m", "unipc-3", "deis-3", "adams-2", "adams-3", "adams-3-gaussian")),
    "several": ("psld", ("conjugate", "rvv2", "adams-2", "adams-3", "adams-3-gaussian-skew")),
}
NETWORKS = {"digits": 64, "fashion": 64, "galaxies": 64, "planar": 256}  # and how many paths
BUDGETS, SEEDS, FINE = (5, 10, 20, 50), 5000, 200
LOST = 100.0  # an error that counts for all that are larger
PLACE, CURVE = "derive/specs/defaults.toml", "which-trained.svg"
HEAD = f"""\
# Made by `python docs/make defaults`: what `stepsmith sample` takes where no sampler is named: of these rows, if they are
# derived, the one measured at the nearest number of network calls.  `error`: the geometric mean over
# {", ".join(NETWORKS)}, in standard deviations of the data; `next`: the best of the other samplers, `factor` times
# that error.
"""
ELSE = '[[else]]\nsampler = "conjugate"\ngrid = "logsnr"\n'  # where neither is derived
Pair = tuple[str, str]


@dataclass(frozen=True)
class Taken:
    """What is best at a number of calls, and the best of the other samplers."""

    calls: int
    pair: Pair
    error: float
    next: Pair
    factor: float

    def table(self, name: str) -> str:
        lines = (
            f"[[{name}]]", f"calls = {self.calls}", f'sampler = "{self.pair[0]}"', f'grid = "{self.pair[1]}"',
            f"error = {self.error:.3g}", f'next = ["{self.next[0]}", "{self.next[1]}"]', f"factor = {self.factor:.3g}",
        )  # fmt: skip
        return "\n".join(lines) + "\n"


def page(pictures: Path) -> str:
    """The file; the picture is drawn into the folder."""
    found = {blocks: measured(*given) for blocks, given in SAMPLERS.items()}
    curve(found, pictures / CURVE)
    taken = (best(calls, column).table(blocks) for blocks, columns in found.items() for calls, column in columns.items())
    return "\n".join((HEAD, *taken, ELSE))


def best(calls: int, errors: Mapping[Pair, float]) -> Taken:
    """Of a column."""
    ranked = sorted(errors, key=lambda pair: errors[pair])
    other = next(pair for pair in ranked if pair[0] != ranked[0][0])
    return Taken(calls, ranked[0], errors[ranked[0]], other, errors[other] / errors[ranked[0]])


def curve(found: Mapping[str, Mapping[int, Mapping[Pair, float]]], path: Path) -> None:
    """Error against calls, each sampler on its best grid."""
    groups = {
        sde: {name: [min(found[blocks][calls][name, grid] for grid in GRIDS) for calls in BUDGETS] for name in samplers}
        for blocks, (sde, samplers) in SAMPLERS.items()
    }
    plots.measures(groups, BUDGETS).save(path)


def measured(sde: str, samplers: tuple[str, ...]) -> dict[int, dict[Pair, float]]:
    """The geometric mean over the problems for each number of calls and each sampler on each grid."""
    asked = [(sde, sampler, problem) for problem in NETWORKS for sampler in samplers]
    with pool(workers_for(len(asked))) as processes:
        found = list(processes.map(errors, *zip(*asked, strict=True)))
    pairs = [(sampler, grid) for sampler in samplers for grid in GRIDS]
    return {
        calls: {pair: geometric_mean([each[calls, pair] for each in found if (calls, pair) in each]) for pair in pairs}
        for calls in BUDGETS
    }


def errors(sde: str, sampler: str, problem: str) -> dict[tuple[int, Pair], float]:
    """Of one sampler on one problem, on every grid with every number of calls."""
    torch.set_num_threads(1)
    network = planar(1).network() if problem == "planar" else ss.networks.load(problem)
    diffusion = ss.load_sde(sde)
    span = span_of(diffusion, getattr(network, "sigma_range", None), None, None)
    module = ss.load(f"{sde}_{sampler}")
    fine = module if "skew" in sampler else ss.load(f"{sde}_adams_3")
    starts = drawn(module, span[0], range(SEEDS, SEEDS + NETWORKS[problem]), getattr(network, "shape", (2,)))
    ends = carried(fine, network, ss.TimeGrid.logsnr(diffusion, FINE, *span).times, starts, (), {})[module.DATA]
    known, spread = Paths(starts, ends), float(ends.var(0).mean().sqrt())
    return {
        (calls, (sampler, grid)): min(LOST, error_of(module, network, times, known, {}).loss / spread)
        for calls in BUDGETS
        for grid in GRIDS
        for times in (getattr(ss.TimeGrid, grid)(diffusion, calls, *span).times,)
    }
