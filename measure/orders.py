"""Proven beside measured: the order of every module of the catalogue, derived from its program and read off its runs.

The proof is that of the derived method (derive/orders), the measurement that of the emitted module as it lies in
``stepsmith.generated`` (measure/slopes.py), on the same diffusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from stepsmith.derive.describe import spelled
from stepsmith.loading import load
from stepsmith.measure.slopes import Reference, Slope, measure
from stepsmith.measure.workers import one_thread, pool, workers_for

GAP = 0.1  # how far a slope may fall under its proof
FREQUENCY = 0.01  # where a diffusion with a coefficient a frequency is measured: the third of 64 pixels
DIGITS: dict[str, Any] = {"terms": 32, "precision": 240, "accuracy": 80}  # of the law: float64 with room, at a fifth of the time
FACTORS = (1.1, 0.9, 1.2, 0.8, 1.25)  # of the parameters, in turn
CHUNK = 3  # modules that a process takes at once; neighbours share their diffusion


@dataclass(frozen=True)
class OrderCheck:
    """One module: ``kind`` order or weak order, ``proven`` (None: no proof), the lowest slope over the grids and whether the
    slopes have converged, the steps of the longest run, ``constant`` = error N^order of the uniform grid in standard
    deviations, calls and draws a step, the leading local error a block where it is written, ``why`` it is not good: nothing
    where it is, and the ``reason`` for which the order is none or less than it seems.  ``runs`` are
    the steps and errors on the uniform grid.
    """

    name: str
    kind: str
    proven: int | None
    measured: float
    converged: bool
    steps: int
    constant: float
    nfe: int
    draws: int
    leading: tuple[str, ...]
    why: tuple[str, ...]
    reason: str = ""
    runs: tuple[tuple[int, float], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.why

    @property
    def values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "ok": self.ok}

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the printed table, under HEAD."""
        slope = f"{self.measured:.3f}{'' if self.converged else '~'}"
        numbers = slope, str(self.nfe), str(self.draws), f"{self.constant:.2g}"
        failed = "" if self.ok else f"FAILED: {'; '.join(self.why)}"
        return self.name, self.kind, spelled(self.proven, self.reason), *numbers, failed

    def __str__(self) -> str:
        return "  ".join(self.cells).rstrip()


HEAD = ("module", "kind", "proven", "measured", "calls", "draws", "constant", "")


def check(row: Any) -> OrderCheck:
    """A row of the catalogue: its proof against the module that is installed under its name."""
    return compare(row.derive(), load(row.name))


def compare(method: Any, module: Any) -> OrderCheck:
    """The proof of a method held against the runs of a module, which need not be what the method emits today.

    One grid is taken at the default parameters, the other with all parameters of the diffusion changed; both with those
    parameters of a conjugate sampler that are 0 by default (lambda) at 1.  A slope above its proof is no failure.
    """
    random = method.random
    proven = method.weak_order if random else method.order
    slopes = _slopes(method, module)
    lowest = min(slopes, key=lambda slope: slope.lowest)
    return OrderCheck(
        method.name, "weak order" if random else "order", proven, lowest.lowest, all(s.converged for s in slopes),
        max(s.steps[-1] for s in slopes), slopes[0].constant(1 if proven is None else proven),
        method.nfe, method.draws, tuple(map(str, method.local_error or ())),
        tuple(_faults(method, module, proven, lowest)), method.why, tuple(zip(slopes[0].steps, slopes[0].errors, strict=True)),
    )  # fmt: skip


def _slopes(method: Any, module: Any) -> tuple[Slope, Slope]:
    free = method.sampler.params.items() if method.sampler.family.startswith("conjugate") else ()
    own = {name: 1.0 for name, value in free if value == 0}
    return (
        measure(module, reference(method.sde), "uniform", own),
        measure(module, reference(method.sde, changed_parameters(method.sde)), "uneven", own),
    )


def _faults(method: Any, module: Any, proven: int | None, lowest: Slope) -> Iterator[str]:
    """Why a module is not good.  Where nothing is proven a run must converge all the same, with order 1, but for one of which
    it is known that it does not.
    """
    least = 1 if proven is None else proven
    if not (proven is None and method.why) and not lowest.lowest >= least - GAP:  # or not a number
        yield f"measured {lowest.lowest:.3f} on a grid {lowest.grid}, proven {least}"
    for constant in ("ORDER", "WEAK_ORDER", "STRONG_ORDER"):
        has, derived = getattr(module, constant), getattr(method, constant.lower())
        if has != derived:
            yield f"{constant} = {has} in its text, {derived} derived"
    if method.digest != module.DIGEST:
        yield "its DIGEST is not that of the proven program; run stepsmith build"


def changed_parameters(sde: Any) -> dict[str, float]:
    """All parameters off their defaults, so that equal ones (beta_min = beta_max) differ."""
    return {name: value * FACTORS[k % len(FACTORS)] for k, (name, value) in enumerate(sde.params.items())}


def reference(sde: Any, params: Mapping[str, float] | None = None) -> Reference:
    """What the modules of a diffusion are measured on at these parameters, made once a process."""
    given = {**(params or {}), **({sde.field: FREQUENCY} if sde.field else {})}
    key = repr(([getattr(sde, each.name) for each in fields(sde)], given))  # all of it: repr(sde) is its name
    if key not in _REFERENCES:
        _REFERENCES[key] = Reference.of(replace(sde.at(**given), **DIGITS), given)
    return _REFERENCES[key]


_REFERENCES: dict[str, Reference] = {}


def check_all(rows: Sequence[Any], most: int | None = None) -> Iterator[OrderCheck]:
    """The checks in the order of the rows, from as many processes as there are cores (at most ``most``)."""
    workers = workers_for(len(rows) // CHUNK, most)
    if workers == 1:
        one_thread()
        yield from map(check, rows)
        return
    with pool(workers) as processes:
        yield from processes.map(check, rows, chunksize=CHUNK)
