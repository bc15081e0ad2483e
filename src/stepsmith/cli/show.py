"""``stepsmith show NAME``: a step program before it is written down in torch."""

from __future__ import annotations

from typing import Any

import click

from stepsmith.cli.shared import examples, own_options, own_row
from stepsmith.errors import InputError


@click.command("show", epilog=examples("show psld_rvv", "show --sde mine.toml --sampler rvv"))
@click.argument("name", required=False)
@own_options
def command(name: str | None, **own: Any) -> None:
    """Print the step program of a module of the catalogue, or of a diffusion and a sampler of your own."""
    from stepsmith.derive import catalogue

    row = own_row(**own)
    if (name is None) == (row is None):
        raise InputError("-", "name", "one program is shown", "name a module, or give --sde and --sampler")
    click.echo((row or catalogue.find(str(name))).derive().rows.text, nl=False)
