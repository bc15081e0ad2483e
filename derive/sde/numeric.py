"""The numeric view of a linear SDE: any number of blocks, any F(t), to far more digits than float64 holds.

Psi and Sigma come from their Taylor series at a chain of centres a_0 = time[0] < a_1 < ..., in ball arithmetic (Arb):

    Psi' = F Psi,   Sigma' = F Sigma + Sigma F^T + G G^T,   (k + 1) c_{k+1} = sum_j F_j c_{k-j} + ...

Starting at time[0] keeps the relative size of small entries, which an error control in a norm would lose.  The panels
are cut where the last kept terms fall below 2^-accuracy; balls bound rounding, and a second setting (terms, precision)
bounds truncation (tests/test_numeric.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import flint
import numpy as np
import sympy as sp

from stepsmith.errors import InputError, Unsupported

from ..maths.balls import SHORTEN, STIFF, Flow, arb, eye, floats, inverse, joined, linear, series_of, term, terms_of
from ..maths.budget import within
from ..maths.matrix import Matrix, add, factor, mul, solve, sub, transpose
from .equations import Equations
from .smooth import panels

PRECISION = 400  # bits carried
ACCURACY = 260  # bits to which a panel's series is summed
TERMS = 96
DIGITS = 60  # bits that a covariance must keep


@dataclass(frozen=True)
class NumericSDE:
    """An SDE at given parameter values; arguments and results are float64, the work between is not.

    ``transition(t, s)`` -> (n, n), ``covariance(t)`` -> (n, n), ``factor(t, kind)`` -> (n, n) with factor @ factor.T =
    covariance, ``effective_sigma(t)`` -> array like t.  Times must lie in the span of the SDE, or beyond it where it is open.
    """

    sde: Equations
    params: Mapping[str, float]
    terms: int = TERMS
    precision: int = PRECISION
    accuracy: int = ACCURACY

    @cached_property
    def _values(self) -> dict[sp.Symbol, Any]:
        return {self.sde.symbols[name]: arb(value) for name, value in self.params.items()}

    def jets(self, entries: sp.Matrix, centre: Any, terms: int | None = None) -> Matrix:
        """Taylor series of the entries of a matrix of expressions, at ``centre``."""
        return series_of(entries, self._values, centre, terms or self.terms)

    def flow(self, start: Any, initial: Matrix, series: Callable[[Any, Matrix], list[Matrix]]) -> Flow:
        return Flow(start, initial, series, self.accuracy, self._widest)

    @cached_property
    def _widest(self) -> float:
        """Of a panel: the last terms of a series tell nothing of a change that begins behind them."""
        low, high = self.sde.time
        own = {name: value for name, value in self.params.items() if name in self.sde.params}
        return (high - low) / panels(replace(self.sde, params=own))

    def _psi_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        return linear(value, self.terms, L=self.jets(self.sde.F, centre))

    def _sigma_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        F = self.jets(self.sde.F, centre)
        return linear(value, self.terms, L=F, M=transpose(F), N=self.jets(self.sde.GG, centre))

    def _offset_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        drift = self.jets(self.sde.written_out(self.sde.offset_terms_let), centre)
        return linear(value, self.terms, L=self.jets(self.sde.F, centre), N=drift)

    @cached_property
    def flows(self) -> tuple[Flow, Flow, Flow]:
        """Psi(t, start), Sigma and o(t, start), each followed from the start of the span."""
        with flint.ctx.workprec(self.precision):
            start = arb(self.sde.time[0])
            initial = term(self.jets(self.sde.initial, start, 1), 0)
            zero = [[flint.arb(0)] * (len(self.sde.constant) + 1) for _ in range(self.sde.n)]
        return (
            self.flow(start, eye(self.sde.n), self._psi_series),
            self.flow(start, initial, self._sigma_series),
            self.flow(start, zero, self._offset_series),
        )

    def _checked(self, time: float) -> float:
        low, high = self.sde.time
        if not low <= time <= (math.inf if self.sde.open else high):
            what = f"{time!r} lies outside the span [{low}, {high}]"
            raise InputError(self.sde.name, "t", what, "choose a time in the span")
        return float(time)

    def exact_transition(self, upper: float, lower: float) -> Matrix:
        """Psi(upper, lower) as balls of ``precision`` bits."""
        with flint.ctx.workprec(self.precision):
            psi = self.flows[0]
            up = psi.value(arb(self._checked(upper)))
            return up if lower == self.sde.time[0] else mul(up, inverse(psi.value(arb(self._checked(lower)))))

    def exact_covariance(self, time: float) -> Matrix:
        """Sigma as balls of ``precision`` bits.  Raises Unsupported where it is none: beyond a pole of F, for example."""
        with flint.ctx.workprec(self.precision):
            sigma = self.flows[1].value(arb(self._checked(time)))
        diagonal = [row[i] for i, row in enumerate(sigma)]
        if any(not e.is_finite() or (not e.is_zero() and e.rel_accuracy_bits() < DIGITS) for e in diagonal):
            what = f"the covariance of {self.sde.name} has lost its digits at t = {time}: its rates are {STIFF}"
            raise Unsupported(what, SHORTEN)
        if any(e.mid() < 0 for e in diagonal):
            why = f"an entry of F or G is singular before, or rates are {STIFF}"
            what = f"there is no covariance of {self.sde.name} at t = {time}: {why}"
            raise Unsupported(what, "end the time span before the singularity, or shorten it")
        return sigma

    def exact_offset(self, upper: float, lower: float) -> Matrix:
        """o(upper, lower), n x (m + 1), as balls of ``precision`` bits."""
        with flint.ctx.workprec(self.precision):
            flow = self.flows[2]
            up, low = (flow.value(arb(self._checked(time))) for time in (upper, lower))
            return sub(up, mul(self.exact_transition(upper, lower), low))

    @within("the numeric offset")
    def offset(self, t: float, s: float) -> np.ndarray:
        """o(t, s) of z_t = Psi z_s + o + noise, float64 (n, m + 1): what multiplies the m constant components and 1."""
        return self._in_float64("the offset", t, lambda: self.exact_offset(t, s))

    @within("the numeric transition")
    def transition(self, t: float, s: float) -> np.ndarray:
        """Psi(t, s), float64 (n, n); t < s is allowed."""
        return self._in_float64("the transition", t, lambda: self.exact_transition(t, s))

    @within("the numeric covariance")
    def covariance(self, t: float) -> np.ndarray:
        """Sigma_t, float64 (n, n)."""
        return self._in_float64("the covariance", t, lambda: self.exact_covariance(t))

    @within("the numeric factor")
    def factor(self, t: float, kind: str = "lower", end: float = 1e-3) -> np.ndarray:
        """A factor of Sigma_t: ``lower`` or ``upper`` Cholesky, or ``gddim``, R' = (F + G G^T Sigma^-1 / 2) R.

        R is anchored by R = lower Cholesky at the data end ``end`` of the grid (O = I there).
        """
        kinds = {
            "lower": lambda: factor(self.exact_covariance(t)),
            "upper": lambda: factor(self.exact_covariance(t), upper=True),
            "gddim": lambda: self.rotation(arb(self._checked(end)), arb(self._checked(t))),
        }
        if kind not in kinds:
            raise InputError(self.sde.name, "kind", f"no factor {kind!r}", "choose lower, upper or gddim")
        with flint.ctx.workprec(self.precision):
            return self._in_float64(f"the {kind} factor of the covariance", t, kinds[kind])

    def _in_float64(self, what: str, time: float, make: Callable[[], Matrix]) -> np.ndarray:
        """In float64; Unsupported where Arb meets a singular matrix, a lost digit or a number that float64 cannot hold."""
        try:
            entries = floats(make())
        except InputError:
            raise
        except (ValueError, ZeroDivisionError):
            entries = np.full(1, np.nan)
        if not np.isfinite(entries).all():
            why = "it is singular, has lost its digits or is too large for float64"
            raise Unsupported(f"{what} of {self.sde.name} at t = {time} cannot be computed: {why}", SHORTEN)
        return entries

    @cached_property
    def _turns(self) -> dict[tuple[str, bool], Flow]:
        return {}

    def rotation(self, end: Any, time: Any) -> Matrix:
        """gDDIM's R = L O at a time, in balls: L the lower Cholesky factor of Sigma, O orthogonal, O = I at ``end``.

        Raises Unsupported where O is orthogonal to fewer than 60 bits.
        """
        side = (end.str(60), bool(time >= end))  # a flow runs one way from its start
        if side not in self._turns:
            self._turns[side] = self.flow(end, eye(self.sde.n), self._rotation_series)
        turn = self._turns[side].value(time)
        for i, row in enumerate(mul(turn, transpose(turn))):
            if not all(abs(e - int(i == j)) < 2.0**-60 for j, e in enumerate(row)):
                ends = (float(ball.mid()) for ball in (end, time))
                what = "R anchored at t = {} has lost its digits at t = {}".format(*ends)
                raise Unsupported(what, "anchor it nearer: end=...")
        return mul(factor(self.flows[1].value(time)), turn)

    def _rotation_series(self, centre: Any, value: Matrix) -> list[Matrix]:
        """Series of O from O' = (L^-1 (F L - L') + g g^T / 2) O, g = L^-1 G; what multiplies O is skew.

        A panel starts from the midpoints: carried over many panels the balls would grow.
        """
        with terms_of(self.terms):
            L = factor(joined(self._sigma_series(centre, self.flows[1].value(centre))))
            F, G = self.jets(self.sde.F, centre), self.jets(self.sde.GG, centre)
            Z = solve(L)
            noise = mul(mul(Z, G), transpose(Z))
            carried = mul(Z, add(mul(F, L), [[-e.derivative() for e in row] for row in L]))
            n = range(self.sde.n)
            below = [[noise[i][j] / 2 + carried[i][j] if j < i else noise[0][0] * 0 for j in n] for i in n]
            turn = sub(below, transpose(below))
            return linear([[e.mid() for e in row] for row in value], self.terms - 1, L=turn)

    def rates(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F (n, n), what the offset multiplies the constant components and 1 with (n, m + 1), and G G^T (n, n), at t."""
        with flint.ctx.workprec(self.precision):
            entries = (self.sde.F, self.sde.written_out(self.sde.offset_terms_let), self.sde.GG)
            F, source, V = (floats(term(self.jets(M, arb(self._checked(t)), 1), 0)) for M in entries)
        return F, source, V

    @within("the effective sigma")
    def effective_sigma(self, t: Any) -> np.ndarray:
        """The standard deviation of the best linear unbiased estimate of the data: (e^T Psi^T Sigma^-1 Psi e)^(-1/2).

        For one block it is sigma / alpha.  Strictly increasing in t; raises Unsupported for more than one data block.
        """
        if len(self.sde.data) != 1:
            what = f"{self.sde.name} has {len(self.sde.data)} data blocks"
            raise Unsupported(what, "the effective sigma needs exactly one")
        times = np.asarray(t, dtype=np.float64)
        each = (self._in_float64("the effective sigma", v, partial(self._effective, v)) for v in times.ravel().tolist())
        return np.array(list(each)).reshape(times.shape)

    def _effective(self, time: float) -> Matrix:
        with flint.ctx.workprec(self.precision):
            if self.sde.schedule is not None:
                pair = sp.Matrix([self.sde.written_out(e) for e in self.sde.schedule])
                alpha, sigma = (row[0] for row in term(self.jets(pair, arb(self._checked(time)), 1), 0))
                if alpha.contains(0):
                    what = f"alpha of {self.sde.name} is 0 at t = {time}, where the effective sigma is infinite"
                    raise Unsupported(what, "start earlier, or take a grid in t, such as uniform")
                return [[sigma / alpha]]
            column = [[row[self.sde.data[0]]] for row in self.exact_transition(time, self.sde.time[0])]
            weight = mul(transpose(column), mul(inverse(self.exact_covariance(time)), column))[0][0]
            size = (1 / weight).sqrt()
            return [[-size if self.sde.n == 1 and column[0][0] < 0 else size]]
