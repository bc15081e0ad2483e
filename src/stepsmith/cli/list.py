"""``stepsmith list``: the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import click

from stepsmith.cli.shared import json_option, print_json


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """The catalogue: diffusions, samplers and emitted modules."""
    from stepsmith.derive import catalogue, list_samplers, list_sdes, load_sampler, load_sde

    sdes = {name: load_sde(name).doc for name in list_sdes()}
    samplers = {name: load_sampler(name) for name in list_samplers()}
    modules = [row.name for row in catalogue.rows()]
    if as_json:
        known = {
            name: {"doc": s.doc, "family": s.family, "composition": s.text, "nfe": s.nfe}
            for name, s in samplers.items()
        }
        print_json({"sdes": sdes, "samplers": known, "modules": modules})
        return
    click.echo("diffusions")
    for name, doc in sdes.items():
        click.echo(f"  {name:20} {doc}")
    orders = proven_orders(catalogue.kept())
    click.echo("\nsamplers                                  calls  order")
    for name, sampler in samplers.items():
        how = sampler.text or ("lines of text" if sampler.formula is not None else "conjugate step")
        click.echo(f"  {name:20} {how:18} {sampler.nfe:5}  {orders.get(name, '-'):>6}  {sampler.doc}")
    click.echo(f"\nmodules ({len(modules)})")
    for name in modules:
        click.echo(f"  {name}")


def proven_orders(rows: Iterable[Any]) -> dict[str, str]:
    """The proven order of each sampler, read off the text of the first module that is kept; weak ones say so."""
    from importlib.resources import files

    found: dict[str, str] = {}
    for row in rows:
        if row.sampler in found:
            continue
        text = files("stepsmith.generated").joinpath(f"{row.name}.py").read_text(encoding="utf-8")
        order, weak = (re.search(rf"^{word} = (\S+)$", text, re.MULTILINE) for word in ("ORDER", "WEAK_ORDER"))
        if order and order[1] != "None":
            found[row.sampler] = order[1]
        elif weak and weak[1] != "None":
            found[row.sampler] = f"weak {weak[1]}"
    return found
