"""The deterministic local error: exact minus numerical over one step t0 -> t1 = t0 - h, as a power series in h.

    e(h) = z(t1) - z_1 = e_(p+1) h^(p+1) + ...      through the same state at t0, with a generic smooth network.

A zero-stable run has order p where every common step has e = O(h^(p+1)) and every row that is taken a fixed number of times
O(h^p): the first rows and the last ones, and the first common rows, which read what the start carried.  All rows start from exact
states; a common step has the history that a long run comes to (history.py).  Where a program corrects its state at t0, e is
that of the corrected state after a step from an exact one, and the state in between, at which the outputs of the history are
made and with which a run ends, is asked for an error O(h^p): each output enters with a factor h.  Parameters, state, network
and the ratios of the steps are random rationals.  A coefficient that is not zero at one random point is a proof; zero at
several points is zero but for chance.  Assumed: a smooth network, an exact start, ratios of neighbouring steps that stay bounded.
(Hairer, Norsett and Wanner, Solving ODEs I, III.4, III.5 and III.8.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flint

from stepsmith.errors import Unsupported

from ..maths.matrix import sub
from ..program import StepProgram
from ..program.passes import live
from .history import UnsettledError, growth, lengths, reach, settled, times_h, times_of
from .point import Point, draw
from .rings import Ring, exactly, in_balls
from .series import constant
from .taylor import AwayError, Run, Setting, Value, exact_flow, row, run, setting

WIDTH = 2  # coordinates a block
MOST = 5  # orders are sought up to this one
PLACES = {"first": "start", "last": "end"}
MARGINS = (0, 3, 12)  # terms that divisions by series without a constant term may lose


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


@dataclass(frozen=True)
class Chain:
    """Programs of consecutive rows, the last one asked about.  ``long``: after many common rows, else from the start of a run."""

    rows: tuple[StepProgram, ...]
    long: bool = True


@dataclass(frozen=True)
class Verdict:
    """The order of a run and that of its common step, None where there is none, and ``why`` it is none or less than it seems."""

    order: int | None
    step: int | None
    why: str = ""


def verdict(method: Any, seeds: Sequence[int] = (1, 2, 3)) -> Verdict:
    """The orders (at most MOST) and what is to be said of them; of a run that draws noise only why it is not zero-stable."""
    try:
        if (why := growth(method, seeds)) or method.random:
            return Verdict(None, None, why)
        step = step_order(method, seeds)
    except ZeroDivisionError:
        raise poles(method) from None
    except UnsettledError:
        return Verdict(None, None, "its history keeps what it starts with: a root 1 of its own")
    rows = row_powers(method, seeds[:2], step)
    order = min([step, *(power for *_, power in rows)])
    lost = [(place, k) for place, k, power in rows if power == 0]
    if lost and step:
        place, k = lost[0]
        return Verdict(order, step, f"the local error of row {k} from the {PLACES[place]} begins with h^0")
    return Verdict(order, step, _remark(method, seeds[0], step))


def _remark(method: Any, seed: int, step: int) -> str:
    """Where alone a common step of this order does better; that it is not consistent, where it is nowhere."""
    defaults = partial(draw, kept=frozenset(method.program.params))
    places: dict[str, dict[str, Any]] = {"at its default parameters": {"drawn": defaults}}
    if method.program.history:
        places["on equal steps"] = {"steps": lambda seed, count: [1] * count}
    for place, how in places.items():
        if step == MOST or (step == 0 and _power(method, step_chain(method), seed, 2, **how) < 2):
            continue
        if local_error(method, seed, step + 1, **how).power > step + 1:
            return f"{_power(method, step_chain(method), seed, MOST + 1, **how) - 1} {place} alone"
    if step and method.sampler.formula is not None and method.sampler.params:
        less = _power(method, step_chain(method), seed, step + 1, drawn=partial(draw, kept=frozenset())) - 1
        if less < step:
            return f"at the default parameters of its lines, {max(0, less)} at others"
    begins = _power(method, step_chain(method), seed, 1)
    return f"not consistent: the local error of a step begins with h^{begins}" if step == 0 else ""


def step_order(method: Any, seeds: Sequence[int] = (1, 2, 3)) -> int:
    """The order of the common step alone, the least over the random points."""
    return max(0, min(_power(method, step_chain(method), seed, MOST + 1) for seed in seeds) - 1)


def row_powers(method: Any, seeds: Sequence[int] = (1, 2), most: int = MOST) -> list[tuple[str, int, int]]:
    """(first or last, number of the row from that end, power of h that its local error begins with, at most ``most``) of the
    rows that are taken a fixed number of times.
    """
    warmup, ending, program = method.warmup, method.ending, method.program
    readers = reach(program) if warmup else 0  # common rows that may read what the start carried
    first = (*warmup, *(program,) * (len(program.history) if readers is None else readers))
    heads = [(head(each),) if each.corrected else () for each in (*first[1:], program)]
    rows = [("first", k + 1, Chain((*first[: k + 1], *heads[k]), long=False)) for k in range(len(first))]
    rows += [("last", len(ending) - k, Chain((*step_chain(method).rows, *ending[: k + 1]))) for k in range(len(ending))]
    rows += [("last", 1, Chain(step_chain(method).rows[:-1]))] if program.corrected else []
    return [(place, k, min(_power(method, chain, seed, most) for seed in seeds)) for place, k, chain in rows]


def step_chain(method: Any) -> Chain:
    """The common step after as many of itself, on random steps, as its carried values wait to be read."""
    program = method.program
    waiting = reach(program)
    end = (head(program),) if program.corrected else ()
    return Chain((program,) * (1 + (len(program.history) // method.sde.n if waiting is None else waiting)) + end)


def _power(method: Any, chain: Chain, seed: int, most: int, **how: Any) -> int:
    """The power of h that the local error begins with, at most ``most``.  Grown a power at a time: most verdicts fall early;
    that of the family adams where its moments say.
    """
    adams = method.sampler.adams
    for top in range(max(1, min(adams.order + adams.corrector + 1 if adams else 2, most - 1)), max(2, most)):
        try:
            power = local_error(method, seed, top, chain, **how).power
        except AwayError:  # not even consistent
            return 0
        if power <= top:
            return min(power, most)
    return most


# -- parts of a program that an expansion runs alone -------------------------------------------------------------------------
#
# A program that corrects its state makes its step from one corrected state to the next:
#
#     predicted state at t0 --head--> corrected state at t0 --tail--> predicted state at t1 --head of the next row--> corrected
#
# A chain of programs that ends with a head asks about the corrected state.


def head(program: StepProgram) -> StepProgram:
    """The part of a program that makes the corrected state, which is its result."""
    return replace(program, ops=live(program.ops, set(program.corrected)), result=program.corrected, carry=())


def ends_corrected(chain: Sequence[StepProgram]) -> bool:
    return bool(chain[-1].corrected) and chain[-1].result == chain[-1].corrected


def carrying(program: StepProgram) -> StepProgram:
    """The part of a program that makes what it carries out; its result is the state that it was given."""
    return replace(program, ops=live(program.ops, set(program.carry)), result=program.components, corrected=())


# -- expanding ---------------------------------------------------------------------------------------------------------------


def local_error(
    method: Any, seed: int, top: int, chain: Chain | None = None, drawn: Callable[..., Point] = draw,
    steps: Callable[[int, int], Sequence[Any]] = lengths,
) -> LocalError:  # fmt: skip
    """e up to h^top at one random point; exact rationals where they hold the values, else balls."""
    chain = chain or step_chain(method)

    def expanded(margin: int, ring: Ring) -> LocalError:
        at = setting(method, ring, seed, top + 1 + margin, WIDTH, max(top - 1, 1), drawn)  # an output meets a factor h
        return local_error_at(at, chain, top, steps(seed, len(chain.rows)))

    adams, deep = method.sampler.adams, 2 * len(method.program.history)
    margins = (deep, MARGINS[-1]) if adams else MARGINS if method.sampler.formula is None else MARGINS[1:]
    read = in_balls if adams else exactly
    return with_terms(method, margins, lambda margin: read(partial(expanded, margin)))


def with_terms(method: Any, margins: Iterable[int], expanded: Callable[[int], LocalError]) -> LocalError:
    """What is expanded with the first margin that leaves terms enough."""
    for margin in margins:
        try:
            return expanded(margin)
        except ZeroDivisionError:  # too few terms are left
            continue
    raise poles(method)


def poles(method: Any) -> Unsupported:
    what = f"the step of {method.name} divides by what vanishes with the step, or takes the root or logarithm of it"
    return Unsupported(f"{what}: it has no power series in h", "write it in whole powers of h, sqrt(h) beside the draws alone")


def local_error_at(at: Setting, chain: Chain, top: int, steps: Sequence[Any]) -> LocalError:
    """e up to h^top of the last program of a chain, in a setting, after steps of these lengths, in h, the latest first."""
    flow = exact_flow(at, at.point.ring.number(1, 2))
    made = last_step(at, chain, flow, steps, top)
    there = [[e.at(times_h(at, -1)) for e in block] for block in flow]
    gaps = [[e.regular for e in block] for block in sub(there, made.state)]
    if min(len(c) for block in gaps for c in block) <= top:
        raise ZeroDivisionError("divisions by powers of the step have lost too many terms")
    return LocalError(at.point, [[[c[k] for c in block] for block in gaps] for k in range(top + 1)])


def last_step(at: Setting, chain: Chain, flow: list[Value], steps: Sequence[Any], top: int) -> Run:
    """The last program of the chain from the exact state at t0, its history made by the others from exact states before.

    Where the chain ends with the head of a program, that is the row after the one that is asked about.
    """
    rows, end = (chain.rows[:-1], chain.rows[-1]) if ends_corrected(chain.rows) else (chain.rows, None)
    ring, first = at.point.ring, rows[0]
    before = [ring.of(q) if isinstance(q, flint.fmpq) else q for q in steps[: len(rows)]]
    starts = [sum(before[:back], ring.number(0)) for back in range(len(rows))]
    carried = [[constant(ring, 0, at.point.terms)] * len(at.state[0]) for _ in first.history]
    if chain.long and first.history and reach(first) is None:
        carried = settled(at, first, flow, starts[-1], before[len(starts) - 1], top)
    for back, program in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
        times = times_of(at, starts[back], before[back - 1] if back else 1, before[back:])
        state = [[e.at(times["t0"]) for e in block] for block in flow]
        made = run(at, row(at, carrying(program) if back else program, times), state, carried, corrected=state)
        carried = made.carried
    if end is not None:
        made = run(at, row(at, end, times_of(at, ring.number(-1), 1, [1, *before])), made.state, carried)
    return made
