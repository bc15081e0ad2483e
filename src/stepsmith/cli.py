"""The command line: ``stepsmith list | derive | error | build | show | verify | sample | search | report``.

Exit status 0 done; 1 a check failed; 2 bad input, told in one line on stderr: ``<file or ->: <key>: <what>; <mend>``.
Heavy imports happen inside the verbs, so ``stepsmith --help`` is quick.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import click

from stepsmith import __version__
from stepsmith.cli_orders import error, report, search, verify_orders
from stepsmith.errors import InputError, Unsupported, one_line


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="stepsmith")
def cli() -> None:
    """A compiler from a linear diffusion to a proven sampler."""


cli.add_command(error)
cli.add_command(search)
cli.add_command(report)


def main() -> NoReturn:
    """Run the command line; bad input is one line and exit status 2, a closed pipe is no error."""
    try:
        with cli.make_context("stepsmith", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("-: interrupted: stopped by the user; run it again", 130)
    except click.ClickException as error:
        option = (
            getattr(getattr(error, "param", None), "name", None) or getattr(error, "option_name", None) or "arguments"
        )
        _fail(f"-: {option}: {one_line(error.format_message()).rstrip('.')}; see stepsmith --help", 2)
    except InputError as error:
        _fail(one_line(str(error)), 2)
    except Unsupported as error:
        _fail(f"-: unsupported: {one_line(str(error))}", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing is flushed into it at the end
    except OSError as error:  # what no check sees beforehand: a full disk, a folder that is not one
        _fail(f"{error.filename or '-'}: file: {error.strerror or one_line(str(error))}; choose another place", 2)
    except (MemoryError, RuntimeError) as error:  # torch says the former with the latter
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        _fail("-: memory: this machine has too little for it; ask for fewer seeds or steps", 2)
    sys.exit(0)


def _fail(line: str, status: int) -> NoReturn:
    click.echo(one_line(line), err=True)
    sys.exit(status)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


@cli.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(as_json: bool) -> None:
    """The catalogue: diffusions, samplers and emitted modules."""
    from stepsmith.derive import catalogue, list_samplers, list_sdes, load_sampler, load_sde

    sdes = {name: load_sde(name).doc for name in list_sdes()}
    samplers = {name: load_sampler(name) for name in list_samplers()}
    modules = [row.name for row in catalogue.rows()]
    if as_json:
        told = {
            name: {"doc": s.doc, "family": s.family, "composition": s.text, "nfe": s.nfe}
            for name, s in samplers.items()
        }
        _print_json({"sdes": sdes, "samplers": told, "modules": modules})
        return
    click.echo("diffusions")
    for name, doc in sdes.items():
        click.echo(f"  {name:20} {doc}")
    orders = _proven(catalogue.rows())
    click.echo("\nsamplers                                  calls  order")
    for name, sampler in samplers.items():
        how = sampler.text or ("lines of text" if sampler.formula is not None else "conjugate step")
        click.echo(f"  {name:20} {how:18} {sampler.nfe:5}  {orders.get(name, '-'):>6}  {sampler.doc}")
    click.echo(f"\nmodules ({len(modules)})")
    for name in modules:
        click.echo(f"  {name}")


def _proven(rows: Any) -> dict[str, str]:
    """The proven order of each sampler, read off the text of its first emitted module; weak ones say so."""
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


@cli.command()
@click.argument("sde")
@click.option("--latex", is_flag=True, help="Print LaTeX.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def derive(sde: str, latex: bool, as_json: bool) -> None:
    """Transition, covariance, stationary law and reverse dynamics of SDE (a name or a .toml file)."""
    from stepsmith.derive import load_sde
    from stepsmith.derive.report import report

    sections = report(load_sde(sde))
    if as_json:
        _print_json({"source": sde, **{s.key: s.text for s in sections}})
        return
    for section in sections:
        click.echo(
            f"{section.title}\n"
            + "\n".join(f"    {line}" for line in (section.latex if latex else section.text).splitlines())
            + "\n"
        )


@cli.command()
@click.argument("names", nargs=-1)
@click.option(
    "--check", is_flag=True, help="Compare with the files; exit 1 with a diff where one differs or is an orphan."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the emitted modules; ./generated of a checkout by default.",
)
@click.option("--sde", help="A diffusion of your own: a name or a .toml file, with --sampler.")
@click.option("--sampler", help="A name, a .toml file or a composition string, with --sde.")
@click.option("--network", default="denoiser", show_default=True, help="What the network gives, with --sde.")
@click.option("--frame", help="The frozen quantity of a conjugate sampler, with --sde.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def build(
    names: tuple[str, ...],
    check: bool,
    out: Path | None,
    sde: str | None,
    sampler: str | None,
    network: str,
    frame: str | None,
    as_json: bool,
) -> None:
    """Emit step modules: NAMES of the catalogue, or all of it."""
    from stepsmith.derive import catalogue
    from stepsmith.derive.method import derive as derived
    from stepsmith.templates import emit
    from stepsmith.templates.files import compare, folder, write

    place = folder(out)
    if (sde is None) != (sampler is None):
        raise InputError("-", "sampler" if sampler is None else "sde", "--sde and --sampler go together", "give both")
    begun = time.perf_counter()
    texts: dict[str, str] = {}
    if sde is not None:
        method = derived(sde, sampler, network, frame)
        catalogue.refuse_clash(method)
        texts[method.name] = emit(method)
    chosen = [catalogue.find(name) for name in names] or ([] if sde is not None else list(catalogue.rows()))
    hidden = as_json or not sys.stderr.isatty()
    with click.progressbar(length=len(chosen), label="building", file=sys.stderr, hidden=hidden) as bar:
        for name, text in _emitted(chosen):
            texts[name] = text
            bar.update(1)
    whole = not names and sde is None
    differences = compare(place, texts, orphans=whole)
    if check:
        for difference in () if as_json else differences:
            click.echo(difference.diff)
    else:
        write(place, texts, remove=[d.name for d in differences if d.orphan])
    seconds = round(time.perf_counter() - begun, 2)
    if as_json:
        _print_json(
            {"modules": list(texts), "changed": [d.name for d in differences], "seconds": seconds, "checked": check}
        )
    else:
        done, found = ("checked", "differ") if check else ("built", "changed")
        click.echo(f"{len(texts)} modules {done} in {seconds} s, {len(differences)} {found}")
    if check and differences:
        sys.exit(1)


def _text(row: Any) -> tuple[str, str]:
    """A row's module: derived, proven, written."""
    from stepsmith.templates import emit

    return row.name, emit(row.derive())


