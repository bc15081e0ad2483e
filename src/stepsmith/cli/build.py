"""``stepsmith build``: emit step modules, or compare them with the files."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click

from stepsmith import digests
from stepsmith.cli.sample import GRIDS
from stepsmith.cli.shared import DIALECTS, examples, json_option, out_option, own_options, own_row, print_json, progress
from stepsmith.errors import InputError

FEW = 8  # modules that are not worth a process
Text = Callable[[Any], str]  # of a method


class Emitted(NamedTuple):
    """A module: its name, the digest of its program and its text."""

    name: str
    program: str
    text: str


@click.command(
    "build",
    epilog=examples(
        "build --check",
        "build vp_dpmpp_2m --dialect diffusers --out .",
        "build --sde mine.toml --sampler rvv --bake --steps 10 --out .",
    ),
)
@click.argument("names", nargs=-1)
@click.option(
    "--check", is_flag=True, help="Compare with the files; exit 1 with a diff if one differs or belongs to no module."
)
@out_option("Folder for the modules; by default ./generated of a clone.")
@own_options
@click.option(
    "--no-certificate",
    "certified",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Write modules without checking them.",
)
@click.option(
    "--dialect",
    type=click.Choice(DIALECTS),
    default="torch",
    show_default=True,
    help="The host that the file is for: none, or one that needs a scheduler, a function or a node; with --out.",
)
@click.option("--bake", is_flag=True, help="Store the table of coefficients of one grid in the file.")
@click.option("--steps", type=int, help="Steps of the grid, with --bake.")
@click.option("--grid", type=click.Choice(GRIDS), default="quadratic", show_default=True, help="The grid, with --bake.")
@click.option("--end", type=float, default=1e-3, show_default=True, help="Where the grid ends, with --bake.")
@json_option
def command(
    names: Sequence[str], check: bool, out: Path | None, as_json: bool, certified: bool, dialect: str, bake: bool,
    steps: int | None, grid: str, end: float, **own: Any,
) -> None:  # fmt: skip
    """Write the step modules NAMES of the catalogue, or that of a diffusion of your own (--sde, --sampler, --out).

    Without either, the whole catalogue is derived, and the modules that are kept in ./generated are written.  Each module is
    first executed and checked (docs/numerics.md); if one fails, nothing is written and the exit status is 1.  --check only
    compares texts.  With --bake the files are named <name>_<grid>_<steps>.py.
    """
    from stepsmith import certificate
    from stepsmith.templates.files import compare, folder, write

    place, every = folder(out), not names and own["sde"] is None
    check_options(bake, steps, dialect, named=not every and out is not None)
    begun = time.perf_counter()
    text = functools.partial(certificate.written if check else certificate.emit, certified=certified)
    if steps is not None:
        text = functools.partial(baked, text=text, grid=grid, steps=steps, end=end)
    if dialect != "torch":
        text = functools.partial(attached, text=text, dialect=dialect)
    modules = emit_all(chosen(names, every, out), own_row(**own), text, as_json)
    if steps is not None:
        modules = [module._replace(name=f"{module.name}_{grid}_{steps}") for module in modules]
    texts = kept_files(modules) if every else {f"{module.name}.py": module.text for module in modules}
    differences = compare(place, texts, orphans=every)
    if not check:
        write(place, texts, remove=[d.file for d in differences if d.orphan])
    if as_json:
        changed, seconds = [each.name for each in differences], round(time.perf_counter() - begun, 2)
        print_json({"modules": [each.name for each in modules], "changed": changed, "seconds": seconds, "checked": check})
    else:
        for difference in () if every and not check else differences:
            click.echo(difference.diff if check else place / difference.file)
        done, found = ("checked", "that differ") if check else ("built", "changed")
        count = f"{len(modules)} module{'' if len(modules) == 1 else 's'}"
        click.echo(f"{count} {done} in {time.perf_counter() - begun:.2f} s; files {found} in {place}: {len(differences)}")
    if check and differences:
        sys.exit(1)


def check_options(bake: bool, steps: int | None, dialect: str, named: bool) -> None:
    """Refuse options that do not go together; ``named``: modules are named, and the folder is the user's."""
    if bake != (steps is not None):
        raise InputError("-", "steps" if bake else "bake", "--bake and --steps go together", "give both")
    if (bake or dialect != "torch") and not named:
        key, what = ("bake", "a baked module") if bake else ("dialect", dialect)
        what = f"{what} is for named modules, in a folder of yours"
        raise InputError("-", key, what, "give NAMES or --sde, and --out")


def baked(method: Any, text: Text, grid: str, steps: int, end: float) -> str:
    """The module of a method for one grid."""
    import stepsmith as ss

    return ss.bake(ss.load(text(method)), getattr(ss.TimeGrid, grid)(method.sde, steps, end=end))


def attached(method: Any, text: Text, dialect: str) -> str:
    """The module of a method with what a host asks for behind it."""
    from stepsmith.templates import attach

    return attach(text(method), dialect)


def chosen(names: Sequence[str], every: bool, out: Path | None) -> list[Any]:
    """The rows of the catalogue to emit; in ./generated only those that are kept there."""
    from stepsmith.derive import catalogue

    if every:
        return list(catalogue.rows())
    rows = [catalogue.find(name) for name in names]
    for row in rows if out is None else ():
        if row not in catalogue.kept():
            raise InputError("-", "name", f"{row.name} is not kept in ./generated", "name a folder with --out")
    return rows


def emit_all(rows: Sequence[Any], own: Any, text: Text, as_json: bool) -> list[Emitted]:
    """The modules, written by ``text``: that of the user's ``own`` row, and those of the rows of the catalogue."""
    modules = []
    if own is not None:
        from stepsmith.derive import catalogue

        method = own.derive()
        catalogue.refuse_clash(method)
        modules.append(_emitted(method, text))
    return [*modules, *progress(_from_rows(rows, text), len(rows), "building", as_json)]


def kept_files(modules: Sequence[Emitted]) -> dict[str, str]:
    """The files of ``generated/``: the modules that are kept, and a line of digests.txt for every module of the catalogue."""
    from stepsmith.derive import catalogue

    kept = {row.name for row in catalogue.kept()}
    texts = {f"{module.name}.py": module.text for module in modules if module.name in kept}
    return {**texts, digests.FILE: digests.written(digests.Line.of(*module) for module in modules)}


def _from_rows(rows: Sequence[Any], text: Text) -> Iterator[Emitted]:
    """The modules of rows, in their order; many are made by a process a core."""
    one = functools.partial(_from_row, text=text)
    if len(rows) <= FEW:
        yield from map(one, rows)
        return
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(one, rows, chunksize=4)


def _from_row(row: Any, text: Text) -> Emitted:
    """A row's module: derived, proven, written."""
    return _emitted(row.derive(), text)


def _emitted(method: Any, text: Text) -> Emitted:
    return Emitted(method.name, method.digest, text(method))
