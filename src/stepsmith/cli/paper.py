"""``stepsmith bench paper``: the source paper's samplers, and ours, on trained networks of Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import budgets_option, print_table, progress
from stepsmith.errors import InputError


@click.command("paper")
@click.option("--samples", type=click.IntRange(100), default=1000, show_default=True, help="Samples a cell.")
@budgets_option("Budgets of network calls.", "20,50,100")
@click.option("--row", "labels", multiple=True, help="Rows by their label; all of them unless given.")
@click.option("--grid", type=click.Choice(("uniform", "quadratic", "logsnr")), help="The grid of every row, instead of its own.")
@click.option("--last", type=click.Choice(("denoise", "none")), help="The last network call, the mean of the data, or none.")
@click.option("--adaptive", is_flag=True, help="RK45 too, on all samples as one system.")
@click.option("--record", type=click.Path(path_type=Path), default=Path("out/paper.jsonl"), show_default=True)
def command(
    samples: int,
    budgets: tuple[int, ...],
    labels: tuple[str, ...],
    grid: str | None,
    last: str | None,
    adaptive: bool,
    record: Path,
) -> None:
    """Frechet distances of the paper's samplers on a PSLD network of Fashion-MNIST, at equal network calls.

    What stands in the record is not measured again, so that a run that was stopped goes on.
    """
    import torch

    from stepsmith.measure import paper

    torch.set_num_threads(1)
    known = {row.label: row for row in paper.ROWS}
    if missing := [label for label in labels if label not in known]:
        raise InputError("-", "row", f"there is no row {missing[0]!r}", f"name one of {', '.join(known)}")
    rows = [known[label].varied(grid, last) for label in labels or known]
    record.parent.mkdir(parents=True, exist_ok=True)
    made = table(record, samples)
    cells = made.cells(rows, budgets)
    with progress(cells, len(rows) * len(budgets), "cells") as bar:
        found = rows_of(bar)
    found += [row_of(cell["calls"], cell, name) for name, cell in (made.adaptive() if adaptive else ())]
    print_table(("calls", "distance", "Laplacian", "sampler"), found)


def table(record: Path, samples: int) -> Any:
    """The table on the networks of the package; its setting is their digests and the number of samples."""
    import stepsmith as ss
    from stepsmith.derive.method import derive
    from stepsmith.measure import paper
    from stepsmith.measure.trials import Trials
    from stepsmith.runtime.networks import predicting_data

    networks = {name: ss.networks.load(name) for name in (paper.NETWORK, paper.PLAIN)}
    setting = f"{samples} samples, " + ", ".join(f"{name} {str(network.digest)[:12]}" for name, network in networks.items())
    networks[paper.DATA] = predicting_data(networks[paper.NETWORK])
    modules: dict[tuple[Any, ...], Any] = {}

    def made(row: Any) -> tuple[Any, Any]:
        key = (row.sampler, row.frame, row.sde, row.network)
        if key not in modules:
            method = derive(row.sde, row.sampler, networks[row.network].kind, row.frame)
            modules[key] = method, ss.load(ss.emit(method))
        return modules[key]

    return paper.Table(made, networks, Trials.of(setting, record), samples)


def rows_of(cells: Iterable[tuple[Any, int, dict[str, float]]]) -> list[tuple[str, ...]]:
    """A row a cell, best first within a budget."""
    away = lambda cell: f", {cell['away']:.0f} diverged" if cell["away"] else ""  # noqa: E731
    ordered = sorted(cells, key=lambda c: (c[1], c[2]["fd"]))
    return [row_of(nfe, cell, f"{row.label}{away(cell)}") for row, nfe, cell in ordered]


def row_of(nfe: int, cell: dict[str, float], name: str) -> tuple[str, ...]:
    return str(nfe), f"{cell['fd']:.2f} +- {cell['error']:.2f}", f"{cell['laplacian']:.3f}", name
