"""Every value of a step as a linear form in its bases: the columns of the table of coefficients.

The bases are the components, what is carried in, the draws and the outputs of the network.  Between two network calls a step
is one affine map, so it needs only the forms of what the network is asked about, of what is carried out and of the new state:
a column an entry.  Which entries there are is read off the program's structure; their values come from running the program's
own lines on unit rows (``coefficients`` of an emitted module, reference.py in balls).

    draws act on values through N: where it has fewer independent rows than columns, the lower factor of N N^T replaces it,
    which has the same law with as many draws as there are independent rows
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import flint
import sympy as sp

from .program import ONE, UNIT, Evaluate, Normal, Op, StepProgram, Update, outputs

Marks = dict[str, bool]  # base -> whether its coefficient is exactly one
PRIME = 2**61 - 1


@dataclass(frozen=True)
class Form:
    """A value as a linear form: ``value`` its name in the program, ``name`` in the step, ``terms`` (base, column or "")."""

    value: str
    name: str
    terms: tuple[tuple[str, str], ...]

    @property
    def itself(self) -> bool:
        """Whether it is a base: nothing to compute."""
        return len(self.terms) == 1 and not self.terms[0][1]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for _, column in self.terms if column)


@dataclass(frozen=True)
class Ask:
    """A network call: ``outputs`` of the inputs' forms, given the column or constant ``time``."""

    outputs: tuple[str, ...]
    inputs: tuple[Form, ...]
    time: str


