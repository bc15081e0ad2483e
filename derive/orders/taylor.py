"""A generic smooth network as a Taylor polynomial, the exact solution, and a program, all as power series of the step.

Tensors become lists of ``width`` series, one a coordinate; the network couples all coordinates of all its inputs, as a
real one does, so that order conditions which a scalar problem would hide are seen.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..maths.matrix import Matrix, add, inverse_of, mul, scaled, sub, transpose
from ..program import UNIT, Evaluate, Normal, StepProgram
from ..program.meaning import needed_by, skew_matrix
from ..program.program import scalars
from ..sampler.network import takes_state
from .point import Point, composed, draw
from .reading import SeriesReading, series_values
from .rings import small_rational
from .series import Series, constant

Value = list[Series]  # one series a coordinate


class AwayError(Exception):
    """A network call whose inputs or time do not tend to those of the step's start as h does to 0: nothing to expand around."""


@dataclass(frozen=True, eq=False)
class Network:
    """outputs = sum over multi-indices of coefficient * (inputs - centre)^index * (time - time0)^k, a random polynomial."""

    centre: list[Any]  # inputs and time at the point, numbers
    monomials: tuple[tuple[int, ...], ...]
    coefficients: list[list[Any]]  # a row a monomial, a column an output coordinate
    width: int

    def __call__(self, inputs: Sequence[Value], time: Series) -> tuple[Value, ...]:
        """The outputs, each a list of ``width`` series."""
        shifts = [e - c for e, c in zip([*(s for value in inputs for s in value), time], self.centre, strict=True)]
        ring = time.ring
        for shift in shifts:
            if not ring.is_zero(shift.c[0]):
                raise AwayError
            shift.c[0] = 0
        one = constant(ring, ring.number(1), min(len(shift.c) for shift in shifts))
        powers: dict[tuple[int, ...], Series] = {(0,) * len(shifts): one}
        totals: list[Series | None] = [None] * len(self.coefficients[0])
        for index, row in zip(self.monomials, self.coefficients, strict=True):
            if index not in powers:
                axis = next(i for i, k in enumerate(index) if k)
                below = tuple(k - (i == axis) for i, k in enumerate(index))
                powers[index] = powers[below] * shifts[axis]
            for o, c in enumerate(row):
                term = powers[index] * c
                totals[o] = term if totals[o] is None else totals[o] + term
        outputs = [total for total in totals if total is not None]
        return tuple(outputs[k : k + self.width] for k in range(0, len(outputs), self.width))

    def still(self, inputs: Sequence[Value], time: Series) -> tuple[Value, ...]:
        """The outputs at the centre, wherever it is asked."""
        flat = [
            constant(time.ring, c, len(time.c))
            for c in self.coefficients[self.monomials.index((0,) * len(self.centre))]
        ]
        return tuple(flat[k : k + self.width] for k in range(0, len(flat), self.width))


@dataclass(frozen=True, eq=False)
class Setting:
    """A random point of a method with a state there, the constant components and a network: where a step is expanded."""

    point: Point
    method: Any
    state: list[list[Any]]
    constants: list[list[Any]]
    net: Any  # a Network, or one that holds still

    def carried(self, length: int) -> list[Value]:
        """The constant components and the value 1."""
        one = [[self.point.ring.number(1)] * len(self.state[0])]
        return [[constant(self.point.ring, v, length) for v in block] for block in [*self.constants, *one]]

    def score(self, z: list[Value], at: Series | None = None) -> list[Value]:
        """s = C_skip (z - o) + C_out n(inputs) at the times t0 + ``at`` (t0 + x where None)."""
        point, kind = self.point, self.method.network
        skip, out, inp, noise = point.parameterization(kind)
        offset = point.offset
        if at is not None:
            skip, out, inp, offset = (composed(M, at) for M in (skip, out, inp, offset))
            noise = noise.at(at)
        carried = self.carried(len(z[0][0].c))
        free = sub(z, mul(offset, carried))
        inputs = [*mul(inp, z), *carried[:-1]] if takes_state(kind) else mul(inp, free)
        return add(mul(skip, free), mul(out, self.net(inputs, noise)))

    def drift(self, z: list[Value], weight: Any, at: Series | None = None) -> list[Value]:
        """F z + b - (weight G G^T - Q) s, Q the skew matrix of the sampler, if it has one."""
        F, V, b = (M if at is None else composed(M, at) for M in (self.point.F, self.point.V, self.point.b))
        forced = add(mul(F, z), mul(b, self.carried(len(z[0][0].c))))
        forced = sub(forced, scaled(mul(V, self.score(z, at)), weight))
        if self.method.sampler.adams is None or not self.method.sampler.adams.skew:
            return forced
        return add(forced, mul(self.Q if at is None else composed(self.Q, at), self.score(z, at)))

    def output(self, z: list[Value], skip: Matrix, out: Matrix, at: Series | None = None) -> list[Value]:
        """r with C_out r = s - C_skip (z - o), by least squares where C_out is tall."""
        offset = self.point.offset
        if at is not None:
            skip, out, offset = (composed(M, at) for M in (skip, out, offset))
        pull = mul(skip, sub(z, mul(offset, self.carried(len(z[0][0].c)))))
        turned = transpose(out)
        return mul(mul(inverse_of(mul(turned, out)), turned), sub(self.score(z, at), pull))

    @cached_property
    def Q(self) -> Matrix:
        """The skew matrix of the sampler around t0."""
        p = [[row[self.method.sde.data[0]]] for row in self.point.Psi]
        return skew_matrix(p, self.point.Sigma, self.point.V)


