"""``stepsmith list``: the catalogue."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from typing import Any

import click

from stepsmith.cli.shared import json_option, print_json
from stepsmith.errors import InputError


@click.command("list")
@click.argument("word", default="")
@json_option
def command(word: str, as_json: bool) -> None:
    """List the diffusions and samplers of the catalogue; with WORD, list also the modules, and only names that contain WORD."""
    from stepsmith.derive import catalogue, list_samplers, list_sdes, load_sampler, load_sde

    sdes = {name: load_sde(name).doc for name in list_sdes() if word in name}
    samplers = {name: load_sampler(name) for name in list_samplers() if word in name}
    modules = [row.name for row in catalogue.rows() if word.replace("-", "_") in row.name]
    if as_json:
        known = {
            name: {"doc": s.doc, "family": s.family, "composition": s.text, "nfe": s.nfe}
            for name, s in samplers.items()
        }
        print_json({"sdes": sdes, "samplers": known, "modules": modules})
        return
    width = shutil.get_terminal_size((130, 24)).columns
    line = lambda text: click.echo(text if len(text) <= width else f"{text[: width - 3]}...")  # noqa: E731
    if sdes:
        click.echo("diffusions")
    for name, doc in sdes.items():
        line(f"  {name:20} {doc}")
    if samplers:
        click.echo("\nsamplers                                  calls   order")
    orders = proven_orders(catalogue.kept())
    for name, sampler in samplers.items():
        how = sampler.text or ("lines of text" if sampler.formula is not None else sampler.family)
        line(f"  {name:20} {how:18} {sampler.nfe:5}  {orders.get(name, '-'):>6}  {sampler.doc}")
    if word and modules:
        click.echo(f"\nmodules ({len(modules)})")
        for name in modules:
            click.echo(f"  {name}")
    elif not word:
        click.echo(
            f"\n{len(modules)} modules are in the catalogue; `stepsmith list psld` names those with psld in their names."
        )
    if not (sdes or samplers or modules):
        raise InputError("-", "word", f"nothing in the catalogue has {word!r} in its name", "leave it out to see all")


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
