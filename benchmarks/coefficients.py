"""Seconds that the table of a 1000-step grid takes on one core, for each module of the catalogue.

    python benchmarks/coefficients.py [--json] [NAME ...]

Processor time of one thread, the least of three calls.  The bound is measured in the same run: one pass of float64 over as
many numbers as the module's nodes have entries, (1000 steps x 20 nodes x n x n) times itself by ``torch.matmul``; the ratio
to it does not depend on the machine as seconds do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

import stepsmith as ss
from stepsmith.derive import catalogue
from stepsmith.templates import emit

STEPS, NODES, LIMIT = 1000, 20, 0.5


def least(f: Callable[[], Any], calls: int = 3) -> float:
    """The least processor time of some calls."""
    found = []
    for _ in range(calls):
        begun = time.process_time()
        f()
        found.append(time.process_time() - begun)
    return min(found)


def quadratic(start: float, end: float) -> torch.Tensor:
    """The grid of the PSLD code, from the end of the span to a thousandth of it."""
    last = start + 1e-3 * (end - start)
    times = last + (end - last) * torch.linspace(1, 0, STEPS + 1, dtype=torch.float64) ** 2
    times[0], times[-1] = end, last
    return times


def measured(row: Any) -> dict[str, Any]:
    method = row.derive()
    module, n = ss.load(emit(method)), method.sde.n
    times = quadratic(module.START, module.END)
    field = {method.sde.field: torch.linspace(0, 19, 32, dtype=torch.float64)} if method.sde.field else {}
    seconds = least(lambda: module.coefficients(times, **field))
    matrices = torch.rand(STEPS * NODES, n, n, dtype=torch.float64)
    bound = least(lambda: matrices @ matrices, 9)
    return {"name": row.name, "seconds": seconds, "ratio": seconds / bound}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [catalogue.find(name) for name in given.names] or catalogue.rows()
    found = []
    for row in rows:
        found.append(measured(row))
        if not given.json:
            print("{name:40} {seconds:8.4f} s  {ratio:8.1f} x".format(**found[-1]), flush=True)
    slow = [one["name"] for one in found if one["seconds"] > LIMIT]
    if given.json:
        print(json.dumps({"steps": STEPS, "limit": LIMIT, "slow": slow, "modules": found}, indent=2))
    else:
        worst = max(found, key=lambda one: one["seconds"])
        print(f"slowest: {worst['name']} {worst['seconds']:.3f} s; {len(slow)} of {len(found)} over {LIMIT} s")


if __name__ == "__main__":
    main()
