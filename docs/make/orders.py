"""The page docs/orders.md: what measure/orders.py found of every module of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

from stepsmith.derive.describe import spelled
from stepsmith.measure.orders import GAP, OrderCheck

LEADING = 100  # characters of a leading error that a table can bear
INTRODUCTION = f"""\
# Proven and measured orders

`make docs` writes this page; do not edit it. The table at the end has a row for each module of the catalogue.

**The proof** expands the program of a step in the step size (derive/orders). **The measurement** runs the emitted
module (measure/slopes.py), without Monte Carlo. Deterministic modules start from 200 states of a Gaussian mixture in
two dimensions with its exact network, and are compared with the probability flow. For modules that draw noise, mean and
covariance are computed exactly on Gaussian data. Each module runs from effective sigma 2 to 0.6, once on a uniform grid
at the default parameters, and once on an uneven grid with every parameter changed by a tenth or more (lambda of a
conjugate sampler is 1). The number of steps N is doubled from 8 until the slope converges. The lower of the two slopes
is shown, and ~ marks a slope that has not converged. A slope more than {GAP} under the proven order fails `stepsmith
verify`; a slope above it does not, because a linear problem may hide an error.

**The columns.** The constant is the error on the uniform grid times N^order, in standard deviations. Samplers of the
same order are compared at equal network calls by the constant times calls^order. The module explains the symbols of the
leading error (exact minus numerical, of one step). It is left out for modules that draw noise, and for `unipc-3` it is
given for equal steps, because the general term fills a page.

**The assumptions** of a proof are a network as smooth as the order requires, an exact start, and bounded ratios of
neighbouring steps (proven for random rational ratios between 5/7 and 7/5). A run must also be zero-stable; otherwise
the order is "none", with the reason, such as "none (not zero-stable: root 3.0)". [What you can trust](trust.md)
explains the two meanings of strong order.

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
