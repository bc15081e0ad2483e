"""``stepsmith sample``: draw samples with a derived sampler and a real network."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.cluster import fill_by_ray
from stepsmith.cli.folder import Worker, fill, is_folder
from stepsmith.cli.run import BATCH, STEPS, Request, Run, silent
from stepsmith.cli.shared import examples, json_option, kind_options, out_option, print_json, quiet, teller
from stepsmith.errors import one_line

GRIDS = ("quadratic", "uniform", "shifted", "logsnr", "edm", "tan", "asinh")
DTYPES = ("float32", "float64", "bfloat16", "float16")
LASTS = ("none", "denoise")
ENGINES = ("local", "ray")


@click.command(
    "sample",
    epilog=examples(
        "sample --sde psld --network fashion --nfe 20 --out clothes.png",
        "sample --sde vp --sampler dpmpp-2m --network net.onnx --steps 10",
        "sample --sde psld --network my_model.py:unet --kind eps-L --shape 3,32,32 --sampler conjugate",
        "sample --sampler tuned/vp_tuned_10.py --network digits --seeds 0-63",
    ),
)
@click.option("--sde", show_default="psld, or that of a baked module", help="A name or a .toml file.")
@click.option(
    "--sampler",
    help="A name, a .toml file, a composition, or a baked .py file with its own grid; by default the first "
    "of docs/which.md at about as many calls, or conjugate.",
)
@click.option(
    "--network",
    default="fashion",
    show_default=True,
    help="fashion, fashion-psld-eps-l, digits, galaxies, a file (.safetensors, .onnx), or your own: MODULE:NAME or FILE.py:NAME.",
)
@kind_options
@click.option("--steps", type=int, help=f"Steps of the grid ({STEPS} by default).")
@click.option("--nfe", type=int, help="A budget of network calls instead of steps.")
@click.option("--grid", type=click.Choice(GRIDS), help="logsnr by default, with a default sampler that of docs/which.md.")
@click.option(
    "--start",
    type=float,
    help="First time of the grid; by default the end of the span, or as high as the network's range allows.",
)
@click.option(
    "--end", type=float, help="Last time of the grid; by default 0.001, or as low as the network's range allows."
)
@click.option(
    "--last",
    type=click.Choice(LASTS),
    default="none",
    show_default=True,
    help="denoise adds one call, which returns the mean of the data.",
)
@click.option("--seeds", default="0-15", show_default=True, help="One sample for each seed, such as 0-63 or 0,3,7-9.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    help=f"Seeds in a batch; for a folder also in a file. By default all, for a folder {BATCH}.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="local",
    show_default=True,
    help="For a folder: ray makes each file in a task of Ray (pip install 'stepsmith[ray]').",
)
@out_option(
    "A .png, .npz or .safetensors file; or a folder (no suffix), which the same command resumes.",
    Path("out/samples.png"),
)
@click.option(
    "--param", "params", multiple=True, help="NAME=VALUE, a parameter of the diffusion or the sampler; may be repeated."
)
@click.option(
    "--constant", "constants", multiple=True, help="NAME=FILE, a constant component (.png, .npz, .safetensors)."
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(1, 512),
    default=1,
    show_default=True,
    help="Threads of torch; more are faster on idle cores only.",
)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Draw samples of a diffusion with a sampler and a network, and write them to a file or a folder."""
    request, say = Request(**options), teller(as_json)
    if request.engine == "ray":
        fill_by_ray(Run.of(request, say), functools.partial(shard, request), as_json)
        return
    if is_folder(request.out):
        worker = Worker.of()
        own = replace(request, device=worker.device(request.device))
        fill(Run.of(own, say if worker.rank == 0 else silent), worker, as_json)
        return
    run = Run.of(request, say)
    begun = time.perf_counter()
    samples, notes = run.draw(progress=not quiet(as_json))
    seconds = time.perf_counter() - begun
    record = run.write(samples)
    for note in notes:
        click.echo(f"note: {one_line(note)}", err=True)
    count, steps, calls = len(run.seeds), run.grid.steps, run.calls
    if as_json:
        drawn = {"out": str(request.out), "samples": count, "steps": steps, "nfe": calls, "left": run.left}
        print_json({**drawn, "seconds": seconds, "record": record})
        return
    spare = f", {run.left} call{'s' * (run.left > 1)} left over" if run.left else ""
    named = f"{run.module.SAMPLER} on {run.grid.name}"
    click.echo(f"{request.out}: {count} samples of {named}, {steps} steps, {calls} calls a sample{spare}, {seconds:.1f} s")


made = functools.cache(lambda request: Run.of(request))  # in a process of Ray, for one shard after the other


def shard(request: Request, k: int, shards: int) -> None:
    """Shard k of a run, made anywhere."""
    made(request).fill(k, shards, lambda: False, False)
