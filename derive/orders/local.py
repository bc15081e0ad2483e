"""The deterministic local error: exact minus numerical over one step t0 -> t1 = t0 - h, as a power series in h.

    e(h) = z(t1) - z_1 = e_(p+1) h^(p+1) + ...      through the same state at t0, with a generic smooth network.

A program has order p where e begins with h^(p+1); a multistep program starts from the history that it would have made
itself from exact states.  A coefficient that is not zero at one random rational point is a proof; zero at several points
is zero but for chance.  (DESIGN section 9; methods.md 3.1; numerics.md 5a.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flint

from ..program import EARLIER, Evaluate, StepProgram, Update
from .point import Point
from .rings import PRECISION, Balls, IrrationalError, Rationals, Ring
from .series import Series, constant
from .taylor import AwayError, Run, Setting, Value, exact_flow, run, setting

WIDTH = 2  # coordinates a block
MOST = 5  # orders are sought up to this one
MARGIN = 3  # terms that divisions by series without a constant term may lose
TIMES = ("t1", "t0", *(time.name for time in EARLIER))
RATIOS = (
    flint.fmpq(5, 7),
    flint.fmpq(9, 8),
    flint.fmpq(5, 4),
    flint.fmpq(11, 10),
    flint.fmpq(6, 7),
)  # of each step to the next


@dataclass(frozen=True, eq=False)
class LocalError:
    """e(h) of one program at one point: ``coefficients[k][block][coordinate]`` of h^k."""

    point: Point
    coefficients: list[list[list[Any]]]

    @property
    def power(self) -> int:
        """The first power of h that does not vanish; one past the last kept where all do."""
        for k, blocks in enumerate(self.coefficients):
            if any(not self.point.ring.is_zero(e) for block in blocks for e in block):
                return k
        return len(self.coefficients)


def order(method: Any, seeds: Sequence[int] = (1, 2, 3), most: int = MOST) -> int:
    """The order of a run: the common step's, or less where a first or a last row loses it (at most ``most``).

    A step taken a fixed number of times adds its local error once, so a local error h^e allows a run of order e.
    """
    rows = [min(_order(method, chain, seed, most) + 1 for seed in seeds) for chain in _special(method)]
    return min(step_order(method, seeds, most), *rows, most)


def step_order(method: Any, seeds: Sequence[int] = (1, 2, 3), most: int = MOST) -> int:
    """The order of the common step alone, the least over the random points."""
    return min(_order(method, step_chain, seed, most) for seed in seeds)


def row_powers(method: Any, seeds: Sequence[int] = (1, 2), most: int = MOST) -> list[tuple[str, int, int]]:
    """(first or last, number of the row from that end, power of h that its local error begins with) of the special rows."""
    names = [("first", k + 1) for k in range(len(method.warmup))]
    names += [("last", len(method.ending) - k) for k in range(len(method.ending))]
    powers = [min(_order(method, chain, seed, most) + 1 for seed in seeds) for chain in _special(method)]
    return [(place, k, power) for (place, k), power in zip(names, powers, strict=True)]


Chain = tuple[StepProgram, ...]  # programs of consecutive rows, the last one asked about
Chained = Callable[[Any, int], Chain]  # of a method and the power of h that is asked about


def step_chain(method: Any, top: int) -> Chain:
    """The common step after as many of itself as could still be felt at h^top.

    The first of them starts from an empty history.  Where the network sees what was carried, each passage through the
    history lowers what is left of that by a factor h and takes up to len(history) steps; else it is forgotten at once.
    """
    program = method.program
    if not program.history:
        return (program,)
    return (program,) * (len(program.history) * (top + 1 if fed_back(program) else 1) + 1)


def fed_back(program: StepProgram) -> bool:
    """Whether a network call sees a value that was carried in."""
    tainted = set(program.history)
    for op in program.ops:
        if isinstance(op, Evaluate) and tainted & set(op.inputs):
            return True
        if isinstance(op, Update) and tainted & {value for _, value in op.terms}:
            tainted.add(op.output)
    return False


def _special(method: Any) -> list[Chained]:
    """The first rows and the last ones, each after the rows that it follows."""
    warmup, ending = method.warmup, method.ending
    first: list[Chained] = [partial(_opened, warmup[: k + 1]) for k in range(len(warmup))]
    return first + [partial(_closed, ending[: k + 1]) for k in range(len(ending))]


def _opened(rows: Chain, method: Any, top: int) -> Chain:
    return rows


def _closed(rows: Chain, method: Any, top: int) -> Chain:
    return (*step_chain(method, top), *rows)


def _order(method: Any, chained: Chained, seed: int, most: int) -> int:
    """Grown a power at a time: most verdicts fall early."""
    for p in range(1, most + 1):
        try:
            power = local_error(method, seed, p + 1, chained(method, p + 1)).power
        except AwayError:  # not even consistent
            return 0
        if power < p + 2:
            return power - 1
    return most


def local_error(method: Any, seed: int, top: int, chain: Chain | None = None) -> LocalError:
    """e up to h^top at one random point; exact rationals where they hold the values, else balls."""
    chain = chain or step_chain(method, top)
    with flint.ctx.workprec(PRECISION):
        try:
            return _expanded(method, seed, top, chain, Rationals())
        except IrrationalError:
            return _expanded(method, seed, top, chain, Balls())


def _expanded(method: Any, seed: int, top: int, chain: Chain, ring: Ring) -> LocalError:
    margin = MARGIN if method.sampler.formula is not None else 0
    at = setting(method, ring, seed, top + 1 + margin, WIDTH, top - 1)  # an output meets at least one factor h
    return local_error_at(at, chain, top)


def local_error_at(at: Setting, chain: Chain, top: int, ratios: Sequence[Any] = ()) -> LocalError:
    """e up to h^top of the last program of a chain, in a setting; ``ratios`` of each step before to the one after it."""
    flow = exact_flow(at, at.point.ring.number(1, 2))
    found = last_step(at, chain, flow, ratios)
    there = [[e.at(_moved(at.point, -1)) for e in block] for block in flow]
    gaps = [[(a - b).regular for a, b in zip(p, q, strict=True)] for p, q in zip(there, found.state, strict=True)]
    if min(len(c) for block in gaps for c in block) <= top:
        raise ValueError(f"divisions in {at.method.name} lost too many terms")
    return LocalError(at.point, [[[c[k] for c in block] for block in gaps] for k in range(top + 1)])


def _moved(point: Point, factor: Any) -> Series:
    """factor * h."""
    return Series([0, point.ring.number(1) * factor, *([0] * (point.terms - 2))], point.ring)


def last_step(at: Setting, chain: Chain, flow: list[Value], ratios: Sequence[Any] = ()) -> Run:
    """The last program of the chain from the exact state at t0, its history made by the others from exact states before."""
    ring = at.point.ring
    offsets = [ring.number(-1), ring.number(0)]
    ratios = ratios or [ring.number(int(q.p), int(q.q)) for q in RATIOS]
    length = ring.number(1)
    for k in range(len(chain) + 3):
        length = length * ratios[k % len(ratios)]
        offsets.append(offsets[-1] + length)
    found = Run([], [[constant(ring, 0, at.point.terms)] * len(at.state[0]) for _ in chain[0].history])
    for back, program in zip(range(len(chain) - 1, -1, -1), chain, strict=True):
        state = [[e.at(_moved(at.point, offsets[back + 1])) for e in block] for block in flow]
        times = {name: _moved(at.point, offsets[back + i]) for i, name in enumerate(TIMES)}
        found = run(at, program, state, times, found.carried)
    return found
