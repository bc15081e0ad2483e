"""An emitted step in memory that the run owns: the sums of ``step``, read once off its own lines, made in place.

    z' = c_1 z_1 + c_2 z_2 + ...      out = c_1 z_1 + c_2 z_2;  out += c_3 z_3;  ...      no temporary

``read_step`` runs ``step`` once, on stand-ins of tensors and coefficients that can be multiplied and added and nothing else;
what they went through is a :class:`Recipe`.  A step that does anything else has none, and runs as it is written.  Coefficients
enter as Python numbers, which no device waits for and no state is widened by.  Sums are written into tensors that neither the
state nor the history holds, so after the first steps nothing is allocated, and a CUDA graph may hold the addresses.  Each sum is
rounded a little less than that of ``step``, to which tests hold it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

State = tuple[torch.Tensor, ...]
ONE = -1  # the column of a coefficient that is one: rows of numbers end with it
LARGE = 2**15  # elements from which a pass over memory costs more than the views that save one


@dataclass(frozen=True, eq=False)
class Value:
    """A stand-in of a tensor: ``terms`` (value, column of its coefficient), none where it is given."""

    terms: tuple[tuple[Value, int], ...] = ()

    def __add__(self, other: Value) -> Value:
        if not isinstance(other, Value):
            return NotImplemented
        return Value((*(self.terms or ((self, ONE),)), *(other.terms or ((other, ONE),))))


@dataclass(frozen=True, eq=False)
class Column:
    """A stand-in of a coefficient."""

    index: int

    def __mul__(self, value: Value) -> Value:
        return Value(((value, self.index),)) if isinstance(value, Value) else NotImplemented


@dataclass(frozen=True)
class Sum:
    """A new tensor: ``terms`` (place, column of its coefficient)."""

    terms: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Call:
    """A network call: the places of its inputs, and the column of its time.  Its outputs are new tensors."""

    inputs: tuple[int, ...]
    time: int


@dataclass(frozen=True)
class Recipe:
    """What a step does, in order.  Tensors are numbered: the state, the noise, the history, then what each part makes;
    ``state`` and ``history`` are the places of the new ones, none of them the network's or the noise's own."""

    parts: tuple[Sum | Call, ...]
    state: tuple[int, ...]
    history: tuple[int, ...]


def read_step(module: Any, step: Callable[..., Any], draws: int) -> Recipe | None:
    """The recipe of a step function that a module defines; None for one that is wrapped, compiled or somebody else's, and
    for one that is more than network calls and sums, such as one with a coefficient a frequency."""
    if not isinstance(module, ModuleType) or getattr(step, "__globals__", None) is not vars(module):
        return None
    state, noise, history = (_stand_ins(count) for count in (len(module.COMPONENTS), draws, module.HISTORY))
    order = {value: place for place, value in enumerate((*state, *noise, *history))}
    lent = set(noise)
    parts: list[Sum | Call] = []

    def place(value: Value) -> int:
        if value not in order:
            parts.append(Sum(tuple((place(base), column) for base, column in value.terms)))
            order[value] = len(order)
        return order[value]

    def network(inputs: tuple[Value, ...], time: Column) -> tuple[Value, ...]:
        parts.append(Call(tuple(map(place, inputs)), time.index))
        outputs = _stand_ins(getattr(module, "OUTPUTS", 1))
        order.update({value: len(order) + k for k, value in enumerate(outputs)})
        lent.update(outputs)
        return outputs

    def owned(value: Value) -> int:
        return place(Value(((value, ONE),)) if value in lent else value)

    try:
        ends = step(state, tuple(map(Column, range(len(module.COEFFICIENTS)))), network, noise, history)
        new_state, new_history = (tuple(map(owned, values)) for values in ends)
    except (TypeError, AttributeError, ValueError):  # what a stand-in cannot do
        return None
    return Recipe(tuple(parts), new_state, new_history)


def _stand_ins(count: int) -> tuple[Value, ...]:
    return tuple(Value() for _ in range(count))


class InPlace:
    """The memory of one run, and its steps."""

    def __init__(self) -> None:
        self.pool: list[torch.Tensor] = []
        self.one: torch.Tensor | None = None  # where two terms of a sum are made in one pass

    def step(
        self, recipe: Recipe, numbers: Sequence[float], state: State, row: Sequence[torch.Tensor],
        network: Callable[..., State], noise: State = (), history: State = (),
    ) -> tuple[State, State]:  # fmt: skip
        """The new state and history: ``step`` of the module, with the numbers of the row, and 1 as the last.

        What was made here is written over as soon as it is in neither.
        """
        held = set(map(id, (*state, *history)))
        free = [value for value in self.pool if id(value) not in held]
        known = [*state, *noise, *history]
        for part in recipe.parts:
            if isinstance(part, Call):
                known += self._asked(network, [known[place] for place in part.inputs], row[part.time])
                continue
            if not free:
                free.append(self._new(state[0]))
            out = free.pop()
            (place, column), *rest = part.terms
            if rest and self.one is not None and _alike(out, known[place], known[rest[0][0]]):
                a, b, (beta, alpha) = known[place], known[rest[0][0]], (numbers[column], numbers[rest.pop(0)[1]])
                torch.addr(a.view(1, -1), self.one, b.view(-1), beta=beta, alpha=alpha, out=out.view(1, -1))
            else:
                torch.mul(known[place], numbers[column], out=out)
            for place, column in rest:
                if numbers[column]:  # a history that is not there yet weighs nothing
                    out.add_(known[place], alpha=numbers[column])
            known.append(out)
        return tuple(known[place] for place in recipe.state), tuple(known[place] for place in recipe.history)

    def _new(self, like: torch.Tensor) -> torch.Tensor:
        """Memory for a sum.

        Of torch's sums only ``addr``, beta a + alpha b 1^T, scales both of its terms.  In bfloat16 it would round each
        factor, and on MPS it compiles for each number.
        """
        self.pool.append(torch.empty_like(like, memory_format=torch.contiguous_format))
        if like.numel() >= LARGE and like.dtype in (torch.float32, torch.float64) and like.device.type != "mps":
            self.one = like.new_ones(1)
        return self.pool[-1]

    def _asked(self, network: Callable[..., State], inputs: list[torch.Tensor], time: torch.Tensor) -> State:
        """The network's outputs.  An input that it keeps is not written into again."""
        views = [value.view_as(value) for value in inputs]
        seen = [weakref.ref(view) for view in views]
        outputs = network(tuple(views), time)
        views.clear()
        kept = {id(value) for value, view in zip(inputs, seen, strict=True) if view() is not None}
        if kept:
            self.pool = [value for value in self.pool if id(value) not in kept]
        return outputs


def _alike(out: torch.Tensor, *terms: torch.Tensor) -> bool:
    """Whether the numbers of all lie one behind the other, of one type."""
    return all(z.dtype == out.dtype and z.is_contiguous() for z in terms)
