"""Which function of an emitted module makes which rows of the table, and which step runs them."""

from __future__ import annotations

from stepsmith.derive.program import StepProgram
from stepsmith.derive.program.rows import Rows

ORDINALS = ("first", "second", "third")
ENDS = ("last_row", "last_row_but_one")


def row_names(rows: Rows) -> list[str]:
    """The functions that make the rows of the table: common ones, first ones, last ones; equal programs share one."""
    if rows.table is not None:
        return ["all_rows"]
    first = [f"{ORDINALS[k]}_row" for k in range(len(rows.warmup))]
    names = ["other_rows", *first, *ENDS[: len(rows.ending)][::-1]]
    programs = list(rows)
    return [names[programs.index(program)] for program in programs]


def places(rows: Rows) -> list[tuple[str, str]]:
    """(row function, arguments of its slice of the grid), in order; ``last`` is the first row of the last program, if any."""
    if rows.table is not None:
        return [("all_rows", "None")]
    names, w, e = row_names(rows), len(rows.warmup), len(rows.ending)
    first = names[1 : 1 + w]
    end = "steps" if not e else "last"
    head = [(name, f"{k}, {k + 1}" if not (e and k) else f"{k}, min({k + 1}, last)") for k, name in enumerate(first)]
    if e < 2:
        return [
            *head,
            ("other_rows", f"{w}, {end}" if e else f"{w}, None"),
            *((name, "last, None") for name in names[1 + w :]),
        ]
    return [*head, ("other_rows", f"{w}, late"), (names[-2], "late, last"), (names[-1], "last, None")]


def ends(rows: Rows) -> list[str]:
    """The lines that say where the last rows begin: behind the first ones where a grid is short."""
    last = [f"last = max(len(t0) - 1, {min(1, len(rows.warmup))})"] if rows.ending else []
    return last + ([f"late = max(len(t0) - 2, {len(rows.warmup)})"] if len(rows.ending) > 1 else [])


def step_names(rows: Rows) -> list[tuple[str, StepProgram]]:
    named = (("step", rows.step), ("step_first", rows.first), ("step_last", rows.last))
    return [(name, program) for name, program in named if program is not None]


def nfe(rows: Rows) -> str:
    """Network calls of a run, as an expression in ``steps``; a single step is a first one."""
    if rows.first is None:
        return "NFE * steps" if rows.last is None else "NFE * (steps - 1) + NFE_LAST"
    if rows.last is None:
        return "NFE_FIRST + NFE * (steps - 1)"
    return "NFE_FIRST + NFE * (steps - 2) + NFE_LAST if steps > 1 else NFE_FIRST"