def _emitted(rows: list[Any]) -> Iterator[tuple[str, str]]:
    """The modules of rows, in their order; many are made by a process a core."""
    if len(rows) <= FEW:
        yield from map(_text, rows)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_text, rows, chunksize=4)


FEW = 8  # modules that are not worth a process


@cli.command()
@click.argument("name")
def show(name: str) -> None:
    """The step program of a module of the catalogue, as text."""
    from stepsmith.derive import catalogue

    click.echo(catalogue.find(name).derive().rows.text, nl=False)


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The whole catalogue.")
@click.option(
    "--coefficients",
    is_flag=True,
    help="Instead of the orders, hold each coefficient to a 400-bit evaluation by another route.",
)
@click.option("--end", type=float, default=1e-5, show_default=True, help="Where the geometric grid of 24 steps ends.")
@click.option("--table", type=click.Path(path_type=Path), help="Write the table of orders into this file (Markdown).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    names: tuple[str, ...], everything: bool, coefficients: bool, end: float, table: Path | None, as_json: bool
) -> None:
    """Hold NAMES of the catalogue to their proofs; exit 1 where a measured order falls more than 0.1 under the proven one.

    With --coefficients, derive, prove and emit them and hold the tables to their definitions; exit 1 where an entry is off by
    more than 1e-13.  The measure is |c - true| / max(|true|, sum |p dc/dp|), p the float64 inputs, entry by entry, of every
    fourth step of the grid and of its first and last ones.
    """
    from stepsmith.derive import catalogue
    from stepsmith.verification import verdicts

    if not names and not everything:
        raise InputError("-", "names", "nothing to verify", "name modules or say --all")
    if not coefficients:
        return verify_orders(names, table, as_json)
    if not 0 < end < 0.1:
        raise InputError("-", "end", f"{end!r} is no end of the grid", "give a time between 0 and 0.1")
    rows = [catalogue.find(name) for name in names] or list(catalogue.rows())
    begun, results = time.perf_counter(), []
    shown = not as_json and sys.stderr.isatty()
    with click.progressbar(length=len(rows), label="verifying", file=sys.stderr, hidden=not shown) as bar:
        for verdict in verdicts(rows, end):
            results.append(verdict)
            bar.update(1)
            if not as_json:
                click.echo(verdict.line)
    worst = max(results, key=lambda verdict: verdict.error)
    bad = [verdict.name for verdict in results if not verdict.holds]
    seconds = round(time.perf_counter() - begun, 1)
    if as_json:
        told = [dataclasses.asdict(verdict) for verdict in results]
        _print_json({"worst": dataclasses.asdict(worst), "failed": bad, "modules": told, "seconds": seconds})
    else:
        click.echo(f"worst: {worst.name} {worst.error:.1e} in {worst.column}; {len(results)} modules in {seconds} s")
    if bad:
        click.echo(f"failed: {', '.join(bad)}", err=True)
        sys.exit(1)


