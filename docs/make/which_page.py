"""The pages docs/which.md and docs/which-tables.md: what which.py measured; the first one counts what the second one holds."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from which import BUDGETS, CHOLESKY, EQUAL, LOST, Choice, Entry, Facts, Part, main_parts

from stepsmith import plots

FEW, MANY = (5, 10), (50, 100)
CLASSES = (("one block", False), ("several blocks", True))
DATA = (("the mixture in the plane", "the mixture in eight dimensions"), ("the round Gaussian", "the flat Gaussian"))
AFFORDS = 1.5  # how many times the steps that tell two samplers apart
OWN, TURNED = "conjugate", "conjugate in eps-R"


def page(parts: Sequence[Part]) -> str:
    """The answers, the picture, and how they were found."""
    return "\n".join([*TITLE, *answers(list(main_parts(parts))), *PICTURE, *head(parts), *ABOUT, ""])


def tables(parts: Sequence[Part]) -> str:
    """A section a diffusion, and all errors."""
    lines = [*TABLES_TITLE, *(line for part in parts for line in section(part))]
    return "\n".join([*lines, "## All errors", "", *matrix(parts), ""])


MADE = "`make docs` writes this page; do not edit it."
TITLE = (
    "# Which sampler, when",
    "",
    "Take the sampler of your row, and compare it with the next ones on your own network: `stepsmith bench --network` does this,",
    "and [`stepsmith tune`](tune.md) makes a sampler for one network. *Blocks* are the parts of the state: VP has one (the data)",
    "and PSLD two (the data and a momentum).",
    "",
)
SHOWN = {
    "vp": ("ddim", "dpmpp-2m", "unipc-3", "adams-3"),
    "psld": ("conjugate", "rvv", "rvv2", "adams-3", "adams-3-gaussian-skew"),
}
CURVE = "which-curve.svg"
PICTURE = (
    f"![Error against network calls of samplers without noise, on VP and on PSLD](pictures/{CURVE})",
    "",
    "*Errors against the exact probability flow, in standard deviations of the data.*",
    "",
    "**What the table counts.** A cell of [the tables](which-tables.md) is one diffusion at one number of calls. The rank of a",
    "sampler is the share of the cells where it was measured in which it is the best or equal to the best.",
    "",
)
TABLES_TITLE = (
    "# Which sampler, when: the tables",
    "",
    f"{MADE} [Which sampler, when](which.md) says how to read them.",
    "",
)


def head(parts: Sequence[Part]) -> list[str]:
    """The five answers."""
    main = list(main_parts(parts))
    return [
        f"1. **Few calls ({_list(FEW)}), no noise.** {_winners(main, FEW, False)}",
        f"2. **Many calls ({_list(MANY)}), no noise.** {_winners(main, MANY, False)}",
        f"3. **With noise ({BUDGETS[0]} to {BUDGETS[-1]} calls).** {_winners(main, BUDGETS, True)}",
        f"4. **A network trained with a Cholesky factor.** {_cholesky(parts)}",
        f"5. **A diffusion of your own.** {_own(main)}",
        "",
    ]


def answers(parts: Sequence[Part]) -> list[str]:
    """The table of the first screen: the three samplers of each case that are most often the best."""
    lines = ["| blocks | noise | network calls | take | or |", "|---|---|---|---|---|"]
    for name, several in CLASSES:
        for budgets, random in ((FEW, False), (MANY, False), (BUDGETS, True)):
            first, *others = (f"`{label}`" for label in _ranked(parts, budgets, random, several)[0])
            calls = f"{budgets[0]} to {budgets[-1]}"
            lines.append(
                f"| {name.split()[0]} | {'yes' if random else 'no'} | {calls} | {first} | {', '.join(others)} |"
            )
    return [*lines, ""]


def curve(parts: Sequence[Part], path: Path) -> None:
    """Draw error against calls of a few samplers, on a diffusion of one block and on one of two."""
    groups = {
        part.sde: {
            e.label: [error if error < LOST else math.nan for error in e.errors]
            for e in part.entries
            if e.label in SHOWN[part.sde]
        }
        for part in main_parts(parts)
        if part.sde in SHOWN
    }
    plots.measures(groups, BUDGETS).save(path)


def _winners(parts: Sequence[Part], budgets: Sequence[int], random: bool) -> str:
    """How often a sampler is best or equal, of one block and of several, in the cells where it has a rival."""
    said = []
    for name, several in CLASSES:
        ranked, least = _ranked(parts, budgets, random, several)
        shown = ", ".join(f"`{label}` in {wins} of {measured}" for label, (wins, measured) in ranked.items())
        said.append(
            f"{name}: best or equal is {shown} cells where it is measured (median of the least errors {least:.3g})"
        )
    return _sentence(said)


def _ranked(
    parts: Sequence[Part], budgets: Sequence[int], random: bool, several: bool
) -> tuple[dict[str, tuple[int, int]], float]:
    """The three samplers most often best or equal -> (cells where they are, cells where they are measured); the median error."""
    rivalled = [p for p in parts if (p.blocks > 1) == several and rivals(p, random) > 1]
    cells = [(p, c) for p in rivalled for c in p.choices if c.budget in budgets and c.random == random]
    wins = Counter(e.label for _, c in cells for e in c.best)
    measured = {label: sum(label in labels(p, random) for p, _ in cells) for label in wins}
    order = sorted(wins, key=lambda label: (-wins[label] / measured[label], -wins[label], label))[:3]
    return {label: (wins[label], measured[label]) for label in order}, statistics.median(c.error for _, c in cells)


def labels(part: Part, random: bool) -> set[str]:
    """The samplers of a part, each of the twins named once."""
    return {e.label for e in part.entries if e.random == random and e.label not in part.twins}


def rivals(part: Part, random: bool) -> int:
    """How many there are."""
    return len(labels(part, random))


def _cholesky(parts: Sequence[Part]) -> str:
    """The two frames of the conjugate step, for each diffusion, and what wins over all."""
    said = []
    for part in parts:
        found = {e.label: e for e in part.entries}
        if part.network != CHOLESKY or not {OWN, TURNED} <= set(found):
            continue
        ratios = [a / b for a, b in zip(found[OWN].errors, found[TURNED].errors, strict=True)]
        wins = sum(found[TURNED] in c.best for c in part.choices if not c.random)
        said.append(
            f"on {part.sde} `{TURNED}` is best or equal at {wins} of {len(BUDGETS)} budgets, `{OWN}` in the network's own frame"
            f" has {_factor(min(ratios))} to {_factor(max(ratios))} times its error"
        )
    return _sentence(said)


def _own(parts: Sequence[Part]) -> str:
    """What is nearest to the best over all diffusions of a class, of the samplers that at least half of them have."""
    said = []
    for name, several in CLASSES:
        chosen = [p for p in parts if (p.blocks > 1) == several]
        for noise, words in ((False, "no noise"), (True, "noise")):
            ranked = sorted(means(chosen, noise).items(), key=lambda item: (item[1][0], item[0]))
            label, (mean, count) = ranked[0]
            size = f"{_factor(mean)} times the least error, a geometric mean over {count} diffusions"
            said.append(f"{name}, {words}: `{label}` ({size})")
    return _sentence(said) + " `stepsmith search` looks for samplers of your own diffusion."


def means(parts: Sequence[Part], random: bool) -> dict[str, tuple[float, int]]:
    """(geometric mean of error over least error, all budgets; how many diffusions have it) by sampler, where half of them do."""
    logs: dict[str, list[float]] = {}
    for part in parts:
        least = {c.budget: c.error for c in part.choices if c.random == random}
        for e in part.entries:
            if e.random == random and e.label not in part.twins:
                logs.setdefault(e.label, []).extend(
                    math.log(x / least[b]) for b, x in zip(BUDGETS, e.errors, strict=True) if b in least
                )
    have = {label: sum(label in labels(part, random) for part in parts) for label in logs}
    full = {label: v for label, v in logs.items() if v and 2 * have[label] >= len(parts)}
    return {label: (math.exp(statistics.fmean(v)), have[label]) for label, v in full.items()}


def _sentence(said: Iterable[str]) -> str:
    text = "; ".join(said)
    return text[:1].upper() + text[1:] + "."


def _list(budgets: Sequence[int]) -> str:
    return ", ".join(map(str, budgets))


def _factor(value: float) -> str:
    return "unboundedly many" if math.isinf(value) else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


ABOUT = [
    *f"""\
