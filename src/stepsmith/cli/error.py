"""``stepsmith error SDE SAMPLER``: what is proven of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import json_option, print_json
from stepsmith.errors import InputError


@click.command("error")
@click.argument("sde")
@click.argument("sampler")
@click.option("--network", default="denoiser", show_default=True, help="What the network gives.")
@click.option("--frame", help="The frozen quantity of a conjugate sampler.")
@click.option("--latex", is_flag=True, help="Print the error terms as LaTeX.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the spectral radius of a step into this file.")
@json_option
def command(
    sde: str, sampler: str, network: str, frame: str | None, latex: bool, plot: Path | None, as_json: bool
) -> None:
    """Order, leading local error, cost and stability of SAMPLER on SDE (names, .toml files; SAMPLER also a composition)."""
    from stepsmith.derive.method import derive

    if plot is not None:
        check_plot(plot)
    method = derive(sde, sampler, network, frame)
    if plot is not None:
        draw(method, plot)
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
    from stepsmith.derive.describe import claims
    from stepsmith.derive.orders.lint import lint

    click.echo(f"{method.name}: {method.nfe} network calls and {method.draws} normal draws a step")
    click.echo(claims(method))
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


def check_plot(path: Path) -> None:
    """Refuse, before any long work, a picture that matplotlib has no format for, or that has no folder."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise InputError(
            "-", "plot", "matplotlib is not installed", "pip install matplotlib, or leave --plot out"
        ) from None
    if path.suffix.lower()[1:] not in (known := FigureCanvasAgg.get_supported_filetypes()):
        raise InputError(
            str(path), "plot", f"the suffix {path.suffix!r} is not known", f"use one of {', '.join(known)}"
        )
    if not path.resolve().parent.is_dir():
        raise InputError(str(path), "plot", "its folder does not exist", "choose another place")


def draw(method: Any, path: Path) -> None:
    """The spectral radius of a step on Gaussian data against its length, numerical and exact, from three times."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from stepsmith.derive.orders.stability import curves

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for k, (t0, lengths, radii, exact) in enumerate(curves(method)):
        axes.loglog(lengths, radii, f"C{k}-", label=f"t = {t0:.3g}")
        axes.loglog(lengths, exact, f"C{k}:")
    axes.set(xlabel="step h", ylabel="spectral radius (dotted: exact)", title=method.name)
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
