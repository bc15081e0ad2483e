"""``stepsmith show NAME``: a step program before it is written down in torch."""

from __future__ import annotations

import click

from stepsmith.cli.shared import examples


@click.command("show", epilog=examples("show psld_rvv"))
@click.argument("name")
def command(name: str) -> None:
    """The step program of a module of the catalogue, as text."""
    from stepsmith.derive import catalogue

    click.echo(catalogue.find(name).derive().rows.text, nl=False)