**The limits.** The data are Gaussian mixtures and Gaussians, the networks are their exact scores, and the arithmetic is
float64. No trained network, no images and no FID are involved. An error on this page is the error of the sampler alone.
A trained network adds its own error, which may be larger when there are many calls. Errors with noise and errors
without noise are different measures and cannot be compared.

**How it was measured** (measure/budgets.py). All modules of a diffusion make the same number of network calls, as
`module.nfe` counts them, on the same span and kind of grid. Runs go from effective sigma 160 (or the end of the
diffusion's span, if that is lower) down to 0.01 (or to 1% above the start of the span). The grid is quadratic in t for
several blocks and even in log sigma for one block, and there is no further call at the last time. Starts have the exact
law. *No noise*: the error is the median over 100 states of the distance to the exact probability flow, in the data
block, in standard deviations of the data. *Noise*: the error is the relative error of the variance plus the error of
the mean in standard deviations, for Gaussian data, computed without Monte Carlo. Each is measured on two problems: a
mixture in the plane and a mixture in eight dimensions drawn from a seed, or with noise a round Gaussian and a flat
Gaussian (variances 1, 0.1, 0.01). An error is the geometric mean over the two; the tables mention it if another sampler
is the best on one of them alone. A blurring diffusion is measured at one frequency, k2 = 0.01.

**How to read it.** Errors within {100 * (EQUAL - 1):.0f}% of the least count as equal. Among equals, the sampler with
fewer calls and draws a step, less history and fewer coefficients comes first. The factor is the next sampler's error
divided by the least. Orders are the proven orders of a run (weak orders with noise). Parameters have their defaults.
Samplers whose errors agree at every number of calls are listed once, under the simplest. Only modules of the catalogue
are compared. A sampler without a module for a diffusion was not measured there, and a cell with a single sampler is not
counted. `make docs` writes this page.
""".splitlines(),
    "",
]


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
    runner, factor = (f"`{c.runner.label}`", _factor(c.factor)) if c.runner else ("-", "-")
    cells = (str(c.budget), "yes" if c.random else "no", labels, f"{c.error:.3g}", runner, factor, reason(part, c))
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
            said.append(f"`{e.label}` {words} at {_list(found)}")
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
