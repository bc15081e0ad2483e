"""Modules derived, proven, emitted and held to 400-bit values, a process a core: ``stepsmith verify --coefficients``.

Of each module: the kernel of its SDE solves the equations that define it, the parts of its sampler sum to the reverse
dynamics (``derive`` refuses them otherwise), the emitted text loads, and every update of some rows of a geometric grid is
that of an independent evaluation, which a second setting of its own (terms, precision) confirms.

    error of an update = max_j |c_j - exact_j| / max_j |exact_j|: below 1e-12 on grids down to t = 1e-4, 1e-10 down to 1e-5
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from stepsmith.derive.proofs.reference import Views, Worst, truncation, worst
from stepsmith.measure.workers import pool, workers_for
from stepsmith.runtime import load

ENDS = (1e-4, 1e-5)  # where the grids of the claim end (docs/numerics.md)
TRUNCATION = 1e-30  # of the reference itself
STEPS = 24
FREQUENCIES = (0.0, 0.05, 1.0, 19.5)  # a field lies between 0 and 2 pi^2
CHUNK = 4  # modules of one SDE that share the series of its kernel


def limit(end: float) -> float:
    """The largest error of an update that is allowed on a grid down to the time ``end``."""
    return 1e-12 if end >= ENDS[0] else 1e-10


@dataclass(frozen=True)
class CoefficientCheck:
    """One module: the worst update of the grid to each of ``ends``, the difference between the two settings of the reference,
    the claims about the SDE that fail.
    """

    name: str
    ends: tuple[float, ...]
    worst: tuple[Worst, ...]
    truncation: float
    failed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every error is within its limit, and the reference is known well enough to say so."""
        within = all(one.error <= limit(end) for end, one in zip(self.ends, self.worst, strict=True))
        return within and self.truncation <= TRUNCATION and not self.failed

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the printed table: the module, the worst update on each grid, its column and time, the reference's error."""
        grids = [cell for one in self.worst for cell in (f"{one.error:.1e}", one.column, f"{one.t0:.3g}")]
        failed = f"FAILED: {', '.join(self.failed)}" if self.failed else ""
        return self.name, *grids, f"{self.truncation:.0e}", failed


def check_all(rows: Sequence[Any], ends: Sequence[float] = ENDS) -> Iterator[CoefficientCheck]:
    """The checks of rows of the catalogue, as they come; modules of one SDE go together to a process."""
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row.sde)]
    tasks = [group[k : k + CHUNK] for group in groups for k in range(0, len(group), CHUNK)]
    workers = workers_for(len(tasks))
    if workers == 1:
        for task in tasks:
            yield from _of_one_sde(task, ends)
        return
    with pool(workers) as processes:
        for future in as_completed([processes.submit(_of_one_sde, task, ends) for task in tasks]):
            yield from future.result()


def _of_one_sde(rows: Sequence[Any], ends: Sequence[float]) -> list[CoefficientCheck]:
    from stepsmith.derive.proofs.kernel import prove

    views: Views = {}
    methods = [(row.name, row.derive()) for row in rows]
    failed = tuple(proof.claim for proof in prove(methods[0][1].sde) if not proof.holds)
    return [_check(name, method, ends, failed, views) for name, method in methods]


def _check(name: str, method: Any, ends: Sequence[float], failed: tuple[str, ...], views: Views) -> CoefficientCheck:
    """One emitted module on a geometric grid to each end, at each of the frequencies where it has a field."""
    from stepsmith.templates import emit

    module, start, last = load(emit(method)), method.sde.time[1], STEPS - 1
    rows = sorted(
        {*range(len(method.rows.warmup)), *range(0, STEPS, 4), *range(last - len(method.rows.ending[1:]), STEPS)}
    )
    found, differences = [], []
    for end in ends:
        times = [start * (end / start) ** (k / STEPS) for k in range(STEPS + 1)]
        fields = FREQUENCIES if method.sde.field else (0.0,)
        each = [worst_of(method, times, rows, module=module, views=views, field=value) for value in fields]
        found.append(max(each, key=lambda one: one.error))
        differences += [truncation(method, times, last, views, value) for value in fields]
    return CoefficientCheck(name, tuple(ends), tuple(found), max(differences), failed)


def worst_of(
    method: Any, times: Sequence[float], rows: Sequence[int] | None = None,
    *, module: Any = None, views: Views | None = None, field: float = 0.0,
) -> Worst:  # fmt: skip
    """The worst update in some rows (all) of the table that the emitted module of a method makes, at a frequency ``field``.

    ``module`` where it is already emitted; ``views`` shares the flows of an SDE between its methods.
    """
    from stepsmith.templates import emit

    module = module or load(emit(method))
    given = {method.sde.field: torch.tensor(field, dtype=torch.float64)} if method.sde.field else {}
    table = module.coefficients(torch.tensor(times, dtype=torch.float64), **given).tolist()
    named = [dict(zip(module.COEFFICIENTS, row, strict=True)) for row in table]
    return worst(method, times, named, range(len(times) - 1) if rows is None else rows, views, field)
