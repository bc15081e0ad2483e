"""``stepsmith report``: a page on your own diffusion."""

from __future__ import annotations

from pathlib import Path

import click

from stepsmith.cli.shared import out_option
from stepsmith.errors import InputError


@click.command("report")
@click.argument("sde")
@click.argument("samplers", nargs=-1)
@click.option("--network", default="fashion", show_default=True, help="As of `stepsmith sample`.")
@out_option("Folder of report.html, report.tex, report.md and the pictures.", Path("out/report"))
def command(sde: str, samplers: tuple[str, ...], network: str, out: Path) -> None:
    """Write a report on a diffusion and samplers: derived, proven, measured, drawn. SDE and SAMPLER are names or .toml files.

    Without a sampler it is written of conjugate, rvv and adams-3.
    """
    import torch

    import stepsmith as ss
    from stepsmith.reporting import written
    from stepsmith.runtime import check_folder

    torch.set_num_threads(1)
    known = ss.networks.load(network)
    if known.kind != "denoiser":
        raise InputError("-", "network", f"{network} is of kind {known.kind}", "give a denoiser, which serves any diffusion")
    chosen = samplers or ("conjugate", "rvv", "adams-3")
    found = written(ss.load_sde(sde), chosen, known, check_folder(out), lambda title: click.echo(title, err=True))
    click.echo("\n".join(str(path) for path in found[-3:]))