@dataclass(frozen=True)
class Layout:
    """What a step does with a row of the table, and which column holds what.

    ``asks`` in order, each with the forms of its inputs; forms that are carried out stand in ``carried`` before the ask
    after which they are defined (its index), so that later forms may read them.
    """

    draws: tuple[str, ...]
    noisy: tuple[
        str, ...
    ]  # the values whose draws are merged, independent ones first; () where they are drawn as written
    asks: tuple[Ask, ...]
    result: tuple[Form, ...]
    carry: tuple[Form, ...]
    times: Mapping[str, sp.Expr]  # column of a network time -> its host expression

    @cached_property
    def forms(self) -> tuple[Form, ...]:
        """Every form that is computed, once."""
        every = [*(form for ask in self.asks for form in ask.inputs), *self.carry, *self.result]
        return tuple({form.value: form for form in every if not form.itself}.values())

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns in the order in which the step reads them."""
        names: dict[str, None] = {}
        for ask in self.asks:
            names.update(dict.fromkeys(c for form in ask.inputs for c in form.columns))
            names[ask.time] = None
        names.update(dict.fromkeys(c for form in (*self.carry, *self.result) for c in form.columns))
        return tuple(names)


def time_column(time: sp.Expr) -> str:
    """The name of the column of a network time: that of its host scalar, time_0 for t0."""
    return {"t0": "time_0", "t1": "time_1"}.get(str(time), str(time))


def layout(program: StepProgram) -> Layout:
    """The layout of a step."""
    first = (*program.components, UNIT, *program.history)
    labels = dict(zip(program.result, program.components, strict=True))
    return _layout(program.ops, first, program.result, program.carry, labels)


def last_layout(program: StepProgram) -> Layout:
    """The layout of the mean of the data at t1."""
    return _layout(program.last, (*program.components, UNIT), program.last_results, (), {})


def _layout(
    ops: tuple[Op, ...], first: tuple[str, ...], result: tuple[str, ...], carry: tuple[str, ...], labels: dict[str, str]
) -> Layout:
    """The layout of some operations on the values ``first``; ``labels`` are the names of values in the step."""
    calls = [op for op in ops if isinstance(op, Evaluate)]
    draws = [op.output for op in ops if isinstance(op, Normal)]
    marks = marked(ops, first)
    ends = dict.fromkeys((*(value for op in calls for value in op.inputs), *carry, *result))
    noisy = [value for value in ends if set(marks[value]) & set(draws)]
    independent = _independent(ops, noisy, draws)
    merged = len(independent) < len(draws)
    if merged:
        noisy = [*independent, *(value for value in noisy if value not in independent)]
        for k, value in enumerate(noisy):
            kept = {base: one for base, one in marks[value].items() if base not in draws}
            marks[value] = kept | dict.fromkeys(draws[: min(k + 1, len(independent))], False)
    short = {draw: f"w{k + 1}" for k, draw in enumerate(draws[: len(independent)])}
    order = {base: k for k, base in enumerate((*first, *draws, *(name for op in calls for name in op.outputs)))}

    def form(value: str) -> Form:
        label = labels.get(value, value)
        own = sorted(marks[value].items(), key=lambda pair: order[pair[0]])
        named = ((short.get(b, b), one) for b, one in own)
        return Form(value, label, tuple((b, "" if one else f"{label}_{'one' if b == UNIT else b}") for b, one in named))

    asks = tuple(Ask(op.outputs, tuple(map(form, op.inputs)), time_column(op.time)) for op in calls)
    times = {time_column(op.time): op.time for op in calls}
    drawn = tuple(short.values())
    return Layout(drawn, tuple(noisy) if merged else (), asks, tuple(map(form, result)), tuple(map(form, carry)), times)


def marked(ops: Iterable[Op], bases: Iterable[str]) -> dict[str, Marks]:
    """The bases that each value reads, and whether the coefficient is exactly one."""
    marks: dict[str, Marks] = {base: {base: True} for base in bases}
    for op in ops:
        if not isinstance(op, Update):
            marks.update({value: {value: True} for value in outputs(op)})
            continue
        own: Marks = {}
        for c, value in op.terms:
            for base, one in marks[value].items():
                own[base] = one and c == ONE and base not in own
        marks[op.output] = own
    return marks


def _independent(ops: Iterable[Op], values: Sequence[str], draws: Sequence[str]) -> list[str]:
    """The first of the values whose noise is no combination of that of those before them, whatever the coefficients are.

    Elimination modulo a prime; a coefficient is a number made of its text, so that equal ones are equal and no others.
    """
    rows = {draw: [int(draw == other) for other in draws] for draw in draws}
    for op in ops:
        if isinstance(op, Update):
            terms = [[_residue(c) * e for e in rows[value]] for c, value in op.terms if value in rows]
            rows[op.output] = [sum(column) % PRIME for column in zip(*terms, strict=True)] or [0] * len(draws)
    if not values or not draws:
        return []
    table, rank = flint.nmod_mat([[rows[value][k] for value in values] for k in range(len(draws))], PRIME).rref()
    return [values[next(j for j in range(len(values)) if table[i, j] != 0)] for i in range(rank)]


def _residue(coefficient: sp.Expr) -> int:
    if coefficient == ONE:
        return 1
    return int.from_bytes(hashlib.sha256(str(coefficient).encode()).digest()[:8]) % PRIME


def narrower(step: Layout, other: Layout) -> bool:
    """Whether the step of one layout runs rows of the other, with weights that are zero where the other reads nothing."""
    if (step.draws, step.noisy) != (other.draws, other.noisy) or len(step.asks) != len(other.asks):
        return False
    pairs = [(step.result, other.result), (step.carry, other.carry)]
    for one, two in zip(step.asks, other.asks, strict=True):
        if one.outputs != two.outputs:
            return False
        pairs.append((one.inputs, two.inputs))
    return all(len(a) == len(b) and all(map(_covers, a, b)) for a, b in pairs)


def _covers(one: Form, two: Form) -> bool:
    wide, narrow = dict(one.terms), dict(two.terms)
    if one.itself or two.itself:
        return one.terms == two.terms
    named = all(column in ("", wide.get(base)) for base, column in narrow.items())  # the table finds a weight by its name
    return named and set(narrow) <= set(wide) and all(column or narrow.get(base) == "" for base, column in wide.items())
