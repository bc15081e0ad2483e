"""``stepsmith report``: a page on your own diffusion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from stepsmith.cli.shared import examples, out_option, progress, quiet
from stepsmith.errors import InputError


@click.command("report", epilog=examples("report psld", "report mine.toml rvv adams-3 --out report"))
@click.argument("sde")
@click.argument("samplers", nargs=-1)
@click.option("--network", default="fashion", show_default=True, help="A denoiser, named as for `stepsmith sample`.")
@out_option("Folder of report.html, report.tex, report.md and the pictures.", Path("out/report"))
def command(sde: str, samplers: tuple[str, ...], network: str, out: Path) -> None:
    """Write a report on SDE and SAMPLERS, with what was derived, proven and measured, and with samples.

    SDE and SAMPLERS are names or .toml files; a sampler may also be a composition.

    Without SAMPLERS it covers conjugate, rvv and adams-3; for one block heun in the place of rvv, or euler where the diffusion
    has an offset.
    """
    import torch

    import stepsmith as ss
    from stepsmith.reporting import written
    from stepsmith.runtime import check_folder

    torch.set_num_threads(1)
    check_folder(out)
    diffusion, known = ss.load_sde(sde), ss.networks.load(network)
    if known.kind != "denoiser":
        raise InputError("-", "network", f"{network} is of kind {known.kind}", "give a denoiser, which serves any diffusion")
    plain = "heun" if diffusion.offset_let.is_zero_matrix else "euler"
    chosen = samplers or ("conjugate", "rvv" if diffusion.n > 1 else plain, "adams-3")
    with shown() as begun:
        found = written(diffusion, chosen, known, out, begun)
    click.echo("\n".join(str(path) for path in found[-3:]))


@contextmanager
def shown() -> Iterator[Callable[[str, int], None]]:
    """A bar that names the section in hand; the titles alone where stderr is no terminal."""
    if quiet(False):
        yield lambda title, count: click.echo(title, err=True)
        return
    with progress(None, None, "") as bar:
        done = itertools.count()

        def begun(title: str, count: int) -> None:
            bar.total, bar.n = count, next(done)
            bar.set_description(title)

        yield begun
