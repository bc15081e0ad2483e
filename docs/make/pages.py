"""The pages of docs/ that are made from the catalogue: ``python docs/make [PAGE ...] [--out docs] [--check]``.

    defaults  derive/specs/defaults.toml: the sampler and grid that `stepsmith sample` takes where none is named (ten minutes)
    audit    the orders of the samplers that people ship, claimed beside proven
    paper    the source paper's samplers on real images, from benchmarks/paper.jsonl (`stepsmith bench paper` measures them)
    orders   the proven and the measured order of every module
    schedulers  what `stepsmith check` finds of the schedulers of diffusers (two minutes)
    which    which sampler, when, from errors at equal numbers of network calls, and which-tables (a few minutes)

All are made where none is named.  Exit status 1 where a module falls short of its proof or, with ``--check``, a page differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click


def audit() -> dict[str, str]:
    """docs/audit.md"""
    import audit

    return {"audit": audit.markdown()}


def orders() -> dict[str, str]:
    """docs/orders.md; SystemExit where a measured order falls short of the proven one."""
    import orders

    from stepsmith.derive import catalogue
    from stepsmith.measure.orders import check_all

    rows = list(catalogue.rows())
    with click.progressbar(check_all(rows), length=len(rows), label="orders", file=sys.stderr) as bar:
        checks = list(bar)
    if bad := [check for check in checks if not check.ok]:
        raise SystemExit("\n".join(map(str, bad)))
    return {"orders": orders.page(checks)}


def which() -> dict[str, str]:
    """docs/which.md and docs/which-tables.md"""
    import which
    import which_page
    import which_tables

    with click.progressbar(length=len(which.kinds()), label="which", file=sys.stderr) as bar:
        parts = which.measure_all(done=lambda sde: bar.update(1))
    which_page.curve(parts, Path("docs/pictures") / which_page.CURVE)
    return {"which": which_page.page(parts), "which-tables": which_tables.tables(parts)}


def paper() -> dict[str, str]:
    """docs/paper.md and its pictures."""
    import paper
    import paper_why

    networks, counts = paper.read()
    paper.PICTURES.mkdir(exist_ok=True)
    paper.curve(counts[paper.USUAL], paper.PICTURES / "paper-curve.svg")
    paper.strips(paper.PICTURES / "paper-strips.png")
    seen = {key: paper.distance(cell) for key, cell in counts[paper.USUAL].items()}
    return {"paper": f"{paper.measured(networks, counts)}\n\n{paper_why.section(seen)}\n"}


def schedulers() -> dict[str, str]:
    """docs/schedulers.md; needs diffusers."""
    import schedulers

    return {"schedulers": schedulers.page()}


def defaults() -> dict[str, str]:
    """derive/specs/defaults.toml and its picture."""
    import defaults

    return {f"../{defaults.PLACE}": defaults.page(Path("docs/pictures"))}


PAGES = {"audit": audit, "defaults": defaults, "orders": orders, "paper": paper, "schedulers": schedulers, "which": which}


def make(names: tuple[str, ...], out: Path, check: bool, pages: Mapping[str, Callable[[], dict[str, str]]] = PAGES) -> list[Path]:
    """Make pages (all where none is named) in a folder; the files that changed, or with ``check`` those that would."""
    changed = []
    made = {page: text for name in dict.fromkeys(names or pages) for page, text in pages[name]().items()}
    for page, text in made.items():
        path = out / (page if Path(page).suffix else f"{page}.md")
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    return changed


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(PAGES)), metavar="[PAGE]...")
@click.option(
    "--out", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("docs"), show_default=True
)
@click.option("--check", is_flag=True, help="Compare with the files; exit 1 where one differs.")
def main(names: tuple[str, ...], out: Path, check: bool) -> None:
    """Write the pages of docs/ that are made from the catalogue, all where none is named: audit, orders, which."""
    changed = make(names, out, check)
    for path in changed:
        click.echo(f"{path} {'differs' if check else 'is written'}")
    if check and changed:
        sys.exit(1)
