"""Whether the law of z_t has a density: without one there is no score, and nothing to sample with.

A covariance that is singular at one time after the start is singular at all times: a combination of the blocks that
neither the noise nor an initial variance ever reaches.  Named is the block, or said that the blocks move together.
"""

from __future__ import annotations

from typing import Any

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.calculus import exact, t
from ..maths.point import Point
from .equations import Equations, coupled
from .numeric import NumericSDE
from .smooth import FINE, defaults, rough, sudden, tables

_PLACES = (sp.Rational(1, 4), sp.Rational(1, 2), sp.Rational(3, 4))  # of the span, where entries are looked at
LARGE, SMALL = 1e60, 1e-15  # of an entry, and of the largest one of the noise: their squares must differ from 0 and inf


def check_values(where: str, sde: Equations) -> None:
    """InputError for an entry without a real finite value, or one that is not smooth, inside the span, at the defaults."""
    point, (start, end) = defaults(sde), map(exact, sde.time)
    places = [Point({**point, t: start + place * (end - start)}) for place in _PLACES]
    for key, entries in (("F", sde.F), ("G", sde.G), ("offset", sde.offset)):
        for k, e in enumerate(entries):
            here = f"sde.{key}[{k // entries.shape[1]}][{k % entries.shape[1]}]"
            for place, at in zip(_PLACES, places, strict=True):
                _check_value(where, here, at(e), f"at t = {float(start + place * (end - start)):.6g} and the defaults")
    if sde.schedule is not None and not all(at(sde.written_out(sde.schedule[1])).real > 0 for at in places):
        what = "is not positive inside the span, at the defaults"
        raise InputError(where, "sde.sigma", what, "write a standard deviation")
    _check_smooth(where, sde)
    at = Point(point)
    for name, e in zip(sde.state, sde.initial.diagonal(), strict=True):
        value = at(e)
        if not (value.is_finite() and value.imag.contains(0) and not value.real < 0 and value.real < LARGE):
            what = "is no variance at the defaults"
            raise InputError(where, f"sde.initial.{name}", what, "write one that is real and not negative")
    noise = [abs(at(e)).upper() for at in places for e in sde.G]
    if noise and 0 < max(noise) < SMALL:
        raise InputError(where, "sde.G", f"no entry passes {SMALL:g} at the defaults", "rescale the state or the time")


def _check_value(where: str, key: str, value: Any, place: str) -> None:
    if not (value.is_finite() and value.imag.contains(0) and abs(value).upper() < 1e308):
        raise InputError(where, key, f"has no real finite value {place}", "fix the entry, the defaults or the span")
    if not abs(value).upper() < LARGE:
        raise InputError(where, key, f"passes {LARGE:g} {place}", "rescale the state or the time")


def _check_smooth(where: str, sde: Equations) -> None:
    """InputError where an entry has no value, or is rough; not at the ends of the span, where a schedule may be singular."""
    low, high = sde.time
    entries = {"F": sde.F, "offset": sde.offset, "G G^T": sde.GG}
    for key, table in tables(sde, FINE):
        for i, row in enumerate(table):
            for j, values in enumerate(row):
                bad = np.flatnonzero(rough(values, 1e300 if key == "G" else 1e-9)[1:-1])  # G itself may turn its sign
                time = low + (high - low) * (bad[0] + 1.5) / FINE if len(bad) else None
                if time is None and key in entries:
                    time = sudden(sde, entries[key][i, j], float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
                if time is not None:
                    what = f"is not smooth near t = {time:.3g} at the defaults: a pole, a kink, or too fast a change"
                    place = f"sde.G[{i}]" if key == "G G^T" else f"sde.{key}[{i}][{j}]"
                    raise InputError(where, place, what, "write it smoother, or end the span before")


def check_density(sde: Equations) -> None:
    """InputError where Sigma_t is singular for all t, by the name of a block that nothing random reaches."""
    if sde.schedule is not None or sde.field:
        return
    random = {i for i in range(sde.n) if sde.initial[i, i] != 0}
    random |= {i for i in range(sde.n) if any(e != 0 for e in sde.GG.row(i))}
    still = set(range(sde.n)) - coupled(sde.F, random)
    if still:
        names = " and ".join(sde.state[i] for i in sorted(still))
        what = f"no noise reaches {names}, so the law of z_t has no density and no score"
        raise InputError(sde.name, "sde.G", what, "add noise to the block, couple it, or give it an initial variance")
    if not _full(sde) and _singular(sde):
        what = "the covariance is singular for all t: a combination of the blocks stays without noise"
        raise InputError(sde.name, "sde.G", what, "give the noise one more independent column, or change a coupling")


def _full(sde: Equations) -> bool:
    """Whether G G^T alone is positive definite, at the defaults in the middle of the span."""
    at = Point({**defaults(sde), t: (exact(sde.time[0]) + exact(sde.time[1])) / 2})
    with flint.ctx.workprec(at.bits):
        noise = flint.acb_mat([[at(e) for e in row] for row in sde.GG.tolist()])
        return not noise.det().contains(0)


_verdicts: dict[object, bool] = {}


def _singular(sde: Equations) -> bool:
    """Whether a pivot of Sigma_t is below 2^-200 of its variance in the middle of the span, at the defaults."""
    key = (sde.F, sde.GG, sde.initial, sde.time, tuple(sde.params.items()))
    if key not in _verdicts:
        if len(_verdicts) > 100:
            _verdicts.clear()
        _verdicts[key] = _small_pivot(sde)
    return _verdicts[key]


def _small_pivot(sde: Equations) -> bool:
    try:
        law = NumericSDE(sde, sde.params).exact_covariance(sum(sde.time) / 2)
    except Unsupported:
        return False  # too stiff to be looked at
    with flint.ctx.workprec(400):
        rows = [list(row) for row in law]
        for k, row in enumerate(rows):
            if abs(row[k]).upper() <= law[k][k].upper() * flint.arb(2) ** -200:
                return True
            if row[k].contains(0):
                return False  # its digits do not show it
            for below in rows[k + 1 :]:
                factor = below[k] / row[k]
                below[:] = [a - factor * b for a, b in zip(below, row, strict=True)]
    return False
