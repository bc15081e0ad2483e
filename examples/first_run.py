"""The first run: derive four samplers from their specs, emit them, draw digits with each, and measure.

    python examples/first_run.py [--samples 900] [--calls 50] [--out out]

ROBA, RVV and conjugate velocity Verlet for phase-space Langevin diffusion and DDIM (the conjugate step with B = 0) for VP, on
the network in the package, at the same number of network calls.  For the deterministic ones the root mean square error to
a fine solution of the same probability flow from the same noise; for all the Frechet distance in a small classifier's
features (not the FID of the literature), beside its floor and its ceiling.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
EVERY = 4.0  # seconds between two lines about the same work


class Progress:
    """Lines on stderr with the time since the start: one when a piece of work begins, and one every EVERY seconds."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.detail = ""

    @contextlib.contextmanager
    def doing(self, work: str) -> Iterator[None]:
        """Report a piece of work while the block runs."""
        ended = threading.Event()
        self.detail = ""
        self.show(work)
        thread = threading.Thread(target=self.repeat, args=(work, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def repeat(self, work: str, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            self.show(work)

    def show(self, work: str) -> None:
        click.echo(f"[{time.perf_counter() - self.begun:6.1f} s] {work}{self.detail}", err=True)


@dataclass(frozen=True)
class Drawn:
    """Samples with what drew them, and how long that took."""

    samples: torch.Tensor
    module: Any
    grid: ss.TimeGrid
    seconds: float


@dataclass(frozen=True)
class Run:
    """What all samplers of the run share."""

    network: Any
    calls: int
    samples: int
    out: Path
    progress: Progress

    def derive(self, label: str, sde: str, sampler: str) -> tuple[ss.Method, str]:
        """The method with its proofs, and its module as text."""
        with self.progress.doing(f"{label}: derive {sampler} on {sde}"):
            method = ss.derive(sde, sampler)
        with self.progress.doing(f"{label}: emit {method.name}"):
            return method, ss.emit(method)

    def draw(self, label: str, method: ss.Method, text: str, steps: int, count: int) -> Drawn:
        """Samples of the seeds 0, 1, ..., count - 1."""
        module, grid = ss.load(text), ss.TimeGrid.quadratic(method.sde, steps)

        def after(k: int, state: object) -> None:
            self.progress.detail = f", step {k + 1} of {steps}"

        with self.progress.doing(f"{label}: draw {count} samples in {steps} steps"):
            begun = time.perf_counter()
            samples = ss.sample(module, self.network, grid, range(count), callback=after)
            return Drawn(samples, module, grid, time.perf_counter() - begun)

    def row(self, entry: Entry) -> tuple[str, ...]:
        """One row of the table; the picture and the emitted module are written on the way."""
        method, text = self.derive(entry.label, entry.sde, entry.sampler)
        (self.out / f"{method.name}.py").write_text(text, encoding="utf-8")
        steps = self.calls // method.nfe
        drawn = self.draw(entry.label, method, text, steps, self.samples)
        about = record(drawn.module, drawn.grid, range(PICTURED), network="digits")
        write(self.out / f"{method.name}.png", drawn.samples[:PICTURED], about)
        error = "-"
        if entry.reference is not None:
            fine = self.fine_solution(entry.sde, "rvv" if entry.sde == "psld" else entry.sampler, entry.reference)
            error = f"{(drawn.samples[:PICTURED] - fine).square().mean().sqrt():.4f}"
        with self.progress.doing(f"{entry.label}: measure the Frechet distance"):
            distance = f"{frechet.distance(drawn.samples):.3f}"
        return entry.label, str(method.nfe * steps), str(method.draws * steps), f"{drawn.seconds:.1f}", error, distance

    @functools.lru_cache  # noqa: B019  there is one run a process
    def fine_solution(self, sde: str, sampler: str, steps: int) -> torch.Tensor:
        """The pictured samples of the probability flow with many steps, from the same noise."""
        label = f"fine solution of {sde}"
        return self.draw(label, *self.derive(label, sde, sampler), steps, PICTURED).samples


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
    progress = Progress()
    with progress.doing("load the network"):
        network = ss.networks.load("digits")
    run = Run(network, calls, samples, out, progress)
    heads = ("sampler", "calls", "draws", "seconds", "RMSE to fine", "Frechet")
    rows = [heads, *map(run.row, ENTRIES)]
    click.echo()
    for row in rows:
        click.echo("{:20}{:>7}{:>7}{:>9}{:>14}{:>9}".format(*row))
    click.echo(
        f"\nFrechet: {samples} samples against the data; floor {frechet.FLOOR:.3f} (data drawn again), ", nl=False
    )
    click.echo(
        f"two halves {frechet.HALVES:.3f}, ceiling {frechet.CEILING:.2f} (Gaussian noise).  Pictures and modules: {out}/"
    )


if __name__ == "__main__":
    main()