GRIDS = ("quadratic", "uniform", "logsnr", "edm")


@cli.command()
@click.option("--sde", default="psld", show_default=True, help="A name or a .toml file.")
@click.option("--sampler", default="rvv", show_default=True, help="A name, a .toml file or a composition string.")
@click.option("--network", default="digits", show_default=True, help="digits, galaxies or a checkpoint (.safetensors).")
@click.option("--steps", type=int, help="Steps of the grid (50 by default).")
@click.option("--nfe", type=int, help="A budget of network calls instead of steps.")
@click.option("--grid", type=click.Choice(GRIDS), default="quadratic", show_default=True)
@click.option("--end", type=float, default=1e-3, show_default=True, help="Where the grid ends.")
@click.option(
    "--last",
    type=click.Choice(("none", "denoise")),
    default="none",
    show_default=True,
    help="denoise adds one call: the mean of the data.",
)
@click.option("--seeds", default="0-15", show_default=True, help="One sample a seed: 0-63 or 0,3,7-9.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/samples.png"),
    show_default=True,
    help=".png, .npz or .safetensors.",
)
@click.option("--param", "params", multiple=True, help="NAME=VALUE, a parameter of the diffusion or the sampler.")
@click.option(
    "--constant", "constants", multiple=True, help="NAME=FILE, a constant component (.png, .npz, .safetensors)."
)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--dtype", type=click.Choice(("float32", "float64", "bfloat16", "float16")), default="float32", show_default=True
)
@click.option(
    "--threads",
    type=click.IntRange(1, 512),
    default=1,
    show_default=True,
    help="Threads of torch; more pay on idle cores only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sample(
    sde: str, sampler: str, network: str, steps: int | None, nfe: int | None, grid: str, end: float, last: str, seeds: str,
    out: Path, params: tuple[str, ...], constants: tuple[str, ...], device: str, dtype: str, threads: int, as_json: bool,
) -> None:  # fmt: skip
    """Draw samples with a derived sampler and a real network."""
    import stepsmith as ss
    from stepsmith.derive.method import derive as derived
    from stepsmith.runtime import budget_steps, check_output, parse_seeds, record, write

    check_output(out)
    chosen = parse_seeds(seeds)
    values, given = _numbers(params), _files(constants)
    diffusion = ss.load_sde(sde)
    method = derived(diffusion, sampler)
    if steps is not None and nfe is not None:
        raise InputError("-", "nfe", "--steps and --nfe exclude each other", "give one of them")
    left = 0
    if nfe is not None:
        steps, left = budget_steps(nfe, max(1, method.nfe), last)
        while steps > 1 and method.rows.nfe(steps) + (last == "denoise") > nfe:  # the first step may cost more
            steps -= 1
        left = nfe - method.rows.nfe(steps) - (last == "denoise")
    # Parameters that shape the grid are the diffusion's; the sampler's own (lambda) do not.
    own = {name: value for name, value in values.items() if name in diffusion.params}
    times = getattr(ss.TimeGrid, grid)(
        diffusion if not own else _Viewed(diffusion, own), 50 if steps is None else steps, end=end
    )
    import torch

    torch.set_num_threads(threads)
    _check_device(device)
    net = ss.networks.load(network, device=device)
    module = ss.load(ss.emit(method))
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        drawn = ss.sample(
            module, net, times, chosen, params=values, last=last, device=device, dtype=getattr(torch, dtype),
            progress=not as_json and sys.stderr.isatty(), constants=given,
        )  # fmt: skip
    seconds = time.perf_counter() - begun
    told = record(
        module,
        times,
        chosen,
        params=values,
        last=last,
        device=device,
        dtype=getattr(torch, dtype),
        network=net,
        constants=given,
    )
    told["specs"] = {key: _spec_text(source) for key, source in (("sde", sde), ("sampler", sampler))}
    write(out, net.picture(drawn) if net.picture is not None and out.suffix == ".png" else drawn, told)
    for note in notes:
        click.echo(f"note: {one_line(str(note.message))}", err=True)
    calls = method.rows.nfe(times.steps) + (last == "denoise")
    if as_json:
        _print_json(
            {
                "out": str(out),
                "samples": len(chosen),
                "steps": times.steps,
                "nfe": calls,
                "left": left,
                "seconds": seconds,
                "record": told,
            }
        )
        return
    spare = f", {left} calls left over" if left else ""
    click.echo(f"{out}: {len(chosen)} samples, {times.steps} steps, {calls} calls a sample{spare}, {seconds:.1f} s")


