"""What several verbs share: the line of an error, JSON, tables, progress, examples, recurring options, NAME=VALUE."""

from __future__ import annotations

import json
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from tqdm import tqdm

from stepsmith.errors import InputError, one_line

KINDS = ("denoiser", "eps", "eps-L", "eps-U", "eps-R", "x0", "v", "flow", "score", "edm")
DIALECTS = ("torch", "diffusers", "k-diffusion", "comfyui")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def out_option(text: str, default: Path | None = None) -> Callable[[Any], Any]:
    """``--out PATH``, where a verb writes to."""
    return click.option(
        "--out", type=click.Path(path_type=Path), default=default, show_default=default is not None, help=text
    )


def plot_option(text: str) -> Callable[[Any], Any]:
    """``--plot FILE``, a picture (stepsmith/plots.py)."""
    return click.option("--plot", type=click.Path(path_type=Path), help=text)


def budgets_option(text: str, default: str | None = None) -> Callable[[Any], Any]:
    """``--nfe N,N,...``, once or several times: budgets of network calls, required where there is no default."""
    given: dict[str, Any] = {"required": True} if default is None else {"default": (default,), "show_default": True}
    return click.option("--nfe", "budgets", multiple=True, callback=_budgets, metavar="N,N,...", help=text, **given)


def _budgets(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> tuple[int, ...]:
    try:
        found = tuple(int(word) for text in given for word in text.split(","))
    except ValueError:
        found = (0,)
    if any(nfe < 1 for nfe in found):
        raise InputError("-", "nfe", f"{','.join(given)!r} are no budgets", "write such as 10,20,50")
    return found


def kind_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--kind --shape``: what a network of the user's own predicts, and of which shape (``named_network``)."""
    predicts = "What the network predicts, if it does not say so itself: a function or a module of torch, or an .onnx file. "
    for option in (
        click.option("--shape", help="With --kind: the shape of a sample of one component, such as 3,32,32."),
        click.option("--kind", type=click.Choice(KINDS), help=predicts + "It is called with times of the diffusion, such as "
        "0 to 1, not with an index (docs/sampling.md)."),
    ):
        command = option(command)
    return command


def named_network(name: str, sde: Any, kind: str | None, shape: str | None, device: Any = None) -> Any:
    """The network of ``--network --kind --shape`` for a diffusion; eps is eps-L."""
    import stepsmith as ss
    from stepsmith.derive.sampler.network import KINDS, checked, velocity

    kind = "eps-L" if kind == "eps" else kind
    try:
        size = None if shape is None else tuple(map(int, shape.split(",")))
    except ValueError:
        raise InputError("-", "shape", f"{shape!r} is no shape", "give whole numbers, such as 1,28,28") from None
    if kind is None:
        return ss.networks.load(name, device=device, shape=size)
    predicted = velocity(sde) if kind == "flow" else KINDS[str(checked(kind, sde))]
    inputs, outputs = predicted.inputs(sde), predicted.outputs(sde)
    return ss.networks.load(name, device=device, kind=kind, shape=size, components=inputs, outputs=outputs)


def own_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--sde --sampler --network --frame``: a method that is in no catalogue (``own_row``)."""
    for option in (
        click.option("--frame", help="With --sde: the quantity that conjugate steps and parts hold constant."),
        click.option("--network", default="denoiser", show_default=True, help="With --sde: what the network predicts."),
        click.option("--sampler", help="With --sde: a name, a .toml file or a composition."),
        click.option("--sde", help="A diffusion of your own, with --sampler: a name or a .toml file."),
    ):
        command = option(command)
    return command


def own_row(sde: str | None, sampler: str | None, network: str, frame: str | None) -> Any:
    """The row of ``own_options``, as one of the catalogue; None where none is asked for."""
    from stepsmith.derive.catalogue import Row

    if (sde is None) != (sampler is None):
        raise InputError("-", "sampler" if sampler is None else "sde", "--sde and --sampler go together", "give both")
    return None if sde is None or sampler is None else Row(sde, sampler, network, frame)


def fail(line: str, status: int) -> NoReturn:
    """End with one line on stderr."""
    click.echo(one_line(line), err=True)
    sys.exit(status)


def stop_in_code_of_the_user(error: Exception) -> None:
    """One line with the place in the user's own file (a network, a module) where an error comes from, if it comes from one."""
    others = (str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(map(path.is_relative_to, others)):
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            fail(f"{path.name}: line {frame.lineno}: {what}; mend it there, or give the network what it asks for", 2)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, indent=2))


def quiet(as_json: bool) -> bool:
    """Whether a progress bar would disturb: JSON was asked for, or stderr is no terminal."""
    return as_json or not sys.stderr.isatty()


def teller(as_json: bool) -> Callable[[str], None]:
    """Says on stderr, in a line, what will take a while; nothing where JSON was asked for."""
    return lambda text: None if as_json else click.echo(one_line(text), err=True)


def progress(items: Iterable[Any] | None, length: int | None, label: str, as_json: bool = False) -> Any:
    """A progress bar on stderr, over the items or, where there are none, with ``update``: that of ``stepsmith.sample``."""
    return tqdm(items, total=length, desc=label, file=sys.stderr, disable=quiet(as_json), leave=False)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout, a line a row, columns that begin with a digit or a minus to the right.  A terminal cuts what is too
    long for it; a file or a pipe gets all."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, column in zip(head, zip(*cells, strict=True), strict=True):
        number = all(cell[:1] in "-0123456789" for cell in column)
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*map(Text, row))
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as drawn:
        console.print(table, highlight=False)
    click.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def examples(*lines: str) -> str:
    """The end of a verb's help."""
    return "\n".join(("\b", "Examples:", *(f"  stepsmith {line}" for line in lines)))


def noted(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(note.message) for note in caught]


def number_pairs(pairs: Iterable[str]) -> dict[str, float]:
    """The numbers of ``--param NAME=VALUE``; InputError (key ``param``) for a value that is none."""
    values = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            raise InputError("-", "param", f"{pair!r} is no NAME=VALUE", "write such as --param Gamma=0.02") from None
    return values


def file_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """The tensors of ``--constant NAME=FILE``; InputError (key ``constant``) for a pair or a file that is none."""
    from stepsmith.runtime.constants import read_constant

    split = [pair.partition("=") for pair in pairs]
    for name, _, file in split:
        if not name.strip() or not file:
            raise InputError("-", "constant", f"{name!r} is no NAME=FILE", "write such as --constant mu=image.png")
    return {name.strip(): read_constant(file) for name, _, file in split}


def use_device(name: str) -> None:
    """Refuse a device that torch does not know, or that is not there. Of several GPUs it becomes the one that is meant by cuda,
    so that a network of the user's own is there too."""
    import torch

    from stepsmith.runtime.plan import find_device

    try:
        device = find_device(name)
        torch.zeros(1, device=device).cpu()
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        what = f"{name!r} cannot be used ({str(error).splitlines()[0]})"
        raise InputError("-", "device", what, "give cpu, or a device that this build of torch sees") from None
