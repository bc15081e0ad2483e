"""The page docs/orders.md: what measure/orders.py found of every module of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

from stepsmith.derive.describe import spelled
from stepsmith.measure.orders import GAP, OrderCheck

LEADING = 100  # characters of a leading error that a table can bear
INTRODUCTION = f"""\
# Proven and measured orders

Written by `make docs`; do not edit. The proof expands the program in the step (derive/orders). The measurement runs
the emitted module (measure/slopes.py), without Monte Carlo: deterministic modules from 200 states of a Gaussian
mixture in two dimensions with its exact network, against the probability flow; modules that draw noise by the exact
recursion of mean and covariance on Gaussian data. Each runs from effective sigma 2 to 0.6, on a uniform grid at the
default parameters and on an uneven one with every parameter changed by a tenth or more (lambda of a conjugate sampler
is 1). N is doubled from 8 until the slope converges; the lower slope is shown, and ~ marks one that has not
converged. A slope more than {GAP} under its proof fails `stepsmith verify`; one above it does not, because a linear
problem may hide an error. The constant is the error of the uniform grid times N^order, in standard deviations:
samplers of one order compare at equal calls by constant times calls^order. The leading error (exact minus numerical,
of one step) is explained in the module; it is left out for modules that draw noise, and that of `unipc-3` is said for
equal steps, as the term of any steps fills a page.

What a proof assumes, in this table and everywhere: a network as smooth as the order asks, an exact start, steps whose
ratios to their neighbours stay bounded (proven for random rational ratios between 5/7 and 7/5), a run that is zero-stable.
Where it is not, the order is none, with the reason: "none (not zero-stable: root 3.0)". Strong order has two meanings. A
module's STRONG_ORDER is that of the best coupling of its draws with the Brownian path; where the draws are to be the
increments of the path, it is 1 at most unless the exact solution does without the path's integral, and the module says so.

| module | kind | proven | measured | calls | draws | constant | leading error |
|---|---|---|---|---|---|---|---|
"""


def page(checks: Iterable[OrderCheck]) -> str:
    """All of the page, one line a module."""
    rows = sorted(checks, key=lambda check: (check.kind, check.name))
    return INTRODUCTION + "".join(f"{line(check)}\n" for check in rows)


def line(check: OrderCheck) -> str:
    """A module as a row of the table."""
    terms = ", ".join(check.leading)
    leading = "" if not check.leading else f"`{terms}`" if len(terms) <= LEADING else "in the module"
    measured = f"{check.measured:.2f}{'' if check.converged else '~'}"
    cells = (
        check.name,
        check.kind,
        spelled(check.proven, check.reason),
        measured,
        str(check.nfe),
        str(check.draws),
        f"{check.constant:.2g}",
        leading,
    )
    return f"| {' | '.join(cells)} |"
