"""``stepsmith tune``: make a sampler for one network."""

from __future__ import annotations

import contextlib
import json
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import (
    DIALECTS,
    budgets_option,
    examples,
    json_option,
    kind_options,
    named_network,
    out_option,
    plot_option,
    print_json,
    print_table,
    quiet,
    use_device,
)
from stepsmith.errors import InputError


@click.command(
    "tune",
    epilog=examples(
        "tune --network digits --nfe 10 --out tuned", "tune --network my_module:unet --nfe 8,20 --dialect diffusers",
        "tune --sde psld --gaussian statistics.npz --nfe 20",
    ),
)  # fmt: skip
@click.option("--sde", default="vp", show_default=True, help="A name or a .toml file.")
@click.option(
    "--network", default="digits", show_default=True, help="digits, fashion, galaxies, a file, MODULE:NAME or FILE.py:NAME."
)
@kind_options
@budgets_option("Network calls of a run: a sampler for each.")
@click.option(
    "--seeds", default="0-63", show_default=True, help="The seeds that are used for tuning; evaluate with others."
)
@click.option(
    "--batch", type=click.IntRange(1), help="Paths that the network is called with at a time; by default all of them."
)
@click.option("--start", type=float, help="First time of the grid; by default as high as the network's range allows.")
@click.option("--end", type=float, help="Last time of the grid; by default 0.001, or as low as the network's range allows.")
@click.option(
    "--teacher", type=click.IntRange(20, 1000), default=80, show_default=True, help="Steps of the reference sampler."
)
@click.option("--learn", is_flag=True, help="Learn the times and the weights of the outputs too.")
@click.option(
    "--certified", type=click.IntRange(1, 4), help="With --learn: stay exact for polynomials below this degree."
)
@click.option(
    "--evaluations",
    type=click.IntRange(1, 10000),
    default=200,
    show_default=True,
    help="With --learn: evaluations of the loss from the best start; the others get a quarter.",
)
@click.option(
    "--gaussian",
    type=click.Path(path_type=Path),
    help="Choose a parameter of --sampler from the covariance of the data.",
)
@click.option(
    "--sampler",
    default="conjugate-ones",
    show_default=True,
    help="With --gaussian: the sampler that has the parameter.",
)
@click.option("--parameter", default="lambda_", show_default=True, help="With --gaussian: the name of the parameter.")
@click.option(
    "--dialect", type=click.Choice(DIALECTS), default="torch", show_default=True, help="The host that the file is for."
)
@click.option("--device", default="cpu", show_default=True)
@plot_option("Draw the error against the network calls into this file.")
@out_option("Folder of the tuned modules and their records.", Path("out"))
@json_option
def command(
    sde: str, network: str, budgets: Sequence[int], seeds: str, out: Path, as_json: bool, device: str, plot: Path | None,
    dialect: str, learn: bool, certified: int | None, evaluations: int, gaussian: Path | None, sampler: str, parameter: str,
    kind: str | None, shape: str | None, **given: Any,
) -> None:  # fmt: skip
    """Choose grid, frame, order, clock and corrector for a network, on its own paths, and write the best as a baked module.

    Each trial is stored in trials.jsonl of the folder, so a run that was stopped can be resumed. With --gaussian FILE.npz
    (images, covariance or eigenvalues) or a folder of images, no network is called: a parameter of an eps-L sampler is chosen
    on the quadratic grid, with the mean of the data as the last call.
    """
    import torch

    if gaussian is not None:
        return without_network(gaussian, sde, sampler, parameter, budgets, out, as_json)
    import stepsmith as ss
    from stepsmith import plots
    from stepsmith.tuning import check, prepared, tuned

    begun = time.perf_counter()
    torch.set_num_threads(1)
    use_device(device)
    with folder(out):
        plots.check(plot)
        shown, called = not quiet(as_json), named_network(network, ss.load_sde(sde), kind, shape, device)
        check_host(dialect, called.kind)
        bench = prepared(
            sde, called, seeds, kind=called.kind, device=device, trials=out / "trials.jsonl", progress=shown, **given
        )
        for nfe in budgets:  # all of them before the first, which takes minutes
            check(bench, nfe, learn, certified)
        found = [tuned(bench, nfe, learn=learn, certified=certified, evaluations=evaluations) for nfe in budgets]
        paths = [each.write(out, dialect) for each in found]
    seconds = round(time.perf_counter() - begun, 1)
    if plot is not None:
        drawn([each.record for each in found]).save(plot)
    if as_json:
        print_json(
            {"files": [str(path) for path in paths], "seconds": seconds, "records": [each.record for each in found]}
        )
        return
    rows = (row(each.record, path) for each, path in zip(found, paths, strict=True))
    print_table(("calls", "pooled / median on held-out paths", "the baseline's", "kept", "file"), rows)
    click.echo(f"{seconds:.0f} s")


