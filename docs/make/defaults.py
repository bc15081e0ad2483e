"""The file derive/specs/defaults.toml: the sampler and grid that ``stepsmith sample`` takes where none is named.

Every candidate runs on two trained networks and one exact problem at a few budgets; its error is the root of mean and median over
the paths of the distance to the end of its own flow, by 200 steps of adams-3, or of itself with a skew drift.
The one with the least geometric mean of error over least error is written down, with the others' figures as a comment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import geometric_mean
from typing import Any

import torch

import stepsmith as ss
from stepsmith.measure.bench import planar
from stepsmith.measure.choosing import Paths, drawn, error_of
from stepsmith.measure.slopes import carried
from stepsmith.runtime.grid import span_of

GRIDS = ("logsnr", "quadratic", "tan", "asinh")
SAMPLERS = {
    "one": ("vp", ("adams-2", "adams-3", "adams-3-gaussian", "dpmpp-2m")),
    "several": ("psld", ("adams-2", "adams-3", "adams-3-gaussian-skew", "conjugate")),
}
NETWORKS = {"digits": 64, "fashion": 32, "planar": 256}  # and how many paths
BUDGETS, SEEDS, FINE = (10, 20, 50), 5000, 200
ELSE = ("conjugate", "logsnr")  # where neither is derived
HEAD = """# Made by `python docs/make defaults`: what `stepsmith sample` takes where no sampler is named, if it is derived.
# Error over the least error of the column, geometric mean over {problems} at {budgets} network calls (vp; psld):
"""


def page() -> str:
    """The file."""
    torch.set_num_threads(1)
    lines, chosen = [], {}
    for blocks, (sde, samplers) in SAMPLERS.items():
        ratios = measured(sde, samplers)
        ranked = sorted(ratios, key=lambda pair: ratios[pair])
        chosen[blocks] = ranked[0]
        lines += [f"#   {sde:5} {sampler:22} {grid:10} {ratios[sampler, grid]:.2f}" for sampler, grid in ranked]
    told = HEAD.format(problems=", ".join(NETWORKS), budgets=", ".join(map(str, BUDGETS)))
    tables = [f'[{name}]\nsampler = "{s}"\ngrid = "{g}"\n' for name, (s, g) in {**chosen, "else": ELSE}.items()]
    return told + "\n".join(lines) + "\n\n" + "\n".join(tables)


def measured(sde: str, samplers: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """Of each sampler on each grid."""
    columns: list[dict[tuple[str, str], float]] = []
    for name, paths in NETWORKS.items():
        network = planar(1).network() if name == "planar" else ss.networks.load(name)
        for column in zip(*(errors(sde, sampler, network, paths) for sampler in samplers), strict=True):
            columns.append({pair: value for part in column for pair, value in part.items()})
    return {pair: geometric_mean(column[pair] / min(column.values()) for column in columns) for pair in columns[0]}


def errors(sde: str, sampler: str, network: Any, paths: int) -> Iterator[dict[tuple[str, str], float]]:
    """A dictionary a budget, of one sampler."""
    diffusion = ss.load_sde(sde)
    span = span_of(diffusion, getattr(network, "sigma_range", None), None, None)
    module = ss.load(f"{sde}_{sampler}")
    fine = module if "skew" in sampler else ss.load(f"{sde}_adams_3")
    starts = drawn(module, span[0], range(SEEDS, SEEDS + paths), getattr(network, "shape", (2,)))
    ends = carried(fine, network, ss.TimeGrid.logsnr(diffusion, FINE, *span).times, starts, (), {})[module.DATA]
    known = Paths(starts, ends)
    for calls in BUDGETS:
        times = {grid: getattr(ss.TimeGrid, grid)(diffusion, calls, *span).times for grid in GRIDS}
        found = {(sampler, grid): error_of(module, network, times[grid], known, {}).loss for grid in GRIDS}
        yield {pair: min(value, math.e**9) for pair, value in found.items()}
