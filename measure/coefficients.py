"""Modules derived, proven, emitted and held to 400-bit values, a process a core: ``stepsmith verify --coefficients``.

Of each module: the kernel of its SDE solves the equations that define it, the parts of its sampler sum to the reverse
dynamics (``derive`` refuses them otherwise), the emitted text loads, and every coefficient of rows of a geometric grid is
that of an independent evaluation, which a second setting of its own (terms, precision) confirms.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from stepsmith.measure.workers import pool, workers_for
from stepsmith.runtime import load

LIMIT = 1e-13  # of an entry, in the measure of derive/reference.py
TRUNCATION = 1e-30  # of the reference itself
STEPS = 24
FREQUENCIES = (0.0, 0.05, 1.0, 19.5)  # a field lies between 0 and 2 pi^2
CHUNK = 4  # modules of one SDE that share the series of its kernel


@dataclass(frozen=True)
class CoefficientCheck:
    """One module: the worst entry, the difference between the two settings of the reference, the claims that fail."""

    name: str
    error: float
    column: str
    t0: float
    t1: float
    truncation: float
    failed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.error <= LIMIT and self.truncation <= TRUNCATION and not self.failed

    @property
    def line(self) -> str:
        failed = f"   FAILED: {', '.join(self.failed)}" if self.failed else ""
        return (
            f"{self.name:36} {self.error:8.1e}  {self.column:16} t = {self.t0:.3g} -> {self.t1:.3g}"
            f"   reference {self.truncation:.0e}{failed}"
        )


def check_all(rows: Sequence[Any], end: float) -> Iterator[CoefficientCheck]:
    """The checks of rows of the catalogue, as they come; modules of one SDE go together to a process."""
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row.sde)]
    tasks = [group[k : k + CHUNK] for group in groups for k in range(0, len(group), CHUNK)]
    workers = workers_for(len(tasks))
    if workers == 1:
        for task in tasks:
            yield from _of_one_sde(task, end)
        return
    with pool(workers) as processes:
        for future in as_completed([processes.submit(_of_one_sde, task, end) for task in tasks]):
            yield from future.result()


def _of_one_sde(rows: Sequence[Any], end: float) -> list[CoefficientCheck]:
    from stepsmith.derive.proofs.kernel import prove

    views: dict[Any, Any] = {}
    methods = [(row.name, row.derive()) for row in rows]
    failed = tuple(proof.claim for proof in prove(methods[0][1].sde) if not proof.holds)
    return [_check(name, method, end, failed, views) for name, method in methods]


def _check(name: str, method: Any, end: float, failed: tuple[str, ...], views: dict[Any, Any]) -> CoefficientCheck:
    """The tables of one emitted module, at each of the frequencies where it has a field, against the reference."""
    from stepsmith.derive.proofs import reference
    from stepsmith.templates import emit
    from stepsmith.templates.render import columns_of_row

    module, field = load(emit(method)), method.sde.field
    start, last = method.sde.time[1], STEPS - 1
    times = [start * (end / start) ** (k / STEPS) for k in range(STEPS + 1)]
    grid = torch.tensor(times, dtype=torch.float64)
    rows = sorted({*range(len(method.warmup)), *range(0, STEPS, 4), *range(last - len(method.ending[1:]), STEPS)})
    columns = functools.partial(columns_of_row, method, STEPS)
    at = FREQUENCIES if field else (0.0,)
    given = [{field: torch.tensor(value, dtype=torch.float64)} if field else {} for value in at]
    tables = [module.coefficients(grid, **own).tolist() for own in given]
    worst = max(
        (
            reference.worst(method, columns, times, table, rows, views, value)
            for value, table in zip(at, tables, strict=True)
        ),
        key=lambda one: one.measured,
    )
    truncation = max(reference.truncation(method, columns(last), times, last, views, value) for value in at)
    return CoefficientCheck(name, worst.measured, worst.column, worst.t0, worst.t1, truncation, failed)
