"""Passes: functions StepProgram -> StepProgram that leave the law of the step unchanged.

``reuse`` drops an evaluation or an update that stands twice, ``prune`` what nothing reads.  That a step is one affine map
between two network calls, and that draws merge, is a matter of forms.py.  The affine probe holds each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .hosts import Host
from .meaning import needed_by
from .program import Evaluate, Normal, Op, StepProgram, Update, outputs, scalars, sources


def optimised(program: StepProgram) -> StepProgram:
    """reuse, then prune."""
    return prune(reuse(program))


def reuse(program: StepProgram) -> StepProgram:
    """One evaluation, or update, where two have the same inputs and coefficients."""
    same: dict[str, str] = {}
    seen: dict[object, tuple[str, ...]] = {}
    ops: list[Op] = []
    for op in program.ops:
        op = _renamed(op, lambda value: same.get(value, value))
        if not isinstance(op, Normal):
            key = (op.inputs, op.time) if isinstance(op, Evaluate) else frozenset(op.terms)
            if key in seen:
                same.update(zip(outputs(op), seen[key], strict=True))
                continue
            seen[key] = outputs(op)
        ops.append(op)
    kept = (program.result, program.carry, program.corrected)
    result, carry, corrected = (tuple(same.get(v, v) for v in values) for values in kept)
    return replace(program, ops=tuple(ops), result=result, carry=carry, corrected=corrected)


def _renamed(op: Op, name: Callable[[str], str]) -> Op:
    if isinstance(op, Evaluate):
        return replace(op, inputs=tuple(map(name, op.inputs)))
    if isinstance(op, Update):
        return replace(op, terms=tuple((c, name(value)) for c, value in op.terms))
    return op


def prune(program: StepProgram) -> StepProgram:
    """Without the updates, the host statements and the sampler's parameters that nothing reads."""
    ops = live(program.ops, {*program.result, *program.carry, *program.corrected})
    last = live(program.last, set(program.last_results))
    needed = needed_by(program, (c for op in (*ops, *last) for c in scalars(op)))
    host = tuple(statement for statement in program.host if needed & set(statement.targets))
    read = needed | {name for statement in host for name in _names(statement)} | set(program.words)
    params = {name: value for name, value in program.params.items() if name in read}
    return replace(program, ops=ops, last=last, host=host, params=params)


def _names(statement: Host) -> set[str]:
    """The names in a host statement, those inside its matrices too."""
    symbols = {symbol for value in vars(statement).values() for symbol in getattr(value, "free_symbols", ())}
    return {str(symbol) for symbol in symbols} | ({"sigma_data"} if getattr(statement, "kind", "") == "edm" else set())


def live(ops: tuple[Op, ...], wanted: set[str]) -> tuple[Op, ...]:
    """The network calls and what they and the ends read."""
    kept: list[Op] = []
    for op in reversed(ops):
        if isinstance(op, Evaluate) or wanted & set(outputs(op)):
            kept.append(op)
            wanted |= set(sources(op))
    return tuple(kept[::-1])
