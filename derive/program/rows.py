"""The programs of a grid: that of a common step, those of the first rows and those of the last.

    row 0: warmup[0];  the last row: ending[-1];  row k: warmup[k];  the k-th row from the end: ending[-k];  else: step

in this order of precedence.  A row whose program has the structure of the step (the same calls and values, only some
weights zero) is run by the emitted ``step`` with weights of its own; the first and the last may be functions of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from .forms import layout, narrower
from .program import StepProgram, dump


@dataclass(frozen=True)
class Rows:
    """``step`` with ``warmup`` (rows 0, 1, ...) and ``ending`` (the last rows, the last one last).

    ``table``, where there is one, makes the table of all rows: since1(gap), since2(gap), ... of it are infinite before that row.
    """

    step: StepProgram
    warmup: tuple[StepProgram, ...] = ()
    ending: tuple[StepProgram, ...] = ()
    table: StepProgram | None = None

    def __iter__(self) -> Iterator[StepProgram]:
        return iter((self.step, *self.warmup, *self.ending))

    def at(self, row: int, steps: int) -> StepProgram:
        """The program of a row of a grid of ``steps`` rows."""
        if row == 0 and self.warmup:
            return self.warmup[0]
        if row == steps - 1 and self.ending:
            return self.ending[-1]
        if row < len(self.warmup):
            return self.warmup[row]
        return self.ending[row - steps] if row - steps >= -len(self.ending) else self.step

    @property
    def first(self) -> StepProgram | None:
        """The program of the first row, where its structure is another than that of the step."""
        return self.warmup[0] if self.warmup and not aligned(self.step, self.warmup[0]) else None

    @property
    def last(self) -> StepProgram | None:
        """The program of the last row, where its structure is another than that of the step."""
        return self.ending[-1] if self.ending and not aligned(self.step, self.ending[-1]) else None

    def nfe(self, steps: int) -> int:
        """Network calls of a run of ``steps`` rows."""
        ends = {*range(min(steps, len(self.warmup))), *range(max(0, steps - len(self.ending)), steps)}
        return sum(self.at(row, steps).nfe for row in ends) + (steps - len(ends)) * self.step.nfe

    @property
    def params(self) -> dict[str, float]:
        return {name: value for program in self for name, value in program.params.items()}

    @property
    def text(self) -> str:
        """All programs as text: what ``stepsmith show`` prints and the digest is taken of."""
        heads = [f"row {k}" for k in range(len(self.warmup))]
        heads += [f"row {k - len(self.ending)}" for k in range(len(self.ending))]
        others = (f"{head}\n{dump(program)}" for head, program in zip(heads, (*self.warmup, *self.ending), strict=True))
        return dump(self.step) + "".join(others)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def aligned(step: StepProgram, other: StepProgram) -> bool:
    """Whether ``step`` runs the rows of ``other`` with other weights, zero where ``other`` has no term: the same calls, draws and
    values carried.
    """
    return step.history == other.history and narrower(layout(step), layout(other))
