"""``stepsmith bench paper``: the source paper's samplers, and ours, on trained networks of Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import progress
from stepsmith.errors import InputError


@click.command("paper")
@click.option("--samples", type=click.IntRange(100), default=1000, show_default=True, help="Samples a cell.")
@click.option("--nfe", type=int, multiple=True, help="Budgets of network calls: 20, 50 and 100 unless given.")
@click.option("--row", "labels", multiple=True, help="Rows by their label; all of them unless given.")
@click.option("--adaptive", is_flag=True, help="RK45 too, on all samples as one system.")
@click.option("--record", type=click.Path(path_type=Path), default=Path("out/paper.jsonl"), show_default=True)
def command(samples: int, nfe: tuple[int, ...], labels: tuple[str, ...], adaptive: bool, record: Path) -> None:
    """Frechet distances of the paper's samplers on a PSLD network of Fashion-MNIST, at equal network calls.

    What stands in the record is not measured again, so that a run that was stopped goes on.
    """
    import torch

    from stepsmith.measure import paper

    torch.set_num_threads(1)
    known = {row.label: row for row in paper.ROWS}
    if missing := [label for label in labels if label not in known]:
        raise InputError("-", "row", f"there is no row {missing[0]!r}", f"name one of {', '.join(known)}")
    rows, budgets = [known[label] for label in labels or known], nfe or paper.BUDGETS
    record.parent.mkdir(parents=True, exist_ok=True)
    made = table(record, samples)
    cells = made.cells(rows, budgets)
    with progress(cells, len(rows) * len(budgets), "cells", False) as bar:
        found = list(bar)
    for line in text(found):
        click.echo(line)
    for name, cell in made.adaptive() if adaptive else ():
        click.echo(f"{cell['calls']:5}  {cell['fd']:8.2f} +- {cell['error']:4.2f}  {cell['laplacian']:9.3f}  {name}")


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


def text(cells: Iterable[tuple[Any, int, dict[str, float]]]) -> list[str]:
    """A line a cell, best first within a budget."""
    found = [f"{'calls':>5}  {'distance':>16}  {'Laplacian':>9}  sampler"]
    for row, nfe, cell in sorted(cells, key=lambda c: (c[1], c[2]["fd"])):
        away = f", {cell['away']:.0f} diverged" if cell["away"] else ""
        found.append(f"{nfe:5}  {cell['fd']:8.2f} +- {cell['error']:4.2f}  {cell['laplacian']:9.3f}  {row.label}{away}")
    return found
