"""``stepsmith search SDE``: look for new schemes."""

from __future__ import annotations

from typing import Any

import click

from stepsmith.cli.shared import examples, json_option, print_json
from stepsmith.errors import InputError


@click.command("search", epilog=examples("search psld"))
@click.argument("sde")
@click.option(
    "--length",
    type=click.IntRange(1, 6),
    default=4,
    show_default=True,
    help="The largest number of letters of a composition.",
)
@click.option(
    "--calls",
    type=click.IntRange(1, 4),
    default=2,
    show_default=True,
    help="The largest number of network calls a step.",
)
@click.option("--keep", type=click.IntRange(1, 100), default=8, show_default=True, help="How many schemes are printed.")
@click.option(
    "--budget",
    type=click.IntRange(4, 1000),
    default=48,
    show_default=True,
    help="Network calls of the run that ranks them.",
)
@json_option
def command(sde: str, length: int, calls: int, keep: int, budget: int, as_json: bool) -> None:
    """Search for deterministic schemes on SDE (compositions and two-stage programs), ranked by proven order, then by error."""
    from stepsmith.derive import load_sde
    from stepsmith.derive.method import derive
    from stepsmith.derive.orders.search import search

    diffusion = load_sde(sde)
    if len(diffusion.data) != 1 or diffusion.field or not diffusion.offset_let.is_zero_matrix:
        what = "the reference problem needs one data block, one noise level and no offset"
        raise InputError(sde, "data", what, "search on another diffusion")
    result = search(diffusion, lambda source, network: derive(diffusion, source, network), length, calls, keep, budget)
    if as_json:
        print_json(values(result))
        return
    click.echo(f"{result.tried} schemes of up to {calls} calls a step on {diffusion.name}\n")
    print_lines(result, budget)


def values(result: Any) -> dict[str, Any]:
    """Plain values for JSON."""
    rows = [
        {"scheme": f.text, "order": f.order, "calls": f.scheme.calls, "error": f.error, "constant": f.constant}
        for f in result.found
    ]
    return {"tried": result.tried, "plain": result.plain, "plain_above_one": result.plain_passed, "found": rows}


def print_lines(result: Any, budget: int) -> None:
    """The theorem, what was seen of it, and the best schemes as a table."""
    from stepsmith.derive.orders.search import THEOREM

    click.echo(THEOREM)
    click.echo(f"Seen: {result.plain_passed} of {result.plain} compositions without ^ pass order 1.\n")
    click.echo(f"order  calls  error at {budget} calls  error x calls^order  scheme")
    for f in result.found:
        click.echo(f"{f.order:5}  {f.scheme.calls:5}  {f.error:16.2e}  {f.constant:19.2e}  {f.text}")
