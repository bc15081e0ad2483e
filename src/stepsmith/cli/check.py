"""``stepsmith check``: somebody else's sampler on problems that are known exactly."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from stepsmith.cli.shared import examples, json_option, print_json, teller
from stepsmith.errors import InputError


@click.command(
    "check",
    epilog=examples(
        "check diffusers:DDIMScheduler",
        "check my_package:MyScheduler --expect-order 2",
    ),
)
@click.argument("target", metavar="MODULE:NAME")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An argument of the scheduler, as JSON, such as solver_order=3; may be repeated.",
)
@click.option(
    "--expect-order",
    type=float,
    help="Exit with status 1 unless the order of the step (else of the run) is this and the runs converge.",
)
@json_option
def command(target: str, settings: tuple[str, ...], expect_order: float | None, as_json: bool) -> None:
    """Measure a diffusers scheduler or a k-diffusion function: orders, variance, seeds, reads, rounding.

    MODULE:NAME, or FILE.py:NAME, is imported and executed, so only name code that you trust. A scheduler runs as in a pipeline,
    with clipping and thresholding turned off; a function runs on EDM's grid from 60 to 0.05. docs/check.md explains each figure.
    """
    import torch

    from stepsmith.measure import check

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judged = subject(target, options(settings))
        teller(as_json)(f"measuring {target}: a minute or less")
        report = run(target, lambda: check.judge(judged))
    if as_json:
        print_json(asdict(report))
    else:
        for line in sentences(report):
            click.echo(line)
    found = report.run if report.formula is None else report.formula
    met = found is not None and expect_order is not None and abs(found - expect_order) <= 0.4 and not report.stalls
    if expect_order is not None and not met:
        measured = "none is measured" if found is None or report.stalls else f"{found:.2f} was measured"
        click.echo(f"order {expect_order:g} was expected, and {measured}", err=True)
        sys.exit(1)


def options(settings: tuple[str, ...]) -> dict[str, Any]:
    """The values of KEY=VALUE; a word that is no JSON is text."""
    found = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key.isidentifier():
            raise InputError("-", "set", f"{setting!r} is no KEY=VALUE", "write such as solver_order=3")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def subject(target: str, config: dict[str, Any]) -> Any:
    """What is to be judged; InputError where it is neither a scheduler nor a function."""
    from stepsmith.measure.subjects import Function, Scheduler
    from stepsmith.runtime.usercode import module_of

    place, _, name = target.rpartition(":")
    if not place or not name:
        raise InputError("-", "sampler", f"{target!r} is no MODULE:NAME", "write such as diffusers:DDIMScheduler")
    try:
        found = getattr(module_of(place), name)
    except InputError:
        raise
    except Exception as error:  # a user's module raises what it likes
        what = f"{target} cannot be had ({type(error).__name__}: {error})"
        raise InputError("-", "sampler", what, "name what can be imported") from error
    if not callable(found):
        raise InputError(
            "-", "sampler", f"{target} is neither a class nor a function", "name a scheduler or a function"
        )
    return run(target, lambda: Scheduler.of(found, config) if isinstance(found, type) else Function.of(name, found, config))


def run(target: str, call: Callable[[], Any]) -> Any:
    """What a call of the user's code gives; InputError, with the line where it stopped, for what it raises."""
    try:
        return call()
    except (InputError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{target} does not run ({type(error).__name__}: {error}, in {Path(place.filename).name}:{place.lineno})"
        raise InputError("-", "sampler", what, "mend it, or set what it asks for: --set KEY=VALUE") from error


def sentences(report: Any) -> list[str]:
    """The findings, a line each."""
    lines = [f"{report.name}: {'it draws noise' if report.random else 'deterministic'}."]
    if not report.random:
        if report.formula is not None:
            lines.append(
                f"Order of the common step: {report.formula:.2f} (the error of single steps from exact values)."
            )
        told = ", ".join(f"{error:.1e} in {n}" for n, error in report.errors.items())
        lost = "none, for the error does not go on falling" if report.stalls else "hidden by rounding"
        order = lost if report.run is None else f"{report.run:.2f}"
        lines.append(f"Order of a run, its first steps included: {order} (errors: {told} steps).")
    if report.last is not None:
        lines.append(f"The step to the end makes an error of {report.last:.1e} by itself.")
    for n, (ratio, error) in report.variance.items():
        lines.append(f"Variance in {n} steps: {ratio:.3f} of the exact one, with a standard error of {error:.3f}.")
    lines += wrong(report)
    same = "the same samples again" if report.repeats else "OTHER samples"
    lines.append(f"The same generator gives {same}.")
    batch = "the batch that it is drawn in" if report.independent else "what the other samples of its batch are"
    lines.append(f"A sample {'does not depend' if report.batch else 'DEPENDS'} on {batch}.")
    lines.append(f"Values read back from the device: {report.syncs:.1f} a step.")
    narrow = ", ".join(f"{error:.1e} ({name})" for name, error in report.half.items())
    lines.append(f"Narrow states change the samples by {narrow}.")
    return lines


def wrong(report: Any) -> list[str]:
    """Means and correlations of the samples, a line each, that chance does not explain; the others are not mentioned."""
    from stepsmith.measure.check import CHANCE

    told = {
        "Mean in {} steps: WRONG by {:.3f}": report.mean,
        "Correlation of the values of a sample in {} steps: {:.3f} where 0 is right": report.within,
        "Correlation of the samples of a batch in {} steps: {:.3f} where 0 is right": report.between,
    }
    return [
        f"{what.format(n, value)}, with a standard error of {error:.3f}."
        for what, found in told.items()
        for n, (value, error) in found.items()
        if not abs(value) <= CHANCE * error
    ]
