"""Proven beside measured: the order of every module of the catalogue, derived from its program and read off its runs.

The proof is that of the derived method (derive/orders), the measurement that of the emitted module as it lies in
``stepsmith.generated`` (runtime/measure.py), on the same diffusion.  This is the one place, beside the command line, where
both sides meet; heavy imports happen when a check runs.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

GAP = 0.1  # how far a slope may fall under its proof
FREQUENCY = 0.01  # where a diffusion with a coefficient a frequency is measured: the third of 64 pixels
MOVES = (1.1, 0.9, 1.2, 0.8, 1.25)  # of the parameters, in turn
LEADING = 100  # characters of a leading error that a table can bear
TOGETHER = 3  # modules that a process takes at once; neighbours share their diffusion


@dataclass(frozen=True)
class Verdict:
    """One module: ``kind`` order or weak order, ``proven`` (None: no proof), the lowest slope over the grids, the steps of the
    longest run, ``constant`` = error N^order of the uniform grid in standard deviations, calls and draws a step, the leading
    local error a block where it is written, and ``why`` it is not good: nothing where it is.
    """

    name: str
    kind: str
    proven: int | None
    measured: float
    settled: bool
    steps: int
    constant: float
    nfe: int
    draws: int
    leading: tuple[str, ...]
    why: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.why

    @property
    def told(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        proven = "-" if self.proven is None else str(self.proven)
        slope = f"{self.measured:6.3f}{' ' if self.settled else '~'}"
        line = f"{self.name:36} {self.kind:10} {proven:>6} {slope:>9} {self.nfe:6} {self.draws:5} {self.constant:9.2g}"
        return line + ("" if self.ok else f"  FAILED: {'; '.join(self.why)}")


HEAD = f"{'module':36} {'kind':10} proven  measured  calls draws  constant"


def check(row: Any) -> Verdict:
    """The verdict on a row of the catalogue: its proof, and the module that is installed under its name."""
    from stepsmith.runtime import load

    return verdict(row.derive(), load(row.name))


def verdict(method: Any, module: Any) -> Verdict:
    """The proof of a method held against the runs of a module, which need not be what the method emits today.

    One grid is taken at the default parameters, the other with all parameters of the diffusion moved off them; both with
    those parameters of a conjugate sampler that are 0 by default (lambda) at 1.  A slope above its proof is no failure.
    Where nothing is proven a run must converge all the same, with order 1.
    """
    from stepsmith.runtime.measure import measure

    random = method.random
    proven = method.weak_order if random else method.order
    free = method.sampler.params.items() if method.sampler.family.startswith("conjugate") else ()
    own = {name: 1.0 for name, value in free if value == 0}
    slopes = [
        measure(module, reference(method.sde), "uniform", own),
        measure(module, reference(method.sde, moved(method.sde)), "uneven", own),
    ]
    lowest = min(slopes, key=lambda slope: slope.lowest)
    why = []
    if not lowest.lowest >= (1 if proven is None else proven) - GAP:
        why.append(f"measured {lowest.lowest:.3f} on a grid {lowest.grid}, proven {1 if proven is None else proven}")
    for constant in ("ORDER", "WEAK_ORDER", "STRONG_ORDER"):
        has, derived = getattr(module, constant), getattr(method, constant.lower())
        if has != derived:
            why.append(f"{constant} = {has} in its text, {derived} derived")
    if method.digest != module.DIGEST:
        why.append("its DIGEST is not that of the proven program; run stepsmith build")
    return Verdict(
        method.name, "weak order" if random else "order", proven, lowest.lowest, all(s.settled for s in slopes),
        max(s.steps[-1] for s in slopes), slopes[0].constant(1 if proven is None else proven),
        method.nfe, method.draws, tuple(map(str, method.local_error or ())), tuple(why),
    )  # fmt: skip


def moved(sde: Any) -> dict[str, float]:
    """All parameters off their defaults, so that equal ones (beta_min = beta_max) differ."""
    return {name: value * MOVES[k % len(MOVES)] for k, (name, value) in enumerate(sde.params.items())}


def reference(sde: Any, params: Mapping[str, float] | None = None) -> Any:
    """What the modules of a diffusion are measured on at these parameters, made once a process."""
    from stepsmith.runtime.measure import Reference

    given = {**(params or {}), **({sde.field: FREQUENCY} if sde.field else {})}
    key = repr((sde, given))
    if key not in _REFERENCES:
        _REFERENCES[key] = Reference.of(sde.at(**given), given)
    return _REFERENCES[key]


_REFERENCES: dict[str, Any] = {}


def check_all(rows: Sequence[Any], workers: int | None = None) -> Iterator[Verdict]:
    """The verdicts in the order of the rows, from as many processes as there are cores, each with one thread of torch."""
    workers = min(workers or os.cpu_count() or 1, max(1, len(rows) // TOGETHER))
    if workers == 1:
        _one_thread()
        yield from map(check, rows)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread) as pool:
        yield from pool.map(check, rows, chunksize=TOGETHER)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def document(verdicts: Iterable[Verdict]) -> str:
    """The page docs/orders.md."""
    rows = sorted(verdicts, key=lambda v: (v.kind, v.name))
    return "\n".join([*INTRODUCTION, *map(_line, rows), ""])


INTRODUCTION = (
    "# Proven and measured orders",
    "",
    "Written by `stepsmith verify --all --table docs/orders.md` (`make docs`); do not edit. The proof expands the program in",
    "the step (derive/orders). The measurement runs the emitted module (runtime/measure.py), without Monte Carlo: deterministic",
    "modules from 200 states of a Gaussian mixture in two dimensions with its exact network, against the probability flow;",
    "modules that draw noise by the exact recursion of mean and covariance on Gaussian data. Each from effective sigma 2 to 0.6,",
    "on a uniform grid at the default parameters and on an uneven one with every parameter moved by a tenth or more (lambda of a",
    "conjugate sampler is 1), N doubled from 8 until the slope settles; the lower slope is shown, ~ marks one that has not",
    f"settled. A slope more than {GAP} under its proof fails `stepsmith verify`; one above it does not, for a linear problem may",
    "hide an error. The constant is the error of the uniform grid times N^order, in standard deviations: samplers of one order",
    "compare at equal calls by constant times calls^order. The leading error (exact minus numerical, of one step) is explained",
    "in the module.",
    "",
    "| module | kind | proven | measured | calls | draws | constant | leading error |",
    "|---|---|---|---|---|---|---|---|",
)


def _line(v: Verdict) -> str:
    terms = ", ".join(v.leading)
    leading = "" if not v.leading else f"`{terms}`" if len(terms) <= LEADING else "in the module"
    proven = "-" if v.proven is None else str(v.proven)
    measured = f"{v.measured:.2f}{'' if v.settled else '~'}"
    return f"| {v.name} | {v.kind} | {proven} | {measured} | {v.nfe} | {v.draws} | {v.constant:.2g} | {leading} |"
