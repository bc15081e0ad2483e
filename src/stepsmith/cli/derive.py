"""``stepsmith derive SDE``: the mathematics of a diffusion."""

from __future__ import annotations

from pathlib import Path

import click

from stepsmith.cli.shared import examples, json_option, plot_option, print_json


@click.command("derive", epilog=examples("derive psld", "derive mine.toml --latex"))
@click.argument("sde")
@click.option("--latex", is_flag=True, help="Print LaTeX.")
@plot_option("Draw the law of the state and the effective sigma against t into this file.")
@json_option
def command(sde: str, latex: bool, plot: Path | None, as_json: bool) -> None:
    """Print the transition, covariance, stationary law and reverse dynamics of SDE, a name or a .toml file."""
    from stepsmith import plots
    from stepsmith.derive import load_sde
    from stepsmith.derive.report import report

    plots.check(plot)
    diffusion = load_sde(sde)
    sections = report(diffusion)
    if plot is not None:
        plots.law(diffusion).save(plot)
    if as_json:
        print_json({"source": sde, **{section.key: section.text for section in sections}})
        return
    for section in sections:
        lines = (section.latex or section.text if latex else section.text).splitlines()
        click.echo("\n".join([section.title, *(f"    {line}" for line in lines), ""]))
