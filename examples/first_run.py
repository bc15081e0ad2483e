"""The first run: derive four samplers from their specs, emit them, draw clothes with each, and measure.

    python examples/first_run.py [--samples 1000] [--calls 20] [--out out]

Euler-Maruyama, ROBA and the conjugate integrator of the source paper and the multistep method adams-3, for phase-space Langevin
diffusion on the network of Fashion-MNIST in the package, at the same number of network calls, the last of which is the mean of
the data.  For the deterministic ones the root mean square error to a fine solution of the same probability flow from the same
noise; for all the Frechet distance in a small classifier's features (not the FID of the literature), beside its floor.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image

import stepsmith as ss
from stepsmith.measure import frechet
from stepsmith.runtime import record, write
from stepsmith.runtime.output import image_grid

NETWORK, SDE = "fashion-psld-eps-l", "psld"
GRIDS = {"adams-3": "logsnr"}  # quadratic in t for the others
ENTRIES = {"Euler-Maruyama": "euler-maruyama", "ROBA": "roba", "conjugate": "conjugate", "adams-3": "adams-3"}
FINE = 150  # steps of adams-3 that a deterministic sampler is held to
PICTURED, STRIP = 64, 12
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


@dataclass(eq=False)
class Run:
    """What all samplers of the run share."""

    networks: dict[str, Any]  # by kind: the epsilon network, and the same weights as a prediction of the data
    calls: int
    samples: int
    out: Path
    progress: Progress
    strips: list[torch.Tensor] = field(default_factory=list)  # the first samples of each

    def derive(self, label: str, sampler: str) -> tuple[ss.Method, str]:
        """The method with its proofs, and its module as text."""
        with self.progress.doing(f"{label}: derive {sampler} on {SDE}"):
            method = ss.derive(SDE, sampler, "x0" if sampler == "adams-3" else "eps-L")
        with self.progress.doing(f"{label}: emit {method.name}"):
            return method, ss.emit(method)

    def draw(self, label: str, method: ss.Method, text: str, steps: int, count: int) -> Drawn:
        """Samples of the seeds 0, 1, ..., count - 1."""
        module, make = ss.load(text), getattr(ss.TimeGrid, GRIDS.get(method.sampler.name, "quadratic"))
        grid, network = make(method.sde, steps), self.networks[method.network_name]

        def after(k: int, state: object, x0: object) -> None:
            self.progress.detail = f", step {k + 1} of {steps}"

        with self.progress.doing(f"{label}: draw {count} samples in {steps} steps"):
            begun = time.perf_counter()
            samples = ss.sample(module, network, grid, range(count), callback=after, last="denoise")
            return Drawn(samples, module, grid, time.perf_counter() - begun)

    def row(self, label: str, sampler: str) -> tuple[str, ...]:
        """One row of the table; the picture and the emitted module are written on the way."""
        method, text = self.derive(label, sampler)
        (self.out / f"{method.name}.py").write_text(text, encoding="utf-8")
        steps = (self.calls - 1) // method.nfe
        drawn = self.draw(label, method, text, steps, self.samples)
        about = record(drawn.module, drawn.grid, range(PICTURED), network=NETWORK, last="denoise")
        write(self.out / f"{method.name}.png", drawn.samples[:PICTURED], about)
        error = "-"
        if not method.random:
            error = f"{(drawn.samples[:PICTURED] - self.fine_solution).square().mean().sqrt():.3f}"
        with self.progress.doing(f"{label}: measure the Frechet distance"):
            found, spread = frechet.distance_and_error(drawn.samples.clamp(-1, 1), "fashion")
        calls, draws = method.nfe * steps + 1, method.draws * steps
        self.strips.append(drawn.samples[:STRIP])
        return label, str(calls), str(draws), f"{drawn.seconds:.1f}", error, f"{found:.2f} +- {spread:.2f}"

    @functools.cached_property
    def fine_solution(self) -> torch.Tensor:
        """The pictured samples of the probability flow with many steps, from the same noise."""
        return self.draw("fine solution", *self.derive("fine solution", "adams-3"), FINE, PICTURED).samples


@click.command()
@click.option("--samples", default=1000, show_default=True, help="Samples a sampler; the first 64 are pictured.")
@click.option("--calls", default=20, show_default=True, help="Network calls a sample.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(samples: int, calls: int, out: Path, threads: int) -> None:
    """Derive, emit, sample, measure."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    with progress.doing("load the network"):
        network = ss.networks.load(NETWORK)
    run = Run({"eps-L": network, "x0": ss.networks.predicting_data(network)}, calls, samples, out, progress)
    heads = ("sampler", "calls", "draws", "seconds", "RMSE to fine", "Frechet")
    rows = [heads, *(run.row(label, sampler) for label, sampler in ENTRIES.items())]
    Image.fromarray(image_grid(torch.cat(run.strips), columns=STRIP)).save(out / "samplers.png", optimize=True)
    click.echo()
    for row in rows:
        click.echo("{:16}{:>7}{:>7}{:>9}{:>14}{:>16}".format(*row))
    figures = frechet.reference("fashion").figures
    click.echo(
        f"\nFrechet: {samples} samples against 60,000 images, with the bootstrap's standard error; {figures['count']} images of "
        f"the data have {figures['floor']:.2f}, Gaussian noise {figures['ceiling']:.0f}.  Pictures and modules: {out}/"
    )


if __name__ == "__main__":
    main()
