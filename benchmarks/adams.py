"""Errors at equal network calls of the family adams: against gDDIM's multistep on PSLD, against DPM-Solver++ and UniPC on VP.

    python benchmarks/adams.py [psld | vp] [--paths N] [--json]

Exact problems (mixtures of Gaussians), the same starts for all, from the end of the span to t = 1e-3 (PSLD) or to an effective
sigma of 0.01 (VP); the truth is the exact probability flow.  Pooled is the root mean square over all paths, median that of
the root mean squares of the paths, both geometric means over the problems.  sigma_data is the spread of 64 samples that
are not judged.  Nothing else is chosen from a problem.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import stepsmith as ss
from stepsmith.measure.budgets import drawn_mixture
from stepsmith.measure.flow import Laws, transport
from stepsmith.measure.problems import GaussianMixture
from stepsmith.measure.slopes import carried, network_of, starts
from stepsmith.runtime.grid import TimeGrid, invert_increasing

BUDGETS = (5, 8, 10, 15, 20, 30, 50)
END = {"psld": 1e-3, "vp": None}  # a time; None: that of sigma = 0.01
PIECE = 4.0  # what sigma falls by in a piece of the law


def adams(order: int, frame: str = "x0", clock: str = "log", corrector: bool = True) -> dict[str, Any]:
    return {"sampler": {
        "name": "own", "family": "adams", "order": order, "frame": frame, "clock": clock, "corrector": corrector,
    }}  # fmt: skip


METHODS: dict[str, list[tuple[str, Any, str]]] = {
    "psld": [
        *((f"gDDIM R AB{q}", adams(q, "eps-R", "-t", False), grid) for q in (1, 2, 3) for grid in ("quadratic", "logsnr")),
        ("conjugate-vv", "conjugate-vv", "quadratic"),
        ("rvv2", "rvv2", "quadratic"),
        *(("adams-2", "adams-2", grid) for grid in ("logsnr", "asinh")),
        *(("adams-3", "adams-3", grid) for grid in ("logsnr", "asinh")),
        *(("adams-3-gaussian", "adams-3-gaussian", grid) for grid in ("tan", "asinh", "quadratic")),
    ],
    "vp": [
        *((name, name, "logsnr") for name in ("ddim", "dpmpp-2m", "dpmpp-3m", "unipc-2", "unipc-3", "deis-3")),
        *((name, name, "edm") for name in ("dpmpp-2m", "unipc-2", "unipc-3", "deis-3")),
        *(("adams-2", "adams-2", grid) for grid in ("logsnr", "asinh")),
        *(("adams-3", "adams-3", grid) for grid in ("logsnr", "asinh")),
        *(("adams-3-gaussian", "adams-3-gaussian", grid) for grid in ("tan", "asinh", "logsnr")),
    ],
}


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


PROBLEMS = (planar(1), planar(2), drawn_mixture(seed=3))


class Judge:
    """The problems on one diffusion: the law over the span, starts and ends."""

    def __init__(self, name: str, paths: int) -> None:
        self.sde, self.paths = ss.load_sde(name), paths
        self.view = self.sde.at()
        first, self.high = (float(t) for t in self.sde.time)
        near = first + 1e-9 * (self.high - first)
        self.low = END[name] or float(invert_increasing(self.view.effective_sigma, [0.01], near, self.high)[0])
        top, least = (float(s) for s in self.view.effective_sigma(np.array([self.high, self.low])))
        levels = np.geomspace(top, least, 1 + math.ceil(math.log(top / least, PIECE)))
        inner = invert_increasing(self.view.effective_sigma, levels[1:-1], self.low, self.high)
        self.law = Laws.of(self.view, [self.high, *inner.tolist(), self.low])
        self.ends = [self._ends(problem) for problem in PROBLEMS]
        self.spread = [float(p.sample(64, 77).var(0).mean().sqrt()) for p in PROBLEMS]

    def _ends(self, problem: GaussianMixture) -> tuple[torch.Tensor, torch.Tensor]:
        first = starts(self.law, problem, self.paths, ())
        score, state = problem.score_network("score", self.law, self.sde.data[0]), first
        for piece in self.law.pieces:
            state = transport(piece, score, state, (), 3)
        return first, state[self.sde.data[0]]

    def errors(self, module: Any, grid: str, calls: int) -> tuple[float, float]:
        """(pooled, median), geometric means over the problems."""
        steps = next(n for n in range(calls, 0, -1) if module.nfe(n) <= calls)
        found = []
        for problem, (first, last), spread in zip(PROBLEMS, self.ends, self.spread, strict=True):
            more = {"scale": spread} if grid == "tan" else {}
            times = getattr(TimeGrid, grid)(self.sde, steps, self.high, self.low, **more).times
            params = {"sigma_data": spread} if "sigma_data" in module.PARAMS else {}
            state = carried(module, network_of(module, problem, self.law), times, first, (), params)
            squares = (state[module.DATA] - last).square().mean(1)
            found.append((squares.mean().sqrt().item(), squares.sqrt().median().item()))
        return tuple(math.exp(sum(map(math.log, column)) / len(found)) for column in zip(*found, strict=True))  # type: ignore[return-value]


def measured(name: str, paths: int) -> Iterator[dict[str, Any]]:
    judge = Judge(name, paths)
    modules: dict[str, Any] = {}
    for label, sampler, grid in METHODS[name]:
        if label not in modules:
            modules[label] = ss.load(ss.emit(ss.derive(name, sampler)))
        cells = [judge.errors(modules[label], grid, calls) for calls in BUDGETS]
        yield {"method": label, "grid": grid, "pooled": [p for p, _ in cells], "median": [m for _, m in cells]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sde", nargs="?", choices=sorted(METHODS), default="psld")
    parser.add_argument("--paths", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'pooled / median':34}" + "".join(f"{calls:>19}" for calls in BUDGETS)) if not given.json else None
    for row in measured(given.sde, given.paths):
        rows.append(row)
        if not given.json:
            cells = "".join(f"{p:10.1e}/{m:8.1e}" for p, m in zip(row["pooled"], row["median"], strict=True))
            print(f"{row['method']:20} {row['grid']:12} {cells}", flush=True)
    if given.json:
        print(json.dumps({"sde": given.sde, "paths": given.paths, "budgets": BUDGETS, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