def _check_device(name: str) -> None:
    """Refuse a device that torch does not know, or that is not there."""
    import torch

    from stepsmith.runtime.plan import find_device

    try:
        torch.zeros(1, device=find_device(name)).cpu()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        what = f"{name!r} cannot be used ({str(error).splitlines()[0]})"
        raise InputError("-", "device", what, "give cpu, or a device that this build of torch sees") from None


def _spec_text(source: str) -> str:
    """What a run's record keeps of a spec: the text of a file of the user's, else the name or the composition."""
    return Path(source).read_text(encoding="utf-8") if source.endswith(".toml") else source


class _Viewed:
    """A diffusion whose numeric view has these parameters: what a grid needs of it."""

    def __init__(self, sde: Any, params: dict[str, float]) -> None:
        self.name, self.time, self._sde, self._params = sde.name, sde.time, sde, params

    def at(self, **params: float) -> Any:
        return self._sde.at(**{**self._params, **params})


def _files(pairs: tuple[str, ...]) -> dict[str, Any]:
    from stepsmith.runtime.constants import read_constant

    split = [pair.partition("=") for pair in pairs]
    for name, _, file in split:
        if not name.strip() or not file:
            raise InputError("-", "constant", f"{name!r} is no NAME=FILE", "write such as --constant mu=image.png")
    return {name.strip(): read_constant(file) for name, _, file in split}


def _numbers(pairs: tuple[str, ...]) -> dict[str, float]:
    values = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            raise InputError("-", "param", f"{pair!r} is no NAME=VALUE", "write such as --param Gamma=0.02") from None
    return values
