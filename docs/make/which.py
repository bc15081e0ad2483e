"""Which sampler, when: every module of the catalogue at equal numbers of network calls, and what is proven of the best.

The errors are those of measure/budgets.py, rounded as the page prints them, so that everything said on it follows from what
stands on it; the facts are those of the derived methods.  which_page.py and which_tables.py write
the pages docs/which.md and docs/which-tables.md from this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Any

from stepsmith.derive import catalogue, load_sde
from stepsmith.derive.orders.local import row_powers
from stepsmith.derive.spec.formula import NETWORK, ONE_BLOCK
from stepsmith.loading import load
from stepsmith.measure.budgets import Course, outcome
from stepsmith.measure.orders import FREQUENCY
from stepsmith.measure.workers import pool, workers_for
from stepsmith.runtime.sampler import steps_of

BUDGETS = (5, 10, 20, 50, 100)
EQUAL = 1.1  # errors within this factor of the best are called equal
DIGITS = 3  # of a printed error
LOST = 10.0  # standard deviations (or a relative variance) from which on a run counts as diverged
CHOLESKY = "eps-L"


@dataclass(frozen=True)
class Entry:
    """A module on its diffusion: ``errors``, ``each`` (those on the two problems), ``steps`` and ``why`` (where there is no run)
    a budget; ``calls``, ``draws`` and ``size``, the number of coefficients, of a step; ``order`` the weak one with noise."""

    label: str
    name: str
    random: bool
    calls: int
    draws: int
    history: int
    size: int
    order: int | None
    errors: tuple[float, ...]
    each: tuple[tuple[float, ...], ...]
    steps: tuple[int, ...]
    why: tuple[str, ...]

    @property
    def simplicity(self) -> tuple[Any, ...]:
        """Of equals the least comes first: calls, draws, history, coefficients."""
        return self.calls, self.draws, self.history, self.size, self.label


@dataclass(frozen=True)
class Choice:
    """A cell: the best at a budget and those equal to it, the simplest first; the next one and how many times its error is the
    least; (problem, sampler) where another is better on one of the two problems alone."""

    budget: int
    random: bool
    best: tuple[Entry, ...]
    error: float
    runner: Entry | None
    factor: float
    alone: tuple[tuple[int, str], ...]

    @property
    def first(self) -> Entry:
        return self.best[0]


@dataclass(frozen=True)
class Facts:
    """What is proven of a module: order of a run and of the common step, (place, row, power) of the rows that lose it, and what
    is held or interpolated over a step."""

    order: int | None
    step: int | None
    rows: tuple[tuple[str, int, int], ...]
    held: str


@dataclass(frozen=True)
class Part:
    """A diffusion and the kind of network: the span that was run, all entries, the choices, the facts by module."""

    sde: str
    network: str
    blocks: int
    high: float
    low: float
    times: tuple[float, float]
    grid: str
    entries: tuple[Entry, ...]
    facts: dict[str, Facts]

    @property
    def twins(self) -> dict[str, str]:
        """A sampler that has the errors of a simpler one at every budget -> that one."""
        first: dict[tuple[Any, ...], str] = {}
        ranked = sorted(self.entries, key=lambda e: e.simplicity)
        same = {e.label: first.setdefault((e.random, e.errors), e.label) for e in ranked}
        return {label: other for label, other in same.items() if other != label}

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The cells in which a module is of use, each of the twins named once."""
        own = [e for e in self.entries if e.label not in self.twins]
        return tuple(c for k in range(len(BUDGETS)) for noise in (False, True) if (c := choose(own, k, noise)))


def choose(entries: Sequence[Entry], k: int, random: bool) -> Choice | None:
    """The cell of the k-th budget; None where every module diverges or there is none."""
    ranked = sorted((e for e in entries if e.random == random and e.errors[k] < LOST), key=lambda e: e.errors[k])
    if not ranked:
        return None
    least = ranked[0].errors[k]
    best = [e for e in ranked if e.errors[k] <= EQUAL * least]
    runner = next((e for e in ranked if e not in best), None)
    factor = runner.errors[k] / least if runner else math.inf
    alone = []
    for problem in range(len(best[0].each[k])):
        other = min(ranked, key=lambda e: e.each[k][problem])
        if EQUAL * other.each[k][problem] < min(e.each[k][problem] for e in best):
            alone.append((problem, other.label))
    return Choice(
        BUDGETS[k], random, tuple(sorted(best, key=lambda e: e.simplicity)), least, runner, factor, tuple(alone)
    )  # fmt: skip


