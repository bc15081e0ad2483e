"""The verbs about orders: ``stepsmith error``, ``stepsmith search``, and what ``stepsmith verify`` does with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from stepsmith.errors import InputError


@click.command()
@click.argument("sde")
@click.argument("sampler")
@click.option("--network", default="denoiser", show_default=True, help="What the network gives.")
@click.option("--frame", help="The frozen quantity of a conjugate sampler.")
@click.option("--latex", is_flag=True, help="Print the error terms as LaTeX.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the spectral radius of a step into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def error(sde: str, sampler: str, network: str, frame: str | None, latex: bool, plot: Path | None, as_json: bool) -> None:
    """Order, leading local error, cost and stability of SAMPLER on SDE (names, .toml files; SAMPLER also a composition)."""
    from stepsmith.derive.method import derive
    from stepsmith.derive.orders.lint import lint

    if plot is not None:
        _check_plot(plot)
    method = derive(sde, sampler, network, frame)
    if plot is not None:
        _draw(method, plot)
    terms = method.local_error
    stability = method.stability()
    shown = {} if terms is None else {t.block: t.latex() if latex else str(t) for t in terms}
    where, warnings = list(terms[0].where) if terms else [], lint(method)
    told = {
        "name": method.name, "nfe": method.nfe, "draws": method.draws, "order": method.order, "step_order": method.step_order,
        "weak_order": method.weak_order, "strong_order": method.strong_order,
        "local_error": shown or None, "where": where, "warnings": warnings, "stability": stability.told(),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    from stepsmith.derive.describe import claims

    click.echo(f"{method.name}: {method.nfe} network calls and {method.draws} normal draws a step")
    click.echo(claims(method))
    if terms is not None:
        click.echo("local error of a step, exact minus numerical:")
        for line in [*shown.values(), *where]:
            click.echo(f"    {line}")
    for line in stability.lines():
        click.echo(line)
    for line in warnings:
        click.echo(f"warning: {line}")


@click.command()
@click.argument("sde")
@click.option("--length", type=click.IntRange(1, 6), default=4, show_default=True, help="Letters of a composition, at most.")
@click.option("--calls", type=click.IntRange(1, 4), default=2, show_default=True, help="Network calls a step, at most.")
@click.option("--keep", type=click.IntRange(1, 100), default=8, show_default=True, help="Schemes to print.")
@click.option("--budget", type=click.IntRange(4, 1000), default=48, show_default=True, help="Calls of a run that ranks them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def search(sde: str, length: int, calls: int, keep: int, budget: int, as_json: bool) -> None:
    """Look for deterministic schemes on SDE: compositions and two-stage programs, by proven order, then by error."""
    from stepsmith.derive import load_sde
    from stepsmith.derive.method import derive
    from stepsmith.derive.orders.search import THEOREM
    from stepsmith.derive.orders.search import search as searched

    diffusion = load_sde(sde)
    if len(diffusion.data) != 1 or not diffusion.offset_let.is_zero_matrix:
        raise InputError(sde, "data", "the reference problem needs one data block and no offset", "search on another diffusion")
    result = searched(diffusion, lambda source, network: derive(diffusion, source, network), length, calls, keep, budget)
    if as_json:
        rows: list[dict[str, Any]] = [
            {"scheme": f.text, "order": f.order, "calls": f.scheme.calls, "error": f.error, "constant": f.constant}
            for f in result.found
        ]
        told = {"tried": result.tried, "plain": result.plain, "plain_above_one": result.plain_passed, "found": rows}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{result.tried} schemes of up to {calls} calls a step on {diffusion.name}\n")
    click.echo(THEOREM)
    click.echo(f"Seen: {result.plain_passed} of {result.plain} compositions without ^ pass order 1.\n")
    click.echo(f"order  calls  error at {budget} calls  error x calls^order  scheme")
    for f in result.found:
        click.echo(f"{f.order:5}  {f.scheme.calls:5}  {f.error:16.2e}  {f.constant:19.2e}  {f.text}")


def verify_orders(names: tuple[str, ...], table: Path | None, as_json: bool) -> None:
    """Proven and measured orders of modules of the catalogue (all where none is named); exit 1 where one falls short."""
    from stepsmith.checks import HEAD, check_all, document
    from stepsmith.derive import catalogue

    rows = [catalogue.find(name) for name in names] or list(catalogue.rows())
    if table is not None and not table.resolve().parent.is_dir():
        raise InputError(str(table), "table", "its folder does not exist", "choose another place")
    if not as_json:
        click.echo(HEAD)
    verdicts = []
    quiet = as_json or not sys.stderr.isatty()
    with click.progressbar(check_all(rows), length=len(rows), label="measuring", file=sys.stderr, hidden=quiet) as bar:
        for found in bar:
            verdicts.append(found)
            if not as_json:
                click.echo(str(found))
    failed = [v for v in verdicts if not v.ok]
    if table is not None:
        table.write_text(document(verdicts), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"modules": [v.told for v in verdicts], "failed": [v.name for v in failed]}, indent=2))
    else:
        proven = sum(v.proven is not None for v in verdicts)
        click.echo(f"{len(verdicts)} modules measured, {proven} with a proof, {len(failed)} failed")
    if failed:
        sys.exit(1)


def _audit() -> str:
    from stepsmith.derive.orders import audit

    return audit.markdown()


def _which() -> str:
    from stepsmith.which import kinds, measure_all
    from stepsmith.which_page import document

    with click.progressbar(length=len(kinds()), label="measuring", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        return document(measure_all(tell=lambda sde: bar.update(1)))


PAGES = {"audit": _audit, "which": _which}


@click.command()
@click.argument("pages", nargs=-1, metavar="[PAGE]...")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True, help="Folder of the pages.")
@click.option("--check", is_flag=True, help="Compare with the files; exit 1 where one differs.")
def report(pages: tuple[str, ...], out: Path, check: bool) -> None:
    """Write the pages that are derived, all where none is named.

    audit: the orders of the samplers people ship.  which: which sampler, when, from measurements (a few minutes).
    """
    for page in pages:
        if page not in PAGES:
            raise InputError("-", "page", f"there is no page {page!r}", f"known are {', '.join(PAGES)}")
    from stepsmith.templates.files import folder

    folder(out)
    texts = {out / f"{page}.md": PAGES[page]() for page in dict.fromkeys(pages or PAGES)}
    differ = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if not check:
        out.mkdir(parents=True, exist_ok=True)
        for path in differ:
            path.write_text(texts[path], encoding="utf-8")
    what = f"{'checked' if check else 'written'}, {len(differ)} {'differ' if check else 'changed'}"
    click.echo(f"{len(texts)} page{'s' * (len(texts) != 1)} {what}")
    if check and differ:
        sys.exit(1)


def _check_plot(path: Path) -> None:
    """Refuse, before any long work, a picture that matplotlib has no format for, or that has no folder."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise InputError("-", "plot", "matplotlib is not installed", "pip install matplotlib, or leave --plot out") from None
    if path.suffix.lower()[1:] not in (known := FigureCanvasAgg.get_supported_filetypes()):
        raise InputError(str(path), "plot", f"the suffix {path.suffix!r} is not known", f"use one of {', '.join(known)}")
    if not path.resolve().parent.is_dir():
        raise InputError(str(path), "plot", "its folder does not exist", "choose another place")


def _draw(method: Any, path: Path) -> None:
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
