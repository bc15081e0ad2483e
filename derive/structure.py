"""Whether the law of z_t has a density: without one there is no score, and nothing to sample with.

A covariance that is singular at one time after the start is singular at all times: a combination of the blocks that
neither the noise nor an initial variance ever reaches.  Named is the block, or said that the blocks move together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import flint
import sympy as sp

from stepsmith.errors import InputError, Unsupported

from .calculus import exact, t
from .point import Point

if TYPE_CHECKING:
    from .sde import LinearSDE

_PLACES = (sp.Rational(1, 4), sp.Rational(1, 2), sp.Rational(3, 4))  # of the span, where entries are looked at


def reached(couplings: sp.Matrix, rows: set[int]) -> set[int]:
    """The blocks that what stands on ``rows`` reaches through the couplings of a linear flow."""
    while grown := {i for i in range(couplings.shape[0]) if any(couplings[i, j] != 0 for j in rows)} - rows:
        rows = rows | grown
    return rows


def _defaults(sde: LinearSDE) -> dict[sp.Symbol, sp.Rational]:
    """The default parameters; 1 for a frequency and for the constant components."""
    ones = dict.fromkeys((*sde.constant, *filter(None, [sde.field])), 1.0)
    return {sp.Symbol(name, real=True): exact(value) for name, value in {**ones, **sde.params}.items()}


def check_values(where: str, sde: LinearSDE) -> None:
    """InputError for an entry without a real finite value inside the span, at the default parameters."""
    point = _defaults(sde)
    start, end = map(exact, sde.time)
    tables = {"F": (sde.F_let, sde.F), "G": (sde.G_let, sde.G), "offset": (sde.offset_let, sde.offset)}
    for place in _PLACES:
        at = Point({**point, t: start + place * (end - start)})
        for key, (_, entries) in tables.items():
            for k, e in enumerate(entries):
                value = at(e)
                if not (value.is_finite() and value.imag.contains(0) and abs(value).upper() < 1e308):
                    i, j = divmod(k, entries.shape[1])
                    what = (
                        f"has no real finite value at t = {float(start + place * (end - start)):.6g} and the defaults"
                    )
                    raise InputError(where, f"sde.{key}[{i}][{j}]", what, "mend the entry, the defaults or the span")
    at = Point(point)
    for name, e in zip(sde.state, sde.initial.diagonal(), strict=True):
        value = at(e)
        if not (value.is_finite() and value.imag.contains(0) and not value.real < 0):
            what = "is no variance at the defaults"
            raise InputError(where, f"sde.initial.{name}", what, "write one that is real and not negative")


def check_density(sde: LinearSDE) -> None:
    """InputError where Sigma_t is singular for all t, by the name of a block that nothing random reaches."""
    if sde.schedule is not None or sde.field:
        return
    random = {i for i in range(sde.n) if sde.initial[i, i] != 0}
    random |= {i for i in range(sde.n) if any(e != 0 for e in sde.GG.row(i))}
    still = set(range(sde.n)) - reached(sde.F, random)
    if still:
        names = " and ".join(sde.state[i] for i in sorted(still))
        what = f"no noise reaches {names}, so the law of z_t has no density and no score"
        raise InputError(sde.name, "sde.G", what, "add noise to the block, couple it, or give it an initial variance")
    if not _full(sde) and _singular(sde):
        what = "the covariance is singular for all t: a combination of the blocks stays without noise"
        raise InputError(sde.name, "sde.G", what, "give the noise one more independent column, or change a coupling")


def _full(sde: LinearSDE) -> bool:
    """Whether G G^T alone is positive definite, at the defaults in the middle of the span."""
    at = Point({**_defaults(sde), t: (exact(sde.time[0]) + exact(sde.time[1])) / 2})
    with flint.ctx.workprec(at.bits):
        noise = flint.acb_mat([[at(e) for e in row] for row in sde.GG.tolist()])
        return not noise.det().contains(0)


_verdicts: dict[object, bool] = {}


def _singular(sde: LinearSDE) -> bool:
    """Whether a pivot of Sigma_t is below 2^-200 of its variance in the middle of the span, at the defaults."""
    key = (sde.F, sde.GG, sde.initial, sde.time, tuple(sde.params.items()))
    if key not in _verdicts:
        if len(_verdicts) > 100:
            _verdicts.clear()
        _verdicts[key] = _small_pivot(sde)
    return _verdicts[key]


def _small_pivot(sde: LinearSDE) -> bool:
    try:
        law = sde.at().exact_covariance(sum(sde.time) / 2)
    except Unsupported:
        return False  # too stiff to be looked at
    with flint.ctx.workprec(400):
        rows = [list(row) for row in law]
        for k, row in enumerate(rows):
            if abs(row[k]).upper() <= law[k][k].upper() * flint.arb(2) ** -200:
                return True
            if row[k].contains(0):
                return False  # its digits do not tell
            for below in rows[k + 1 :]:
                factor = below[k] / row[k]
                below[:] = [a - factor * b for a, b in zip(below, row, strict=True)]
    return False
