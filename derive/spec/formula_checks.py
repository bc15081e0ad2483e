"""What the programs of a formula owe each other: no row reads a step that it does not have."""

from __future__ import annotations

from collections.abc import Mapping

from stepsmith.errors import InputError

from .formula import NOISE, TIMES, Formula, Line


def check(formula: Formula, where: str, target: str, before: Mapping[str, int]) -> None:
    """InputError names the line and the fix.  ``before``: for how many steps before the first row 0 gives a name values."""
    if not formula.calls(formula.step):
        raise InputError(where, "sampler.step", "no line calls the network", "write one such as D = x0(z, t0)")
    noisy = any(NOISE.fullmatch(v) for lines in formula.programs for line in lines for _, v in line.terms)
    if noisy and target == "ode":
        raise InputError(where, "sampler.target", "the lines draw noise", 'say target = "sde"')
    w, last = len(formula.warmup), len(formula.final) - 1
    rows = [("sampler.step", formula.step, w)]
    rows += [(f"sampler.warmup[{k}]", lines, k) for k, lines in enumerate(formula.warmup)]
    rows += [(f"sampler.final[{k}]", lines, 1 if k == last else w) for k, lines in enumerate(formula.final)]
    for key, lines, row in rows:
        _check_reach(formula, where, key, lines, row, before)
        missing = [name for name, _ in formula.history if name not in {line.target for line in lines}]
        if missing and not key.startswith("sampler.final"):
            what = f"{missing[0]} has no value here, and a later step reads it"
            raise InputError(where, key, what, f"add a line that defines {missing[0]}")


def _check_reach(
    formula: Formula, where: str, key: str, lines: tuple[Line, ...], row: int, before: Mapping[str, int]
) -> None:
    """No row reads a step before the first: row k has k steps behind it, and what row 0 says of those before."""
    given: set[str] = set()
    for k, line in enumerate(lines):
        for reach, word in _reaches(formula, line):
            name = word.split("[")[0]
            if word not in given and reach > row + (before.get(name, 0) if row else 0):
                what = f"{word} is not there in row {row}, which has {row or 'no'} steps behind it"
                fix = "give the last row a program that needs one step" if "final" in key else "add a program to warmup"
                raise InputError(where, f"{key}[{k}]", what, fix)
        given.add(line.target)


def _reaches(formula: Formula, line: Line) -> list[tuple[int, str]]:
    """(how many steps back, the word) of what a line reads of earlier steps."""
    applied = formula.applied
    reaches = [(int(v[-2]), v) for _, v in line.terms if v.endswith("]")]
    todo = [c for c, _ in line.terms]
    todo += [s for _, v in line.terms if v in applied for s in applied[v].scalars]
    seen: set[str] = set()
    while todo:
        for name in sorted({s.name for s in todo.pop().free_symbols} - seen):
            seen.add(name)
            reaches += [(int(name[3:]), name)] if name in TIMES[2:] else []
            todo += [formula.let[name]] if name in formula.let else []
            todo += applied[name].scalars if name in applied else ()
    return reaches
