"""The first run: derive four samplers from their specs, emit them, draw digits with each, and measure.

    python examples/first_run.py [--samples 900] [--calls 50] [--out out]

ROBA, RVV and conjugate velocity Verlet for phase-space Langevin diffusion and DDIM (the conjugate step with B = 0) for VP, on
the network in the package, at the same number of network calls.  For the deterministic ones the root mean square error to
a fine solution of the same probability flow from the same noise; for all the Frechet distance in a small classifier's
features (not the FID of the literature), beside its floor and its ceiling.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import click
import torch

import stepsmith as ss
from stepsmith.measure import frechet
from stepsmith.runtime import record, write


@dataclass(frozen=True)
class Entry:
    """A sampler of the run; ``reference`` is the step count of the fine solution, None where noise is drawn."""

    label: str
    sde: str
    sampler: str
    reference: int | None


ENTRIES = (
    Entry("PSLD ROBA", "psld", "roba", None),
    Entry("PSLD RVV", "psld", "rvv", 400),
    Entry("PSLD conjugate VV", "psld", "conjugate-vv", 400),
    Entry("VP DDIM", "vp", "conjugate", 800),
)
PICTURED = 64


def draw(
    entry: Entry, method: ss.Method, steps: int, seeds: range, network: object
) -> tuple[torch.Tensor, object, object]:
    """Samples, the module that drew them and the grid."""
    module = ss.load(ss.emit(method))
    grid = ss.TimeGrid.quadratic(method.sde, steps)
    return ss.sample(module, network, grid, seeds), module, grid


def measure(entry: Entry, calls: int, samples: int, network: object, out: Path) -> tuple[str, ...]:
    """One row of the table; the picture and the emitted module are written on the way."""
    method = ss.derive(entry.sde, entry.sampler)
    (out / f"{method.name}.py").write_text(ss.emit(method), encoding="utf-8")
    steps = calls // method.nfe
    begun = time.perf_counter()
    drawn, module, grid = draw(entry, method, steps, range(samples), network)
    seconds = time.perf_counter() - begun
    write(out / f"{method.name}.png", drawn[:PICTURED], record(module, grid, range(PICTURED), network="digits"))
    error = "-"
    if entry.reference is not None:
        fine = ss.derive(entry.sde, "rvv" if entry.sde == "psld" else entry.sampler)
        reference, _, _ = draw(entry, fine, entry.reference, range(PICTURED), network)
        error = f"{(drawn[:PICTURED] - reference).square().mean().sqrt():.4f}"
    distance = f"{frechet.distance(drawn):.3f}"
    return entry.label, str(method.nfe * steps), str(method.draws * steps), f"{seconds:.1f}", error, distance


@click.command()
@click.option("--samples", default=900, show_default=True, help="Samples a sampler; the first 64 are pictured.")
@click.option("--calls", default=50, show_default=True, help="Network calls a sample.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(samples: int, calls: int, out: Path, threads: int) -> None:
    """Derive, emit, sample, measure."""
    torch.set_num_threads(threads)
    warnings.filterwarnings(
        "ignore", message="the grid reaches effective sigmas"
    )  # clipping is meant here, and documented
    out.mkdir(parents=True, exist_ok=True)
    network = ss.networks.load("digits")
    heads = ("sampler", "calls", "draws", "seconds", "RMSE to fine", "Frechet")
    click.echo("{:20}{:>7}{:>7}{:>9}{:>14}{:>9}".format(*heads))
    for entry in ENTRIES:
        click.echo("{:20}{:>7}{:>7}{:>9}{:>14}{:>9}".format(*measure(entry, calls, samples, network, out)))
    click.echo(
        f"\nFrechet: {samples} samples against the data; floor {frechet.FLOOR:.3f} (data drawn again), ", nl=False
    )
    click.echo(
        f"two halves {frechet.HALVES:.3f}, ceiling {frechet.CEILING:.2f} (Gaussian noise).  Pictures and modules: {out}/"
    )


if __name__ == "__main__":
    main()
