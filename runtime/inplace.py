"""An emitted step in memory that the run owns: the sums of ``step``, read once off its own lines, made in place.

    z' = c_1 z_1 + c_2 z_2 + ...      out = c_1 z_1;  out += c_2 z_2;  ...      one pass a term, no temporary

``read_step`` runs ``step`` once, on stand-ins of tensors and coefficients that can be multiplied and added and nothing else;
what they were part of is a :class:`Recipe`.  A step that does anything else is no such sum: it has no recipe, and runs as it is
written.  Coefficients enter as Python numbers, which no device waits for and no state is widened by.  The sums of a step are
written into tensors that neither the state nor the history holds, so after the first steps nothing is allocated, and addresses
are those of a CUDA graph.  Their roundings are not those of ``step``, to which tests hold them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """A stand-in of a tensor: ``terms`` (value, column of its coefficient, None for one), none where it is given."""

    terms: tuple[tuple[Value, int | None], ...] = ()

    def __add__(self, other: Value) -> Value:
        if not isinstance(other, Value):
            return NotImplemented
        return Value((*(self.terms or ((self, None),)), *(other.terms or ((other, None),))))


@dataclass(frozen=True, eq=False)
class Column:
    """A stand-in of a coefficient."""

    index: int

    def __mul__(self, value: Value) -> Value:
        return Value(((value, self.index),)) if isinstance(value, Value) else NotImplemented


@dataclass(frozen=True, eq=False)
class Call:
    """A network call at the time in a column of the row."""

    inputs: tuple[Value, ...]
    time: int
    outputs: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a step does: its network calls in order, and the sums that are its new state and history."""

    state: tuple[Value, ...]
    noise: tuple[Value, ...]
    history: tuple[Value, ...]
    calls: tuple[Call, ...]
    new_state: tuple[Value, ...]
    new_history: tuple[Value, ...]


def read_step(module: Any, step: Callable[..., Any], draws: int) -> Recipe | None:
    """The recipe of a step function that a module defines; None for one that is wrapped, compiled or somebody else's, and
    for one that is more than network calls and sums, such as one with a coefficient a frequency."""
    if not isinstance(module, ModuleType) or getattr(step, "__globals__", None) is not vars(module):
        return None
    state, noise, history = (stand_ins(n) for n in (len(module.COMPONENTS), draws, module.HISTORY))
    calls: list[Call] = []

    def network(inputs: tuple[Value, ...], time: Column) -> tuple[Value, ...]:
        calls.append(Call(tuple(inputs), time.index, stand_ins(getattr(module, "OUTPUTS", 1))))
        return calls[-1].outputs

    try:
        new_state, new_history = step(state, tuple(map(Column, range(len(module.COEFFICIENTS)))), network, noise, history)
        every = (*new_state, *new_history, *(value for call in calls for value in call.inputs))
    except (TypeError, AttributeError, ValueError):  # what a stand-in cannot do
        return None
    if not all(isinstance(value, Value) for value in every):
        return None
    return Recipe(state, noise, history, tuple(calls), tuple(new_state), tuple(new_history))


def stand_ins(count: int) -> tuple[Value, ...]:
    return tuple(Value() for _ in range(count))


class InPlace:
    """The steps of one run; ``step`` is that of the module, with the numbers of the row besides."""

    def __init__(self) -> None:
        self.pool: list[torch.Tensor] = []

    def step(
        self, recipe: Recipe, state: State, row: Sequence[torch.Tensor], network: Callable[..., State], noise: State,
        history: State, *, numbers: Sequence[float],
    ) -> tuple[State, State]:  # fmt: skip
        """The new state and history; ``numbers`` are those of the row.  What was made here is overwritten once it is in neither."""
        held = {id(value) for value in (*state, *history)}
        free = [value for value in self.pool if id(value) not in held]
        known = dict(zip((*recipe.state, *recipe.noise, *recipe.history), (*state, *noise, *history), strict=True))
        lent = {id(value) for value in noise}

        def fresh() -> torch.Tensor:
            if not free:
                self.pool.append(torch.empty_like(state[0], memory_format=torch.contiguous_format))
                return self.pool[-1]
            return free.pop()

        def tensor(value: Value) -> torch.Tensor:
            if value not in known:
                terms = [(tensor(base), 1.0 if column is None else numbers[column]) for base, column in value.terms]
                known[value] = summed([(base, number) for base, number in terms if number != 0], fresh)
            return known[value]

        def owned(value: Value) -> torch.Tensor:
            own = tensor(value)
            return torch.mul(own, 1.0, out=fresh()) if id(own) in lent else own

        for call in recipe.calls:
            outputs = self._asked(network, [tensor(value) for value in call.inputs], row[call.time])
            known.update(zip(call.outputs, outputs, strict=True))
            lent.update(map(id, outputs))
        return tuple(map(owned, recipe.new_state)), tuple(map(owned, recipe.new_history))

    def _asked(self, network: Callable[..., State], inputs: list[torch.Tensor], time: torch.Tensor) -> State:
        """The network's outputs.  An input that it keeps is not written into again."""
        views = tuple(value.view_as(value) for value in inputs)
        seen = [weakref.ref(view) for view in views]
        outputs = network(views, time)
        del views
        kept = {id(value) for value, view in zip(inputs, seen, strict=True) if view() is not None}
        if kept:
            self.pool = [value for value in self.pool if id(value) not in kept]
        return outputs


def summed(terms: Sequence[tuple[torch.Tensor, float]], fresh: Callable[[], torch.Tensor]) -> torch.Tensor:
    """sum c z in a fresh tensor; z itself where that is all."""
    if not terms:
        return fresh().zero_()
    (total, number), *rest = terms
    if not rest and number == 1:
        return total
    out = fresh()
    if number != 1:
        total = torch.mul(total, number, out=out)
    for value, weight in rest:
        total = torch.add(total, value, alpha=weight, out=out)
    return total
