"""The deterministic local error: exact minus numerical over one step t0 -> t1 = t0 - h, as a power series in h.

    e(h) = z(t1) - z_1 = e_(p+1) h^(p+1) + ...      through the same state at t0, with a generic smooth network.

A program has order p where e begins with h^(p+1); a multistep program starts from the history that it would have made
itself from exact states.  A coefficient that is not zero at one random rational point is a proof; zero at several points
is zero but for chance.  (DESIGN section 9; methods.md 3.1; numerics.md 5a.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flint

from ..program import StepProgram
from .point import Point, draw
from .rings import PRECISION, Balls, IrrationalError, Rationals, Ring, small_rational
from .series import Series
from .taylor import Run, Value, exact_flow, network, run

WIDTH = 2  # coordinates a block
MOST = 5  # orders are sought up to this one
MARGIN = 3  # terms that divisions by series without a constant term may lose
RATIOS = (flint.fmpq(5, 7), flint.fmpq(9, 8), flint.fmpq(4, 5), flint.fmpq(11, 10), flint.fmpq(6, 7))


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
    """The order of the main program of a deterministic method, the least over the random points (at most ``most``)."""
    return min(_order(method, method.program, seed, most) for seed in seeds)


def run_order(method: Any, seeds: Sequence[int] = (1, 2), most: int = MOST) -> int:
    """The order of a whole run: the main program's, or less where a warm-up or a final step loses it.

    A step taken a fixed number of times adds its local error once, so a local error h^e allows order e.
    """
    special = [*getattr(method, "warmup", ()), *([method.final] if getattr(method, "final", None) else [])]
    found = order(method, seeds, most)
    for program in special:
        found = min(found, *(_order(method, program, seed, most) + 1 for seed in seeds))
    return found


def _order(method: Any, program: StepProgram, seed: int, most: int) -> int:
    """Grown a power at a time: most verdicts fall early."""
    for p in range(1, most + 1):
        power = local_error(method, seed, p + 1, program).power
        if power < p + 2:
            return power - 1
    return most


def local_error(method: Any, seed: int, top: int, program: StepProgram | None = None) -> LocalError:
    """e up to h^top at one random point; exact rationals where they hold the values, else balls."""
    try:
        return _local_error(method, seed, top, program or method.program, exact=True)
    except IrrationalError:
        return _local_error(method, seed, top, program or method.program, exact=False)


def _local_error(method: Any, seed: int, top: int, program: StepProgram, exact: bool) -> LocalError:
    with flint.ctx.workprec(PRECISION):
        return _expanded(method, seed, top, program, Rationals() if exact else Balls())


def _expanded(method: Any, seed: int, top: int, program: StepProgram, ring: Ring) -> LocalError:
    margin = MARGIN if program.history else 0
    point = draw(method, ring, seed, top + 1 + margin)
    rng = random.Random(f"state {seed}")
    state = [[_number(ring, small_rational(rng)) for _ in range(WIDTH)] for _ in range(method.sde.n)]
    net = network(point, method.network, state, top - 1, seed)  # an output meets at least one factor h
    flow = exact_flow(point, method, net, state, _number(ring, flint.fmpq(1, 2)))
    found = one_step(point, program, net, flow)
    there = [[e.at(_moved(point, -1)) for e in block] for block in flow]
    gaps = [[(a - b).c for a, b in zip(p, q, strict=True)] for p, q in zip(there, found.state, strict=True)]
    if min(len(c) for block in gaps for c in block) <= top:
        raise IrrationalError("too many terms were lost to divisions")
    return LocalError(point, [[[c[k] for c in block] for block in gaps] for k in range(top + 1)])


def _number(ring: Any, q: flint.fmpq) -> Any:
    return ring.number(int(q.p), int(q.q))


def _moved(point: Point, factor: Any) -> Series:
    """factor * h."""
    return Series([0, point.ring.number(1) * factor, *([0] * (point.terms - 2))], point.ring)


def one_step(point: Point, program: StepProgram, net: Any, flow: list[Value]) -> Run:
    """The program from the exact state at t0, its history made by itself from the exact states before."""
    depth = point.terms + 1 if program.history else 0
    offsets = [-1, 0]
    for k in range(depth + 4):
        offsets.append(offsets[-1] + _number(point.ring, RATIOS[k % len(RATIOS)]))
    history: list[Value] = []
    for back in range(depth, 0, -1):
        state = [[e.at(_moved(point, offsets[back + 1])) for e in block] for block in flow]
        if not history:
            history = _plain_history(point, program, state)
        history = run(point, program, net, state, _times(point, program, offsets, back), history).carried
    state = [[e.at(_moved(point, 0)) for e in block] for block in flow]
    return run(point, program, net, state, _times(point, program, offsets, 0), history)


def _times(point: Point, program: StepProgram, offsets: list[Any], back: int) -> dict[str, Series]:
    """The times of the step ``back`` steps ago, as offsets: t1, t0, t_m1, ..."""
    names = ["t1", "t0", *(["t_m1", "t_m2", "t_m3"] if program.history else [])]
    return {name: _moved(point, offsets[back + i]) for i, name in enumerate(names)}


def _plain_history(point: Point, program: StepProgram, state: list[Value]) -> list[Value]:
    """Anything smooth to begin the history with: its trace is h^depth smaller by the time it could matter."""
    return [[e * 0 for e in state[0]] for _ in program.history]
