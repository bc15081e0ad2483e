"""``stepsmith build``: emit step modules, or compare them with the files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import json_option, out_option, print_json, progress
from stepsmith.errors import InputError

FEW = 8  # modules that are not worth a process


@click.command("build")
@click.argument("names", nargs=-1)
@click.option(
    "--check", is_flag=True, help="Compare with the files; exit 1 with a diff where one differs or is an orphan."
)
@out_option("Folder of the emitted modules; ./generated of a checkout by default.")
@click.option("--sde", help="A diffusion of your own: a name or a .toml file, with --sampler.")
@click.option("--sampler", help="A name, a .toml file or a composition string, with --sde.")
@click.option("--network", default="denoiser", show_default=True, help="What the network gives, with --sde.")
@click.option("--frame", help="The frozen quantity of a conjugate sampler, with --sde.")
@json_option
def command(names: Sequence[str], check: bool, out: Path | None, as_json: bool, **own: Any) -> None:
    """Emit step modules: NAMES of the catalogue, or all of it."""
    from stepsmith.templates.files import compare, folder, write

    place = folder(out)
    begun = time.perf_counter()
    texts = module_texts(names, as_json, **own)
    differences = compare(place, texts, orphans=not names and own["sde"] is None)
    if check:
        for difference in () if as_json else differences:
            click.echo(difference.diff)
    else:
        write(place, texts, remove=[d.name for d in differences if d.orphan])
    seconds = round(time.perf_counter() - begun, 2)
    if as_json:
        print_json(
            {"modules": list(texts), "changed": [d.name for d in differences], "seconds": seconds, "checked": check}
        )
    else:
        done, found = ("checked", "differ") if check else ("built", "changed")
        click.echo(f"{len(texts)} modules {done} in {seconds} s, {len(differences)} {found}")
    if check and differences:
        sys.exit(1)


def module_texts(
    names: Sequence[str], as_json: bool, sde: str | None, sampler: str | None, network: str, frame: str | None
) -> dict[str, str]:
    """The texts by name: of a diffusion of the user's own, and of the names; of the catalogue where neither is given."""
    from stepsmith.derive import catalogue
    from stepsmith.derive.method import derive
    from stepsmith.templates import emit

    if (sde is None) != (sampler is None):
        raise InputError("-", "sampler" if sampler is None else "sde", "--sde and --sampler go together", "give both")
    texts: dict[str, str] = {}
    if sde is not None:
        method = derive(sde, sampler, network, frame)
        catalogue.refuse_clash(method)
        texts[method.name] = emit(method)
    chosen = [catalogue.find(name) for name in names] or ([] if sde is not None else list(catalogue.rows()))
    with progress(None, len(chosen), "building", as_json) as bar:
        for name, text in _emitted(chosen):
            texts[name] = text
            bar.update(1)
    return texts


def _emitted(rows: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """The modules of rows, in their order; many are made by a process a core."""
    if len(rows) <= FEW:
        yield from map(_text, rows)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_text, rows, chunksize=4)


def _text(row: Any) -> tuple[str, str]:
    """A row's module: derived, proven, written."""
    from stepsmith.templates import emit

    return row.name, emit(row.derive())
