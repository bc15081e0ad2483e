"""``stepsmith bench``: samplers against each other at equal network calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from stepsmith.cli import paper
from stepsmith.cli.shared import budgets_option, examples, json_option, plot_option, print_json, print_table, progress
from stepsmith.errors import InputError

KEYS = {False: ("pooled", "median"), True: ("variance", "distance")}
DRAWS = "the samplers that draw noise: variance over the exact one / sliced Wasserstein distance in standard deviations"
ERRORS = "errors of the data to the probability flow: pooled / median of the paths"


@click.group(
    "bench", invoke_without_command=True,
    epilog=examples("bench --sde psld --plot error.png", "bench --network digits --nfe 8,10", "bench paper --nfe 20"),
)  # fmt: skip
@click.pass_context
@click.option("--sde", "source", default="vp", show_default=True, help="A name or a .toml file.")
@click.option("--network", "name", help="A network, named as for `stepsmith sample`; by default three exact problems.")
@click.option(
    "--sampler", "samplers", multiple=True, help="SAMPLER@GRID, in addition to the standard ones; may be repeated."
)
@budgets_option("Budgets of network calls.", "5,8,10,15,20,30,50")
@click.option("--paths", type=click.IntRange(8), default=1024, show_default=True, help="Paths for each problem.")
@click.option(
    "--seed", type=click.IntRange(0), default=5, show_default=True, help="The seed of the problems and the starts."
)
@click.option(
    "--noise", is_flag=True, help="Run the samplers that draw noise, and compare them with the law at the end."
)
@plot_option("Draw error against calls into this file.")
@json_option
def command(
    context: click.Context, source: str, name: str | None, samplers: Sequence[str], budgets: tuple[int, ...], paths: int,
    seed: int, noise: bool, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare the samplers of stepsmith with others at equal network calls, from the same starts to the same end.

    The last column is the geometric mean over the budgets of the ratio to the best peer, chosen in hindsight at each budget.
    """
    if context.invoked_subcommand is not None:
        return
    import torch

    import stepsmith as ss
    from stepsmith import plots
    from stepsmith.measure import bench

    plots.check(plot)
    torch.set_num_threads(1)
    sde = ss.load_sde(source)
    network = None if name is None else ss.networks.load(name)
    kind = "denoiser" if network is None else network.kind
    made = _maker(sde, source, kind)
    ground = bench.Bench.exact(sde, paths, seed) if network is None else bench.Bench.trained(sde, network, paths, made, seed)
    run = (*bench.contestants(sde, noise), *map(_contestant, samplers))
    lines = list(progress(bench.compete(ground, run, budgets, made), len(run), "running", as_json))
    keys = KEYS[noise]
    best = {key: bench.best_peer(lines, key) for key in keys} if not noise else {}
    if plot is not None:
        _drawn(lines, best, budgets, keys).save(plot)
    if as_json:
        rows = [
            {"sampler": e.contestant.name, "grid": e.contestant.grid, "peer": e.contestant.peer, "cells": list(e.cells)}
            for e in lines
        ]
        setting = {"sde": sde.name, "network": name, "paths": paths, "seed": seed, "budgets": budgets}
        print_json({**setting, "rows": rows, "best": best})
        return
    click.echo(ERRORS if best else DRAWS)
    print_table(*_table(lines, best, budgets, keys))


command.add_command(paper.command)


def _maker(sde: Any, source: str, kind: str) -> Callable[[Any], Any]:
    """The module of a sampler: that of the catalogue, or derived, once however many grids it is run on."""
    import stepsmith as ss
    from stepsmith import certificate
    from stepsmith.derive import catalogue
    from stepsmith.derive.method import derive

    rows = (row for row in catalogue.rows() if (row.sde, row.network, row.frame) == (source, kind, None))
    known = {row.sampler: row.name for row in rows}
    emitted: dict[str, Any] = {}

    def made(sampler: Any) -> Any:
        name = str(sampler)
        if name not in emitted:
            emitted[name] = ss.load(known.get(name) or certificate.emit(derive(sde, sampler, kind)))
        return emitted[name]

    return made


def _contestant(text: str) -> Any:
    from stepsmith.cli.sample import GRIDS
    from stepsmith.measure.bench import Contestant

    sampler, _, grid = text.rpartition("@")
    if not sampler or grid not in GRIDS:
        raise InputError("-", "sampler", f"{text!r} is no SAMPLER@GRID", f"end in one of {', '.join(GRIDS)}")
    return Contestant(sampler, grid)


def _table(
    lines: Sequence[Any], best: dict[str, list[float]], budgets: Sequence[int], keys: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows, peers first, with the ratio to the best of them where there is one."""
    from stepsmith.measure.bench import ratio

    spelled = "{:.1e}/{:.1e}".format if best else "{:.3f}/{:.3f}".format
    cells = lambda values: [spelled(*pair) for pair in zip(*values, strict=True)]  # noqa: E731
    rows = []
    for line in lines:
        end = ["/".join(f"{ratio(line, best[key], key):.2f}" for key in keys)] if best else []
        told = [line.contestant.name, line.contestant.grid, *cells(line.values(key) for key in keys), *end]
        rows.append([*told, "peer" if line.contestant.peer else ""])
    if best:
        rows.append(["best peer", "", *cells(best[key] for key in keys), "", ""])
    return ["sampler", "grid", *map(str, budgets), *(["to best peer"] if best else []), ""], rows


def _drawn(lines: Sequence[Any], best: dict[str, list[float]], budgets: Sequence[int], keys: Sequence[str]) -> Any:
    """Ours and the best peer, a panel a measure."""
    from stepsmith import plots

    ours = [line for line in lines if not line.contestant.peer or not best]
    groups = {
        key: {f"{line.contestant.name}, {line.contestant.grid}": line.values(key) for line in ours} for key in keys
    }
    peers = {key: {"best peer, in hindsight": best[key]} if best else {} for key in keys}
    return plots.measures({key: {**groups[key], **peers[key]} for key in keys}, budgets, log=bool(best))
