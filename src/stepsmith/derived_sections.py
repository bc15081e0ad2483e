"""The sections of a report that are derived: the mathematics of a diffusion, its law, a sampler with its orders and errors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from sympy import Symbol

from stepsmith import plots
from stepsmith.derive import describe, formulas, report
from stepsmith.derive.maths.notation import latex
from stepsmith.derive.orders.size import SIGMA, sizes
from stepsmith.errors import Unsupported
from stepsmith.templates.report import Block, Code, Math, Picture, Table, Text

LONGEST = 3000  # characters of an error term that is shown
VARIANCE = 0.25  # of the Gaussian data of sizes and stability


def diffusion(sde: Any) -> Iterator[Block]:
    """The mathematics of the diffusion."""
    parts = report.report(sde)
    for (maths, text), alike in itertools.groupby(parts, lambda part: (part.latex, "" if part.latex else part.text)):
        headings = _listed([part.heading for part in alike])
        yield Text(f"{headings}:" if maths else f"{headings}: {text}.")
        yield from map(Math, maths.splitlines())
    if any("C_{" in part.latex for part in parts):
        yield Text("C_k stands for these entire functions, which cover weak, critical and strong damping in one formula:")
        yield Math(r"C_{k}(x) = {}_0F_1\left(; k + \frac{1}{2}; \frac{x}{4}\right)")
        yield Math(r"C_{0}(x^2) = \cosh x,\quad C_{1}(x^2) = \frac{\sinh x}{x}")
    rows = tuple((name, Math(latex(Symbol(name), sde.latex)), f"{value:g}") for name, value in sde.params.items())
    if rows:
        yield Table(("parameter", "in formulas", "default"), rows)


def _listed(headings: list[str]) -> str:
    """Headings in a sentence: the first as it is, the others small."""
    *before, last = [headings[0], *(heading[:1].lower() + heading[1:] for heading in headings[1:])]
    return f"{', '.join(before)} and {last}" if before else last


def law(sde: Any) -> Iterator[Block]:
    if sde.field:
        yield Text(f"Drawn for the frequency {sde.field} = {sde.at().params[sde.field]:g}.")
    yield picture("law", plots.law(sde))


def sampler(method: Any) -> Iterator[Block]:
    """Rule, cost, orders and leading error of a sampler."""
    own = method.sampler
    yield Text(f"{method.title}{f' Source: {own.reference}.' if own.reference else ''}")
    if own.composition:
        yield Code(own.text)
        yield Text(f"A letter is a part, below; {describe.marks(method.sampler.text).removeprefix('where ')}.")
    rule = formulas.rule(method)
    yield from map(Math, rule)
    if not rule:
        yield Code("\n".join(describe.update_rule(method)))
    yield Text(f"{describe.cost(method)} {describe.claims(method)} {describe.ASSUMED}")
    terms = method.local_error or ()
    if not terms and not method.random:
        yield Text(describe.NO_FORMULA)
    if terms:
        yield Text(
            "The leading local error of a step of length h, exact minus numerical. A dot is a rate in reverse time, an index "
            "behind a comma a partial derivative, s the score, a prime a derivative in t:"
        )
    for term in terms:
        yield shown(term)
    if terms:
        yield Text("The symbols, as the command stepsmith error writes them:")
        yield Code("\n".join(terms[0].where))
        yield from size(method)


def shown(term: Any) -> Block:
    """An error term: a formula, the lines of a long one, the length of one that no page holds."""
    text = str(term)
    if len(text) <= describe.MOST:
        return Math(term.latex())
    return Code(text if len(text) <= LONGEST else f"e_{term.block} has {len(text)} characters: stepsmith error prints it")


def size(method: Any) -> Iterator[Block]:
    """The size of the leading error at the defaults, where it is derived."""
    try:
        t0, found = sizes(method, VARIANCE)
    except (Unsupported, np.linalg.LinAlgError):
        yield Text("Its size at the default parameters is not derived for this diffusion and network.")
        return
    power, step = method.step_order + 1, (float(method.sde.time[1]) - float(method.sde.time[0])) / 50
    yield Text(
        f"Its size at the default parameters, on data N(0, {VARIANCE:g}), from t = {t0:.3g}, where the effective sigma is "
        f"{SIGMA:g}: the root mean square in standard deviations of the block, h the step in t."
    )
    rows = tuple(
        (term.block, f"{e:.3g} h^{power}", f"{e * step**power:.2g}")
        for term, e in zip(method.local_error, found, strict=True)
        if term.coefficient != 0  # of higher order
    )
    yield Table(("block", "size", f"at h = {step:g}"), rows)


def picture(name: str, plot: plots.Plot) -> Picture:
    return Picture(name, plot.alt, plot.png())
