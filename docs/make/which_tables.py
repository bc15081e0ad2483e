"""The page docs/which-tables.md: every cell that which.py measured, and why the first of a cell is there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from which import BUDGETS, LOST, Choice, Entry, Facts, Part
from which_page import factor, listed, rivals

DATA = (("the mixture in the plane", "the mixture in eight dimensions"), ("the round Gaussian", "the flat Gaussian"))
AFFORDS = 1.5  # how many times the steps that tell two samplers apart
TABLES_TITLE = (
    "# Which sampler, when: the tables",
    "",
    "`make docs` writes this page; do not edit it. [Which sampler, when](which.md) says how to read them.",
    "",
)


def tables(parts: Sequence[Part]) -> str:
    """A section a diffusion, and all errors."""
    lines = [*TABLES_TITLE, *(line for part in parts for line in section(part))]
    return "\n".join([*lines, "## All errors", "", *matrix(parts), ""])


def section(part: Part) -> list[str]:
    """One diffusion and network: the span and the cells."""
    kind = "" if part.network == "denoiser" else f", network {part.network}"
    noisy = sum(e.random for e in part.entries)
    lines = [
        f"## {part.sde}{kind}",
        "",
        f"{'One block' if part.blocks == 1 else f'{part.blocks} blocks'}; effective sigma {part.high:.4g} to {part.low:.4g}"
        f" (t = {part.times[0]:.4g} to {part.times[1]:.4g}), {part.grid};"
        f" {len(part.entries) - noisy} modules without noise, {noisy} with.",
        "",
        "| calls | noise | best or equal | error | next | factor | why |",
        "|---|---|---|---|---|---|---|",
        *rows(part),
        "",
    ]
    twins: dict[str, list[str]] = {}
    for label, other in sorted(part.twins.items()):
        twins.setdefault(other, []).append(f"`{label}`")
    same_errors = [f"The same errors as `{other}`: {', '.join(same)}." for other, same in twins.items()]
    lost = failures(part)
    return lines + [line for text in (*same_errors, *([lost] if lost else [])) for line in (text, "")]


def rows(part: Part) -> list[str]:
    """The cells, those without noise first; a budget at which every module diverges has none."""
    cells = {(c.budget, c.random): c for c in part.choices}
    found = []
    for random in (False, True):
        for k, budget in enumerate(BUDGETS if rivals(part, random) else ()):
            c = cells.get((budget, random))
            least = min(e.errors[k] for e in part.entries if e.random == random)
            none = f"| {budget} | {'yes' if random else 'no'} | none | {least:.3g} | - | - | every module diverges |"
            found.append(line(part, c) if c else none)
    return found


def line(part: Part, c: Choice) -> str:
    """A cell as a row of the table."""
    labels = ", ".join(f"`{e.label}`" for e in c.best)
    runner, times = (f"`{c.runner.label}`", factor(c.factor)) if c.runner else ("-", "-")
    cells = (str(c.budget), "yes" if c.random else "no", labels, f"{c.error:.3g}", runner, times, reason(part, c))
    return "| " + " | ".join(cells) + " |"


def reason(part: Part, c: Choice) -> str:
    """Why the first is there: its proven order and cost, what it holds, and what sets it apart from the next."""
    first, k = c.first, BUDGETS.index(c.budget)
    steps, known = first.steps[k], part.facts[first.name]
    draws = f" and {_count(first.draws, 'draw')}" if c.random else ""
    cost = f"{_count(steps, 'step')} of {_count(first.calls, 'call')}{draws}"
    said = [f"{_order(known, c.random)}, {cost}; {known.held}"]
    if c.runner is not None:
        said.append(_against(c, k, known, part.facts[c.runner.name]))
    for problem, label in c.alone:
        said.append(f"on {DATA[c.random][problem]} alone `{label}` is better")
    if c.error >= 1:
        said.append("no better than a guess")
    return "; ".join(said)


def _order(known: Facts, random: bool) -> str:
    kind = "weak order" if random else "order"
    if known.order is None:
        return f"no proven {kind}"
    if not known.rows:
        return f"{kind} {known.order}"
    rows = ", ".join(f"h^{power} in {_row(place, k)}" for place, k, power in known.rows)
    return f"{kind} {known.order} (the common step {known.step}; local error {rows})"


def _row(place: str, k: int) -> str:
    return f"row {k - 1}" if place == "first" else "the last row" + " but one" * (k - 1)


def _against(c: Choice, k: int, mine: Facts, other: Facts) -> str:
    """What tells the first from the next: steps, else the order of the common step, else the constant."""
    assert c.runner is not None
    label, theirs = f"`{c.runner.label}`", c.runner.steps[k]
    if theirs * AFFORDS <= c.first.steps[k]:
        return f"{label} affords {_count(theirs, 'step')}"
    run = mine.step == other.step
    a, b = (mine.order, other.order) if run else (mine.step, other.step)
    if a is None or b is None:
        return f"{label} has no proven order to compare"
    common = "" if other.step == other.order else " in a run" if run else " in its common step"
    if a == b:
        return f"{label} has the same order, {other.held}: the larger error constant"
    return f"{label} has order {b}{common}" if a > b else f"{label} has order {b}{common}, which does not pay yet"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def failures(part: Part) -> str:
    """What diverged, failed or could not be run, at which budgets."""
    said = []
    for e in part.entries:
        for words, found in _fates(e):
            said.append(f"`{e.label}` {words} at {listed(found)}")
    return f"Not usable (to diverge is an error of {LOST:.0f} or more): {'; '.join(said)}." if said else ""


def _fates(e: Entry) -> list[tuple[str, list[int]]]:
    fates: dict[str, list[int]] = {}
    for budget, error, why in zip(BUDGETS, e.errors, e.why, strict=True):
        if error >= LOST:
            words = why or ("overflows" if math.isinf(error) else "diverges")
            fates.setdefault(words, []).append(budget)
    return list(fates.items())


def matrix(parts: Iterable[Part]) -> list[str]:
    """Every error that was measured."""
    lines = [
        f"| diffusion | network | sampler | noise | order | calls | draws | {' | '.join(f'{b} calls' for b in BUDGETS)} |",
        "|---" * (7 + len(BUDGETS)) + "|",
    ]
    for part in parts:
        for e in sorted(part.entries, key=lambda e: (e.random, e.label)):
            order = "-" if e.order is None else str(e.order)
            cells = (part.sde, part.network, e.label, "yes" if e.random else "no", order, str(e.calls), str(e.draws))
            lines.append("| " + " | ".join([*cells, *(f"{x:.3g}" for x in e.errors)]) + " |")
    return lines
