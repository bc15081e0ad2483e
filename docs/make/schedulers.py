"""The page docs/schedulers.md: what ``stepsmith check`` finds of the schedulers of the installed diffusers."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterator
from typing import Any

import diffusers
import torch
from tqdm import tqdm

from stepsmith.cli.check import wrong
from stepsmith.errors import InputError, one_line
from stepsmith.measure import check
from stepsmith.measure.subjects import Scheduler

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {  # settings that people use, besides the defaults
    "DPMSolverMultistepScheduler": ({"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"}, {"use_karras_sigmas": True}),
    "DPMSolverSinglestepScheduler": ({"solver_order": 3},),
    "UniPCMultistepScheduler": ({"solver_order": 3}, {"use_karras_sigmas": True}),
    "DEISMultistepScheduler": ({"solver_order": 3},),
    "EulerDiscreteScheduler": ({"use_karras_sigmas": True},),
    "DDIMScheduler": ({"timestep_spacing": "trailing", "rescale_betas_zero_snr": False},),
}
DISTILLED = {  # made for networks that jump to the data: their step is no discretisation of the flow
    "CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "FlowMatchLCMScheduler", "LCMScheduler", "SCMScheduler",
    "TCDScheduler", "FlowMapEulerDiscreteScheduler", "PiflowScheduler", "HeliosDMDScheduler",
}  # fmt: skip
INVERSE = {"DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"}  # from the data to the noise
HEAD = """# Schedulers of diffusers, measured

Made by `python docs/make schedulers` with diffusers {version}, one core, float64 networks of an exact mixture of
Gaussians in the plane. These are measurements, not proofs; [the audit](audit.md) has the proven orders of the formulas.
`stepsmith check diffusers:DDIMScheduler` prints a row of this table in sentences, and also works on your own scheduler.
[Check any sampler](check.md) explains how each figure is measured.

*Step* is the order of the common step, and *run* that of a run with its first steps, with a dash if the error does not
go on falling up to 320 steps. *Last* is the error of the step to the end alone. For samplers that draw noise,
*variance* is the variance on Gaussian data divided by the exact one, in 20 and 40 steps (standard error {error:.3f}),
followed by **wrong** if a mean or a correlation is. *Batch* says whether a sample is the same alone and in a batch.
*Reads* is the number of values that a step reads from the device. *bf16* is the change of the samples if the state has
bfloat16.

| scheduler | step | run | last | variance | batch | reads | bf16 |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The page."""
    torch.set_num_threads(1)
    rows, left = [], []
    for name, config in tqdm(tuple(schedulers()), desc="schedulers"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows.append(row(name, config, check.judge(Scheduler.of(getattr(diffusers.schedulers, name), config))))
        except InputError as refused:
            left.append(f"- `{name}`: {refused.what}.")
        except Exception as error:  # a scheduler may want what a pipeline of its own gives
            left.append(f"- `{name}` cannot be run in this way: {type(error).__name__}, {one_line(str(error))[:110].strip()}.")
    left += [f"- `{name}`: for distilled networks, no discretisation of the flow." for name in sorted(DISTILLED)]
    left += [f"- `{name}`: runs from the data to the noise." for name in sorted(INVERSE)]
    head = HEAD.format(version=importlib.metadata.version("diffusers"), error=(2 / check.SAMPLES / check.PLAIN.size) ** 0.5)
    return head + "\n".join(rows) + "\n\n## Left out\n\n" + "\n".join(left) + "\n"


def schedulers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings."""
    names = sorted(n for n in dir(diffusers.schedulers) if n.endswith("Scheduler") and n not in DISTILLED | INVERSE)
    for name in names:
        yield from ((name, config) for config in ({}, *VARIANTS.get(name, ())))


def row(name: str, config: dict[str, Any], found: check.Report) -> str:
    """A line of the table."""
    told = ", ".join(f"{key}={value}" for key, value in config.items())
    cells = (
        f"{name.removesuffix('Scheduler')}{f' ({told})' if told else ''}",
        _number(found.formula, ".2f"), _number(found.run, ".2f"), _number(found.last, ".0e"),
        (" / ".join(f"{ratio:.2f}" for ratio, _ in found.variance.values()) or "-") + (" **wrong**" if wrong(found) else ""),
        "yes" if found.batch else "**depends**", f"{found.syncs:.0f}", f"{found.half['bfloat16']:.0e}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