def check_host(dialect: str, kind: str) -> None:
    """Refuse a network that no host calls, before it is tuned to."""
    if dialect != "torch" and kind != "denoiser":
        what = f"a file for {dialect} needs a denoiser, and this network is of kind {kind}"
        raise InputError("-", "dialect", what, "name one that networks.from_eps, from_v or from_flow made of it")


@contextlib.contextmanager
def folder(out: Path) -> Iterator[None]:
    """The folder, made where there is none; gone again where nothing was written into it."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                out.rmdir()


AMONG = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


def without_network(
    source: Path, sde: str, sampler: str, parameter: str, budgets: Sequence[int], out: Path, as_json: bool
) -> None:  # fmt: skip
    """The parameter of an eps-L sampler by the covariance of the data, a record a budget."""
    import stepsmith as ss
    from stepsmith.files import write_whole
    from stepsmith.measure import gaussian
    from stepsmith.runtime import budget_steps

    variances = gaussian.modes(statistics(source))
    method = ss.derive(sde, sampler, "eps-L")
    if parameter not in method.params:
        raise InputError(
            "-", "parameter", f"{method.name} has no {parameter}", f"name one of {', '.join(method.params)}"
        )
    module = ss.load(ss.emit(method))
    records: list[dict[str, Any]] = []
    for nfe in budgets:
        grid = ss.TimeGrid.quadratic(method.sde, budget_steps(nfe, method.nfe, "denoise")[0])

        def measure(value: float, grid: Any = grid) -> float:
            return gaussian.distance(module, grid, variances, {parameter: value})

        value, seen = gaussian.best(measure, AMONG)
        told = {"nfe": nfe, "sampler": sampler, "sde": sde, "data": source.name, "parameter": parameter, "value": value}
        records.append(
            {**told, "distance": seen[value], "at 0": seen[0.0], "distances": {f"{x:g}": e for x, e in seen.items()}}
        )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{method.name}_{parameter.strip('_')}.json", json.dumps(records, indent=2).encode())
    if as_json:
        return print_json({"records": records})
    cells = "{nfe}", "{value:.3f}", "{distance:.3g}", "{at 0:.3g}"
    print_table(("calls", parameter, "distance", "at 0"), ([cell.format(**record) for cell in cells] for record in records))


def statistics(source: Path) -> Any:
    """Images of a folder, or the array of an .npz file."""
    import numpy as np

    from stepsmith.runtime import data

    if source.is_dir():
        return data.images(source)
    try:
        with np.load(source, allow_pickle=False) as file:
            return next(file[key] for key in ("eigenvalues", "covariance", "images") if key in file)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        what = "it holds no eigenvalues, covariance or images"
        raise InputError(str(source), "gaussian", what, "write it with numpy.savez") from None


def row(record: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """One number of calls."""
    kept = outcome(record)
    errors = (f"{error['pooled']:.2e} / {error['median']:.2e}" for error in (kept, record["baseline"]))
    name = f"learned from {record['learned']['from']}" if kept is record.get("learned", {}).get("held_out") else record["kept"]
    return str(record["nfe"]), *errors, name, str(path)


def outcome(record: Mapping[str, Any]) -> dict[str, float]:
    """The error of what was kept, on the paths that did not choose."""
    learned = record.get("learned", {"kept": False})
    return learned["held_out"] if learned["kept"] else record["held_out"]


def drawn(records: Sequence[Mapping[str, Any]]) -> Any:
    """Error against calls, what was kept and the baseline, a panel a measure."""
    from stepsmith import plots

    calls = [record["nfe"] for record in records]
    groups = {
        f"{key} distance to the teacher": {
            "tuned": [outcome(record)[key] for record in records], "baseline": [record["baseline"][key] for record in records],
        }
        for key in ("pooled", "median")
    }  # fmt: skip
    return plots.measures(groups, calls)
