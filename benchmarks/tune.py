"""What ``stepsmith tune`` gains at equal network calls, on paths that it never saw.

    python benchmarks/tune.py [digits | fashion | galaxies | planar | drawn] [--nfe 8 --nfe 10] [--learn] [--paths N] [--json]

The peers are the emitted rows ddim, dpmpp-2m, unipc-2, unipc-3 and deis-3 on log-SNR, EDM and quadratic grids over the same
span; beside each figure of ours stands the best of the fifteen for that figure alone, in hindsight.  Seeds 0 on are tuned on,
seeds 100000 on are judged.  The truth is adams-3 with a corrector at 200 steps on log-SNR.  Pooled is the root mean square over
all paths, median that of the paths; the standard error of their logarithms is by 200 resamplings of the paths.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch

import stepsmith as ss
from stepsmith.measure.bench import planar
from stepsmith.measure.budgets import drawn_mixture
from stepsmith.measure.choosing import BASELINE, Paths, drawn
from stepsmith.measure.slopes import carried
from stepsmith.tuning import prepared, tuned

PEERS = ("ddim", "dpmpp-2m", "unipc-2", "unipc-3", "deis-3")
GRIDS = ("logsnr", "edm", "quadratic")
FIRST, TRUTH, BATCH = 100_000, 200, 256
NETWORKS = {
    "digits": lambda: ss.networks.load("digits"),
    "fashion": lambda: ss.networks.load("fashion"),
    "galaxies": lambda: ss.networks.load("galaxies"),
    "planar": lambda: planar(1).network(),
    "drawn": lambda: drawn_mixture(seed=3).network(),
}


def distances(module: Any, network: Any, times: torch.Tensor, paths: Paths, params: dict[str, float]) -> torch.Tensor:
    """The mean square distance of each path to its end."""
    parts = zip(paths.starts.split(BATCH, 1), paths.ends.split(BATCH), strict=True)
    squares = [
        (carried(module, network, times, starts, (), params)[0] - ends).flatten(1).square().mean(1) for starts, ends in parts
    ]
    return torch.cat(squares)


def pooled(squares: torch.Tensor) -> torch.Tensor:
    return squares.mean(-1).sqrt()


def median(squares: torch.Tensor) -> torch.Tensor:
    return squares.sqrt().median(-1).values


def doubt(one: torch.Tensor, two: torch.Tensor, figure: Any) -> float:
    """The standard error of log(figure of one / figure of two), the same paths resampled for both."""
    picks = torch.randint(len(one), (200, len(one)), generator=torch.Generator().manual_seed(1))
    return float((figure(one[picks]).log() - figure(two[picks]).log()).std())


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sde, network = ss.load_sde("vp"), NETWORKS[given.problem]()
    bench = prepared(sde, network, given.seeds, kind="denoiser", start=None, end=None, teacher=80, trials=given.trials)
    module = bench.module(BASELINE)
    starts = drawn(module, bench.span[0], range(FIRST, FIRST + given.paths), network.shape)
    times = ss.TimeGrid.logsnr(sde, TRUTH, *bench.span).times
    ends = [carried(module, network, times, part, (), {})[0] for part in starts.split(BATCH, 1)]
    paths = Paths(starts, torch.cat(ends))
    peers = {name: ss.load(f"vp_{name}") for name in PEERS}
    for nfe in given.nfe or (8, 10, 20):
        cells = {}
        for name, peer in peers.items():
            for grid in GRIDS:
                cells[f"{name} {grid}"] = distances(
                    peer, network, getattr(ss.TimeGrid, grid)(sde, nfe, *bench.span).times, paths, {}
                )
        begun = time.perf_counter()
        found = tuned(bench, nfe, learn=given.learn, certified=given.certified)
        seconds = time.perf_counter() - begun
        ours = distances(found.module, network, found.grid.times, paths, {})
        row: dict[str, Any] = {"nfe": nfe, "seconds": round(seconds, 1), "kept": found.module.SAMPLER, "record": found.record}
        for figure in (pooled, median):
            best = min(cells, key=lambda cell: float(figure(cells[cell])))
            row[figure.__name__] = {
                "tuned": float(figure(ours)), "peer": float(figure(cells[best])), "best": best,
                "ratio": float(figure(ours) / figure(cells[best])), "doubt": doubt(ours, cells[best], figure),
            }  # fmt: skip
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="?", choices=sorted(NETWORKS), default="digits")
    parser.add_argument("--nfe", type=int, action="append")
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--paths", type=int, default=1024)
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--certified", type=int)
    parser.add_argument("--trials", help="a file that keeps what was found")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in measured(given):
        rows.append(row)
        if not given.json:
            figures = "   ".join(
                f"{key} {row[key]['tuned']:.1e} (peer {row[key]['peer']:.1e} {row[key]['best']}) "
                f"x{row[key]['ratio']:.2f} +-{row[key]['doubt']:.2f}"
                for key in ("pooled", "median")
            )
            print(f"{row['nfe']:3} calls  {figures}   {row['kept']}, {row['seconds']} s", flush=True)
    if given.json:
        print(json.dumps({"problem": given.problem, "paths": given.paths, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