def setting(
    method: Any, ring: Any, seed: int, terms: int, width: int, degree: int, drawn: Callable[..., Point] = draw
) -> Setting:
    """A random point, a random state of ``width`` coordinates a block, and a random network of a degree around both."""
    point = drawn(method, ring, seed, terms)
    rng = random.Random(f"state {seed}")
    n, kind = method.sde.n, method.network
    state, given = (
        [[ring.of(small_rational(rng)) for _ in range(width)] for _ in range(k)] for k in (n, len(method.sde.constant))
    )
    _, out, inp, noise = point.parameterization(kind)
    bare = Setting(point, method, state, given, Network([], (), [], width))
    values = [[Series([v], ring) for v in block] for block in state]
    free = sub(values, mul(point.offset, bare.carried(1)))
    inputs = [*mul(inp, values), *bare.carried(1)[:-1]] if takes_state(kind) else mul(inp, free)
    centre = [*(e.c[0] for value in inputs for e in value), noise.c[0]]
    monomials = tuple(index for total in range(degree + 1) for index in multi_indices(len(centre), total))
    coefficients = [[ring.of(small_rational(rng)) for _ in range(len(out[0]) * width)] for _ in monomials]
    return Setting(point, method, state, given, Network(centre, monomials, coefficients, width))


def multi_indices(variables: int, total: int) -> list[tuple[int, ...]]:
    """The multi-indices of one total degree."""
    return [
        tuple(chosen.count(i) for i in range(variables))
        for chosen in itertools.combinations_with_replacement(range(variables), total)
    ]


def exact_flow(at: Setting, weight: Any) -> list[Value]:
    """The solution of dz/dt = F z + b - weight G G^T s through the state at t0, as series in x = t - t0.

    weight is 1/2 for the probability flow.  Picard's iteration: each pass makes one more coefficient right.
    """
    ring = at.point.ring
    z = [[Series([v], ring) for v in block] for block in at.state]
    for k in range(at.point.terms - 1):
        z = [
            [
                Series([*e.c, 0 if type(d.c[k]) is int else d.c[k] / (k + 1)], ring)
                for e, d in zip(block, row, strict=True)
            ]
            for block, row in zip(z, at.drift(z, weight), strict=True)
        ]
    return z


@dataclass(frozen=True, eq=False)
class Run:
    """What one step makes: the new state and the values carried out."""

    state: list[Value]
    carried: list[Value]


@dataclass(frozen=True, eq=False)
class Row:
    """A program at its times: ``numbers`` are the scalars that each operation reads, ``length`` the terms of a series."""

    program: StepProgram
    numbers: list[list[Series]]
    length: int


def row(at: Setting, program: StepProgram, times: Mapping[str, Series]) -> Row:
    """The host's side of a step, at offsets from the point's time by name."""
    reads = [scalars(op) for op in program.ops]
    values = series_values(at.point, program, times, needed_by(program, itertools.chain(*reads)))
    like = next(iter(times.values()))
    reading = SeriesReading(at.point, like)
    return Row(program, [[reading.scalar(e, values) for e in each] for each in reads], len(like.c))


def run(
    at: Setting,
    row: Row,
    state: Sequence[Value],
    history: Sequence[Value] = (),
    normals: Mapping[str, Value] | None = None,
    corrected: Sequence[Value] = (),
) -> Run:
    """One step of the program on series: what ``step`` of the emitted module does, with exact coefficients.

    ``corrected`` takes the place of what the program makes of the state at t0, where it corrects it.
    """
    *given, unit = at.carried(row.length)
    program = row.program
    tensors: dict[str, Value] = dict(zip(program.components, [*state, *given], strict=True))
    tensors[UNIT] = unit
    tensors.update(zip(program.history, history, strict=True))
    for op, numbers in zip(program.ops, row.numbers, strict=True):
        if isinstance(op, Evaluate):
            outputs = at.net([tensors[name] for name in op.inputs], numbers[0])
            tensors.update(zip(op.outputs, outputs, strict=True))
        elif isinstance(op, Normal):
            tensors[op.output] = (normals or {})[op.output]
        else:
            terms = [(c, tensors[name]) for c, (_, name) in zip(numbers, op.terms, strict=True)]
            nothing = unit[0] * 0
            tensors[op.output] = [sum([c * value[k] for c, value in terms], nothing) for k in range(len(unit))]
        tensors.update(zip(program.corrected, corrected, strict=False))
    return Run([tensors[name] for name in program.result[: len(state)]], [tensors[name] for name in program.carry])
