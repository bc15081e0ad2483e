"""The leading local error of a deterministic method, in the variables that suit its family.

    splitting, runge-kutta on the score    the drifts and the partial derivatives of the score (symbolic.py)
    conjugate, conjugate-splitting         the frozen output n and its derivatives in z and t (conjugate.py)
    adams                                  the derivatives of the interpolated quantity in its clock (clock.py)
    lines of text on x0 or eps, one block  the derivatives of the data prediction D in lambda = log(alpha/sigma) (prediction.py)

The terms are held to the expansion of the program at random points at each call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..maths.notation import derivatives
from ..sampler.network import kind_of
from ..spec.formula import ONE_BLOCK
from .clock import by_clock
from .conjugate import by_frame, frame_of, kicks
from .prediction import by_data
from .rings import IrrationalError
from .symbolic import ErrorTerm, by_drift

MOST_CALLS = 8  # of a step whose error is written in symbols


def leading_error(method: Any, order: int) -> tuple[ErrorTerm, ...] | None:
    """One ErrorTerm a block for a method whose common step has this order; None where no closed form is written for it."""
    sde, terms = method.sde, _leading_error(method, order)
    if terms is None:
        return None
    symbols = {symbol.name for term in terms for symbol in term.coefficient.free_symbols}
    outputs = kind_of(frame_of(method)).outputs(sde)
    names = {**derivatives(symbols, sde.state, sde.let, sde.latex, outputs), **sde.latex}
    return tuple(replace(term, names=names) for term in terms)


def _leading_error(method: Any, order: int) -> tuple[ErrorTerm, ...] | None:
    family, formula = method.sampler.family, method.sampler.formula
    if order < 1 or method.nfe > MOST_CALLS:  # not consistent, or too long to be written down
        return None
    if family.startswith("conjugate"):
        steps = kicks(method)
        return by_frame(method, steps) if steps and order == 1 else None
    if family == "adams":
        return by_clock(method, order)
    try:
        if formula is not None and formula.words & set(ONE_BLOCK):
            return by_data(method, order + 1)
        if family in ("splitting", "runge-kutta") and order <= 2:
            return by_drift(method, lambda sde: method.on(sde, "score"), order + 1)
    except (IrrationalError, ZeroDivisionError):  # abs(h), which costs more terms than there are
        return None
    return None
