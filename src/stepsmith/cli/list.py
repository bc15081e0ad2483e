"""``stepsmith list``: the catalogue."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Collection, Iterable
from typing import Any

import click

from stepsmith.cli.shared import examples, json_option, print_json, print_table
from stepsmith.errors import InputError


@click.command("list", epilog=examples("list", "list psld", "list --long", "list rvv --json"))
@click.argument("word", default="")
@click.option("--long", "lines", is_flag=True, help="A line for each, which says what it is.")
@json_option
def command(word: str, lines: bool, as_json: bool) -> None:
    """List the diffusions and samplers of the catalogue; with WORD, names that contain it, the modules too, a line for each."""
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
    if not (sdes or samplers or modules):
        raise InputError("-", "word", f"nothing in the catalogue has {word!r} in its name", "leave it out to see all")
    if not (word or lines):
        print_names("diffusions", sdes)
        print_names("samplers", samplers)
        click.echo(f"{len(modules)} modules: `stepsmith list psld` names those with psld in their names.")
        click.echo("`stepsmith list --long` says what each diffusion and sampler is.")
        return
    if sdes:
        print_table(("diffusion", ""), sdes.items())
    if samplers:
        click.echo()
        orders = proven_orders(catalogue.kept())
        how = lambda s: s.text or ("lines of text" if s.formula is not None else s.family)  # noqa: E731
        rows = ((name, how(s), str(s.nfe), orders.get(name, "-"), s.doc) for name, s in samplers.items())
        print_table(("sampler", "composition", "calls", "order", ""), rows)
    if word and modules:
        click.echo()
        print_table((f"{len(modules)} modules",), ((name,) for name in modules))


def print_names(what: str, names: Collection[str]) -> None:
    """How many there are, and their names, as many as fit in a line."""
    width = min(120, shutil.get_terminal_size().columns)
    text = textwrap.fill("  ".join(names), width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    click.echo(f"{len(names)} {what}:\n{text}\n")


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
