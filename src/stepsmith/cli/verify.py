"""``stepsmith verify``: hold the emitted modules to their proofs, or their coefficients to balls."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import (
    examples,
    json_option,
    own_options,
    own_row,
    plot_option,
    print_json,
    print_table,
    progress,
)
from stepsmith.errors import InputError


@click.command("verify", epilog=examples("verify vp_heun psld_rvv --plot order.png", "verify --all --coefficients"))
@click.argument("names", nargs=-1)
@own_options
@click.option("--all", "everything", is_flag=True, help="The whole catalogue.")
@click.option(
    "--coefficients",
    is_flag=True,
    help="Check coefficients instead of orders.",
)
@click.option(
    "--end",
    type=float,
    help="With --coefficients: the end of the geometric grid of 24 steps.  [default: 1e-4, then 1e-5]",
)
@plot_option("Draw the error against the steps, beside the proven slopes, into this file.")
@json_option
def command(
    names: Sequence[str], everything: bool, coefficients: bool, end: float | None, plot: Path | None, as_json: bool, **given: Any
) -> None:  # fmt: skip
    """Measure the orders of the modules NAMES, or of your own; exit 1 if one is more than 0.1 below the proven order.

    With --coefficients, compare the coefficients of NAMES with an evaluation in ball arithmetic of 400 bits, at every fourth step
    of a grid and at its first and last ones.  The exit status is 1 if the error of an update, relative to its largest
    coefficient, is above 1e-12 on a grid down to t = 1e-4, or above 1e-10 on one that goes further.
    """
    from stepsmith import plots
    from stepsmith.derive import catalogue

    own = own_row(**given)
    if not names and not everything and own is None:
        raise InputError("-", "names", "nothing to verify", "name modules, give --sde and --sampler, or say --all")
    if coefficients and own is not None:
        raise InputError(
            "-", "sde", "--coefficients is for the catalogue", "use stepsmith build: it certifies what it writes"
        )
    if coefficients and end is not None and not 0 < end < 0.1:
        raise InputError("-", "end", f"{end!r} is no end of the grid", "give a time between 0 and 0.1")
    if coefficients and plot is not None:
        raise InputError("-", "plot", "--coefficients measures no order", "leave one of them out")
    plots.check(plot)
    rows = list(catalogue.rows()) if everything else [catalogue.find(name) for name in names]
    failed = verify_coefficients(rows, end, as_json) if coefficients else verify_orders(rows, own, as_json, plot)
    if failed:
        sys.exit(1)


def verify_orders(rows: Sequence[Any], own: Any, as_json: bool, plot: Path | None = None) -> list[str]:
    """Proven and measured orders of rows of the catalogue, and of the user's own; the names of those that fall short."""
    import stepsmith as ss
    from stepsmith.measure.orders import HEAD, check_all, compare

    mine = [] if own is None else [own.derive()]
    measured = itertools.chain((compare(method, ss.load(ss.emit(method))) for method in mine), check_all(rows))
    with progress(measured, len(rows) + len(mine), "measuring", as_json) as bar:
        checks = list(bar)
    failed = [check.name for check in checks if not check.ok]
    if plot is not None:
        from stepsmith import plots

        plots.orders({check.name: (*zip(*check.runs, strict=True), check.proven) for check in checks}).save(plot)
    if as_json:
        print_json({"modules": [check.values for check in checks], "failed": failed})
    else:
        print_table(HEAD, (check.cells for check in checks))
        proven = sum(check.proven is not None for check in checks)
        click.echo(f"measured: {len(checks)}, with a proven order: {proven}, failed: {len(failed)}")
    return failed


def verify_coefficients(rows: Sequence[Any], end: float | None, as_json: bool) -> list[str]:
    """The coefficients of rows of the catalogue against 400-bit values; the names of those that are off."""
    from stepsmith.measure.coefficients import ENDS, check_all

    begun, ends = time.perf_counter(), ENDS if end is None else (end,)
    with progress(check_all(rows, ends), len(rows), "verifying", as_json) as bar:
        checks = list(bar)
    failed = [check.name for check in checks if not check.holds]
    seconds = round(time.perf_counter() - begun, 1)
    errors = [[check.worst[k].error for check in checks] for k in range(len(ends))]
    worst = [checks[row.index(max(row))] for row in errors]
    if as_json:
        named = [
            {"end": e, "name": c.name, **dataclasses.asdict(c.worst[k])}
            for k, (e, c) in enumerate(zip(ends, worst, strict=True))
        ]
        every = [dataclasses.asdict(check) for check in checks]
        print_json({"worst": named, "failed": failed, "modules": every, "seconds": seconds})
    else:
        grids = [name for last in ends for name in (f"to t = {last:.0e}", "in", "at t")]
        print_table(("module", *grids, "reference", ""), (check.cells for check in checks))
        for k, (last, check) in enumerate(zip(ends, worst, strict=True)):
            one = check.worst[k]
            click.echo(f"worst down to t = {last:.0e}: {check.name} {one.error:.1e} in {one.column}, t = {one.t0:.3g}")
        click.echo(f"{len(checks)} modules in {seconds} s")
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
    return failed