def kinds() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(diffusion, kinds of network): the scalar denoiser where it has one, else eps-L, and eps-L of several blocks beside it."""
    networks: dict[str, set[str]] = {}
    for row in catalogue.rows():
        networks.setdefault(row.sde, set()).add(row.network)
    found = []
    for sde, known in networks.items():
        main = ("denoiser",) if "denoiser" in known else (CHOLESKY,)
        found.append((sde, main + ((CHOLESKY,) if load_sde(sde).n > 1 and CHOLESKY in known else ())))
    return tuple(found)


def parts_of(sde: str, networks: Sequence[str], samplers: Sequence[str] = ()) -> tuple[Part, ...]:
    """The parts of a diffusion, measured, of the samplers named or all, and proven."""
    diffusion = load_sde(sde)
    field = {diffusion.field: FREQUENCY} if diffusion.field else {}
    course = Course.of(diffusion.at(**field), field)
    return tuple(_part(course, network, samplers) for network in networks)


def _part(course: Any, network: str, samplers: Sequence[str]) -> Part:
    sde = course.view.sde
    rows = [row for row in catalogue.rows() if (row.sde, row.network) == (sde.name, network)]
    rows = [row for row in rows if not samplers or row.sampler in samplers]
    entries = tuple(entry(row, course) for row in rows)
    part = Part(
        sde.name, network, sde.n, course.high, course.low, (course.law.high, course.law.low),
        "quadratic in t" if course.quadratic else "even in log sigma", entries, {},
    )  # fmt: skip
    named = {e.name for c in part.choices for e in (c.first, c.runner) if e is not None}
    part.facts.update({row.name: facts(row) for row in rows if row.name in named})
    return part


def entry(row: Any, course: Any) -> Entry:
    """A module of the catalogue at all budgets."""
    module = load(row.name)
    outcomes = [outcome(module, course, budget) for budget in BUDGETS]
    random = any(draws for _, draws in steps_of(module, 3))
    return Entry(
        row.sampler + (f" in {row.frame}" if row.frame else ""), row.name, random, module.NFE, module.DRAWS, module.HISTORY,
        len(module.COEFFICIENTS), module.WEAK_ORDER if random else module.ORDER,
        tuple(_rounded(o.error) for o in outcomes), tuple(tuple(map(_rounded, o.errors)) for o in outcomes),
        tuple(o.steps for o in outcomes), tuple(o.why for o in outcomes),
    )  # fmt: skip


def _rounded(error: float) -> float:
    return float(f"{error:.{DIGITS}g}")


def facts(row: Any) -> Facts:
    """The facts of a module, from its derivation."""
    method = row.derive()
    if method.random:
        return Facts(method.weak_order, method.weak_order, (), held(method))
    lost = [(place, k, power) for place, k, power in row_powers(method) if power < method.step_order]
    return Facts(method.order, method.step_order, tuple(lost), held(method))


def held(method: Any) -> str:
    """What a step holds still, interpolates or solves exactly."""
    sampler = method.sampler
    if sampler.family == "conjugate":
        frame = method.frame_name
        return f"freezes {'the data prediction' if frame == 'denoiser' else frame}, exact else"
    if sampler.adams is not None:
        frame, known = sampler.adams.frame, {"x0": "the data prediction", "gaussian": "the data around a Gaussian"}
        return f"interpolates {known.get(frame, frame)}" + (", corrected" if sampler.adams.corrector else "")
    if sampler.formula is not None:
        words = [word for word in NETWORK if word in sampler.formula.words and word in ONE_BLOCK]
        if not words:
            return "stages of the whole drift"
        several = method.program.history or method.nfe > 1
        return f"{'interpolates' if several else 'freezes'} {words[0]}"
    said = []
    for solve, words_ in (("exact", "exactly"), ("conjugate", "by conjugation"), ("euler", "by Euler")):
        letters = [letter for letter, part in sampler.parts.items() if part.solve == solve]
        said += [f"{', '.join(letters)} {words_}"] if letters else []
    return f"solves {' and '.join(said)}"


def measure_all(done: Callable[[str], None] = lambda sde: None) -> tuple[Part, ...]:
    """Every part of the catalogue in its order, from a process a core; ``done`` is called with each diffusion that is ready."""
    asked = kinds()
    found: dict[str, tuple[Part, ...]] = {}
    with pool(workers_for(len(asked))) as processes:
        waiting = {processes.submit(parts_of, sde, networks): sde for sde, networks in asked}
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            done(waiting[future])
    return tuple(part for sde, _ in asked for part in found[sde])


def main_parts(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts but for those of networks trained with a Cholesky factor beside a denoiser's."""
    seen = set()
    for part in parts:
        if part.sde not in seen:
            seen.add(part.sde)
            yield part
