"""The programs of a grid: that of a common step, those of the first rows and those of the last.

    row 0: warmup[0];  the last row: ending[-1];  row k: warmup[k];  the k-th row from the end: ending[-k];  else: step

in this order of precedence.  A row whose program has the structure of the step (the same calls and values, only some
weights zero) is run by the emitted ``step`` with weights of its own; the first and the last may be functions of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import sympy as sp

from .program import ONE, Evaluate, Function, Normal, Op, StepProgram, Update, dump


@dataclass(frozen=True)
class Rows:
    """``step`` with ``warmup`` (rows 0, 1, ...) and ``ending`` (the last rows, the last one last)."""

    step: StepProgram
    warmup: tuple[StepProgram, ...] = ()
    ending: tuple[StepProgram, ...] = ()

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
        return self.warmup[0] if self.warmup and aligned(self.step, self.warmup[0]) is None else None

    @property
    def last(self) -> StepProgram | None:
        """The program of the last row, where its structure is another than that of the step."""
        return self.ending[-1] if self.ending and aligned(self.step, self.ending[-1]) is None else None

    def nfe(self, steps: int) -> int:
        """Network calls of a run of ``steps`` rows."""
        ends = {*range(min(steps, len(self.warmup))), *range(max(0, steps - len(self.ending)), steps)}
        return sum(self.at(row, steps).nfe for row in ends) + (steps - len(ends)) * self.step.nfe

    @property
    def params(self) -> dict[str, float]:
        return {name: value for program in self for name, value in program.params.items()}

    @property
    def functions(self) -> tuple[Function, ...]:
        """The host functions of all programs, callees first."""
        found = {function.name: function for program in self for function in program.functions}
        return tuple(found.values())

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


def aligned(step: StepProgram, other: StepProgram) -> dict[sp.Expr, sp.Expr] | None:
    """The coefficients of ``step`` -> those that make it ``other``; None where no choice of them does.

    The two have the same calls, values and draws; a term that ``other`` lacks has the coefficient zero.
    """
    found: dict[sp.Expr, sp.Expr] = {}
    if (step.result, step.history, step.carry) != (other.result, other.history, other.carry):
        return None
    if len(step.ops) != len(other.ops):
        return None
    for mine, theirs in zip(step.ops, other.ops, strict=True):
        pairs: list[tuple[sp.Expr, sp.Expr]] | None
        if isinstance(mine, Normal) or isinstance(theirs, Normal):
            pairs = [] if mine == theirs else None
        elif isinstance(mine, Update) and isinstance(theirs, Update):
            pairs = _weights(mine, theirs)
        else:
            pairs = _moments(mine, theirs)
        if pairs is None or any(found.setdefault(a, b) != b for a, b in pairs):
            return None
    return found


def _moments(mine: Op, theirs: Op) -> list[tuple[sp.Expr, sp.Expr]] | None:
    """The times of two calls of the same values."""
    if not (isinstance(mine, Evaluate) and isinstance(theirs, Evaluate)):
        return None
    same = (mine.outputs, mine.inputs) == (theirs.outputs, theirs.inputs)
    return [(mine.time, theirs.time)] if same else None


def _weights(mine: Update, theirs: Update) -> list[tuple[sp.Expr, sp.Expr]] | None:
    given = {value: c for c, value in theirs.terms}
    if mine.output != theirs.output or not set(given) <= {value for _, value in mine.terms}:
        return None
    pairs = [(c, given.get(value, sp.S.Zero)) for c, value in mine.terms]
    if any(a == ONE and b != ONE for a, b in pairs):
        return None
    return [(a, b) for a, b in pairs if a != ONE]
