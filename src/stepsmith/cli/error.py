"""``stepsmith error SDE SAMPLER``: what is proven of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import examples, json_option, plot_option, print_json
from stepsmith.errors import Unsupported


@click.command("error", epilog=examples("error psld rvv", 'error psld "B! A B!@1"'))
@click.argument("sde")
@click.argument("sampler")
@click.option("--network", default="denoiser", show_default=True, help="What the network predicts.")
@click.option("--frame", help="The quantity that conjugate steps and parts hold constant.")
@click.option("--latex", is_flag=True, help="Print the error terms as LaTeX.")
@plot_option("Draw the spectral radius of a step into this file.")
@json_option
def command(
    sde: str, sampler: str, network: str, frame: str | None, latex: bool, plot: Path | None, as_json: bool
) -> None:
    """Print the proven order, leading local error, cost and stability of SAMPLER on SDE.

    Both are names or .toml files; SAMPLER may also be a composition, such as "B! A B!@1".
    """
    from stepsmith import plots
    from stepsmith.derive.method import derive

    plots.check(plot)
    method = derive(sde, sampler, network, frame)
    if plot is not None:
        drawn = plots.stability([method])
        if drawn is None:
            raise Unsupported(f"the spectral radius of {method.name} against its step is not derived", "leave --plot out")
        drawn.save(plot)
    shown = {term.block: term.latex() if latex else str(term) for term in method.local_error or ()}
    if as_json:
        print_json(values(method, shown))
    else:
        print_lines(method, shown)


def values(method: Any, shown: dict[str, str]) -> dict[str, Any]:
    """Plain values for JSON; ``shown``: the error terms by block."""
    from stepsmith.derive.orders.lint import lint

    return {
        "name": method.name, "nfe": method.nfe, "draws": method.draws, "order": method.order, "step_order": method.step_order,
        "weak_order": method.weak_order, "strong_order": method.strong_order, "why": method.why, "local_error": shown or None,
        "where": where(method), "warnings": lint(method), "stability": method.stability().record(),
    }  # fmt: skip


def print_lines(method: Any, shown: dict[str, str]) -> None:
    """The same as lines for a person."""
    from stepsmith.derive.describe import NO_FORMULA, claims, cost
    from stepsmith.derive.orders.lint import lint

    click.echo(f"{method.name}: {cost(method)}")
    click.echo(claims(method))
    if not shown and not method.random:
        click.echo(NO_FORMULA)
    if shown:
        click.echo("local error of a step, exact minus numerical:")
        for line in [*shown.values(), *where(method)]:
            click.echo(f"    {line}")
    for line in method.stability().lines():
        click.echo(line)
    for line in lint(method):
        click.echo(f"warning: {line}")


def where(method: Any) -> list[str]:
    """The lines that say what the symbols of the error terms mean."""
    return list(method.local_error[0].where) if method.local_error else []
