"""``stepsmith grid SDE``: the times of a run, and the noise there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from stepsmith.cli.sample import GRIDS
from stepsmith.cli.shared import examples, json_option, plot_option, print_json
from stepsmith.errors import InputError


@click.command("grid", epilog=examples("grid psld --steps 10", "grid vp --grid edm --plot grid.png"))
@click.argument("sde")
@click.option(
    "--grid",
    "names",
    type=click.Choice(GRIDS),
    multiple=True,
    help="A kind of grid; may be repeated; by default all that fit.",
)
@click.option("--steps", type=int, help="Steps of the grid (10 by default).")
@click.option("--nfe", type=int, help="Network calls of a run of --sampler, instead of --steps.")
@click.option("--sampler", help="With --nfe: a name, a .toml file or a composition.")
@click.option("--start", type=float, help="First time of the grid; by default the end of the span.")
@click.option("--end", type=float, default=1e-3, show_default=True, help="Last time of the grid.")
@plot_option("Draw the times against the effective sigma into this file.")
@json_option
def command(
    sde: str, names: Sequence[str], steps: int | None, nfe: int | None, sampler: str | None, start: float | None, end: float,
    plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Print the times of grids on SDE (a name or a .toml file) and the effective sigma at each, from noise to data."""
    from stepsmith import plots
    from stepsmith.derive import load_sde
    from stepsmith.runtime import TimeGrid

    plots.check(plot)
    diffusion, count = load_sde(sde), _steps(steps, nfe, sampler)
    highest = diffusion.time[1] if start is None else start
    kinds = names or [name for name in GRIDS if name != "shifted" or highest <= 1]
    times = {name: getattr(TimeGrid, name)(diffusion, count, start, end).times.numpy() for name in kinds}
    sigma = diffusion.at().effective_sigma
    if plot is not None:
        plots.grids(diffusion, times).save(plot)
    if as_json:
        found = {name: {"times": grid.tolist(), "sigmas": sigma(grid).tolist()} for name, grid in times.items()}
        print_json({"sde": diffusion.name, "steps": count, "grids": found})
        return
    click.echo(
        f"{diffusion.name}: times of {count} steps (effective sigma)\n  k" + "".join(f"{name:>22}" for name in times)
    )
    for k, row in enumerate(zip(*times.values(), strict=True)):
        click.echo(f"{k:3}" + "".join(f"{t:11.5g} ({float(sigma(t)):8.3g})" for t in row))


def _steps(steps: int | None, nfe: int | None, sampler: str | None) -> int:
    """The steps that were asked for, or that a budget of calls buys."""
    from stepsmith.derive import load_sampler
    from stepsmith.runtime import budget_steps

    if nfe is None and sampler is None:
        return 10 if steps is None else steps
    if nfe is None or sampler is None or steps is not None:
        raise InputError(
            "-", "nfe", "a budget needs --nfe and --sampler, and no --steps", "give both, or --steps alone"
        )
    return budget_steps(nfe, load_sampler(sampler).nfe)[0]
