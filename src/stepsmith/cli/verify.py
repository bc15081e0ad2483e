"""``stepsmith verify``: hold the emitted modules to their proofs, or their coefficients to balls."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from stepsmith.cli.shared import json_option, print_json, progress
from stepsmith.errors import InputError


@click.command("verify")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The whole catalogue.")
@click.option(
    "--coefficients",
    is_flag=True,
    help="Instead of the orders, hold each coefficient to a 400-bit evaluation by another route.",
)
@click.option("--end", type=float, default=1e-5, show_default=True, help="Where the geometric grid of 24 steps ends.")
@json_option
def command(names: Sequence[str], everything: bool, coefficients: bool, end: float, as_json: bool) -> None:
    """Hold NAMES of the catalogue to their proofs; exit 1 where a measured order falls more than 0.1 under the proven one.

    With --coefficients, derive, prove and emit them and hold the tables to their definitions; exit 1 where an entry is off by
    more than 1e-13.  The measure is |c - true| / max(|true|, sum |p dc/dp|), p the float64 inputs, entry by entry, of every
    fourth step of the grid and of its first and last ones.
    """
    from stepsmith.derive import catalogue

    if not names and not everything:
        raise InputError("-", "names", "nothing to verify", "name modules or say --all")
    if coefficients and not 0 < end < 0.1:
        raise InputError("-", "end", f"{end!r} is no end of the grid", "give a time between 0 and 0.1")
    rows = [catalogue.find(name) for name in names] or list(catalogue.rows())
    failed = verify_coefficients(rows, end, as_json) if coefficients else verify_orders(rows, as_json)
    if failed:
        sys.exit(1)


def verify_orders(rows: Sequence[Any], as_json: bool) -> list[str]:
    """Proven and measured orders of rows of the catalogue; the names of those that fall short."""
    from stepsmith.measure.orders import HEAD, check_all

    if not as_json:
        click.echo(HEAD)
    checks = []
    with progress(check_all(rows), len(rows), "measuring", as_json) as bar:
        for check in bar:
            checks.append(check)
            if not as_json:
                click.echo(str(check))
    failed = [check.name for check in checks if not check.ok]
    if as_json:
        print_json({"modules": [check.values for check in checks], "failed": failed})
    else:
        proven = sum(check.proven is not None for check in checks)
        click.echo(f"{len(checks)} modules measured, {proven} with a proof, {len(failed)} failed")
    return failed


def verify_coefficients(rows: Sequence[Any], end: float, as_json: bool) -> list[str]:
    """The coefficients of rows of the catalogue against 400-bit values; the names of those that are off."""
    from stepsmith.measure.coefficients import check_all

    begun, checks = time.perf_counter(), []
    with progress(None, len(rows), "verifying", as_json) as bar:
        for check in check_all(rows, end):
            checks.append(check)
            bar.update(1)
            if not as_json:
                click.echo(check.line)
    worst = max(checks, key=lambda check: check.error)
    failed = [check.name for check in checks if not check.holds]
    seconds = round(time.perf_counter() - begun, 1)
    if as_json:
        every = [dataclasses.asdict(check) for check in checks]
        print_json({"worst": dataclasses.asdict(worst), "failed": failed, "modules": every, "seconds": seconds})
    else:
        click.echo(f"worst: {worst.name} {worst.error:.1e} in {worst.column}; {len(checks)} modules in {seconds} s")
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
    return failed
