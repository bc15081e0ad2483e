"""The page docs/which.md: the answers, counted from what which.py measured and docs/which-tables.md holds."""

from __future__ import annotations

import math
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import defaults
from which import BUDGETS, CHOLESKY, EQUAL, LOST, Part, main_parts

from stepsmith import plots

FEW, MANY = (5, 10), (50, 100)
CLASSES = (("one block", False), ("several blocks", True))
OWN, TURNED = "conjugate", "conjugate in eps-R"
CURVE = "which-curve.svg"


def page(parts: Sequence[Part]) -> str:
    """The answers, the pictures, and how they were found."""
    main = list(main_parts(parts))
    return "\n".join([*TITLE, *trained(), *EXACT, *answers(main), *PICTURE, *head(parts), *ABOUT, ""])


TITLE = """\
# Which sampler, when

Without noise take the sampler and the grid of your row; `stepsmith sample` does so where no sampler is named. *Blocks* are the
parts of the state: VP has one (the data) and PSLD two (the data and a momentum). On your own network,
`stepsmith bench --network` compares samplers, and [`stepsmith tune`](tune.md) makes one for it. [Words](concepts.md#words)
explains the grids; between two rows take the nearer one.

```
stepsmith sample --sde vp --network digits --nfe 10 --sampler unipc-3 --grid asinh --out digits.png
```
""".splitlines()
EXACT = f"""\

![Error against network calls with trained networks, on VP and on PSLD](pictures/{defaults.CURVE})

**Trained networks.** The errors are geometric means over three networks of images (`digits`, `fashion`, `galaxies`) and a mixture
in the plane: the root of the mean times the median over the paths of the distance to the end of the network's own probability
flow, in standard deviations of the data. The networks run on VP and on PSLD. Each sampler has its default parameters and the best
of three grids in sigma, which every diffusion has: even in log sigma, `tan` and `asinh`. With few calls the grid matters more
than the order.

**Exact problems**, for samplers with noise and for other diffusions. The whole catalogue was measured with exact networks of
mixtures and Gaussians, on one kind of grid, where other samplers may be the best. The first comes before the others:
""".splitlines()
SHOWN = {
    "vp": ("ddim", "dpmpp-2m", "unipc-3", "adams-3"),
    "psld": ("conjugate", "rvv", "rvv2", "adams-3", "adams-3-gaussian-skew"),
}
PICTURE = (
    f"![Error against network calls of samplers without noise, on VP and on PSLD](pictures/{CURVE})",
    "",
    "*Errors against the exact probability flow, in standard deviations of the data.*",
    "",
    "**What the table counts.** A cell of [the tables](which-tables.md) is one diffusion at one number of calls. The rank of a",
    "sampler is the share of the cells where it was measured in which it is the best or equal to the best.",
    "",
)


def head(parts: Sequence[Part]) -> list[str]:
    """The five answers."""
    main = list(main_parts(parts))
    return [
        f"1. **Few calls ({listed(FEW)}), no noise.** {_winners(main, FEW, False)}",
        f"2. **Many calls ({listed(MANY)}), no noise.** {_winners(main, MANY, False)}",
        f"3. **With noise ({BUDGETS[0]} to {BUDGETS[-1]} calls).** {_winners(main, BUDGETS, True)}",
        f"4. **A network trained with a Cholesky factor.** {_cholesky(parts)}",
        f"5. **A diffusion of your own, where those of the first table are not derived.** {_own(main)}",
        "",
    ]


def trained() -> list[str]:
    """The table of the first screen, which is what ``stepsmith sample`` reads."""
    known = tomllib.loads(Path(defaults.PLACE).read_text(encoding="utf-8"))
    lines = ["", "| blocks | network calls | sampler | grid | error | next | its error |", "|---|---|---|---|---|---|---|"]
    for name in ("one", "several"):
        for row in known[name]:
            (sampler, grid), error = row["next"], row["error"]
            cells = (name, str(row["calls"]), f"`{row['sampler']}`", row["grid"], f"{error:.2g}")
            lines.append(f"| {' | '.join(cells)} | `{sampler}`, {grid} | {error * row['factor']:.2g} |")
    return lines


def answers(parts: Sequence[Part]) -> list[str]:
    """The table of exact problems: the three samplers of each case that are most often the best."""
    lines = ["| blocks | noise | network calls | take | or |", "|---|---|---|---|---|"]
    for name, several in CLASSES:
        for budgets, random in ((FEW, False), (MANY, False), (BUDGETS, True)):
            first, *others = (f"`{label}`" for label in _ranked(parts, budgets, random, several)[0])
            calls = f"{budgets[0]} to {budgets[-1]}"
            lines.append(
                f"| {name.split()[0]} | {'yes' if random else 'no'} | {calls} | {first} | {', '.join(others)} |"
            )
    return ["", *lines, ""]


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
            f" has {factor(min(ratios))} to {factor(max(ratios))} times its error"
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
            size = f"{factor(mean)} times the least error, a geometric mean over {count} diffusions"
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


def listed(budgets: Sequence[int]) -> str:
    """Numbers with commas between."""
    return ", ".join(map(str, budgets))


def factor(value: float) -> str:
    """A ratio in two or three digits."""
    return "unboundedly many" if math.isinf(value) else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


ABOUT = [
    *f"""\
**The limits.** An error on this page is the error of the sampler alone, against the exact flow of the same network: no FID is
involved. A trained network adds its own error, which may be larger when there are many calls. Errors with noise and
errors without noise are different measures and cannot be compared.

**How the exact problems were measured** (measure/budgets.py). The data are Gaussian mixtures and Gaussians, the networks are
their exact scores, and the arithmetic is float64. All modules of a diffusion make the same number of network calls, as
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
counted. `make docs` writes this page, and `python docs/make defaults` its first table.
""".splitlines(),
    "",
]
