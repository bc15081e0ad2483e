"""What is proven of a diffusion before its samplers are emitted: that its kernel solves the equations that define it.

    d Psi(t, s)/dt = F Psi,  Psi(s, s) = I;   d Sigma/dt = F Sigma + Sigma F^T + G G^T,  Sigma(start) = diag(initial);
    F S + S F^T + G G^T = 0 for the stationary law S

In SymPy where there is a closed form: exactly, or at random rational points to 50 digits (calculus.is_zero).  Else on the
balls of the numeric view, at random times: the slope of what it returns is what the equation says, to 45 digits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flint
import sympy as sp

from stepsmith.errors import Unsupported

from ..maths.balls import arb, size, term
from ..maths.calculus import exact, is_zero_matrix, s, t
from ..maths.matrix import Matrix, add, mul, scaled, sub, transpose
from ..sde.closed import stationary_words
from ..sde.linear import LinearSDE

GAP = flint.arb(2) ** -100  # between the times of a central difference
SMALL = 2.0**-150  # what its second order may leave


@dataclass(frozen=True)
class Proof:
    """A claim, how it was held, and whether it holds."""

    claim: str
    how: str
    holds: bool


def prove(sde: LinearSDE) -> tuple[Proof, ...]:
    """The proofs of the module docstring for one diffusion; the parts of a splitting are proven to sum when it is bound."""
    try:
        psi, sigma = sde.transition(t, s), sde.covariance(t)
    except Unsupported:
        kernel: tuple[Proof, ...] = tuple(_on_balls(sde))
    else:
        kernel = tuple(_in_symbols(sde, psi, sigma))
    return (*kernel, *_at_rest(sde))


def _in_symbols(sde: LinearSDE, psi: sp.Matrix, sigma: sp.Matrix) -> Iterator[Proof]:
    start = exact(sde.time[0])
    transported = is_zero_matrix(psi.diff(t) - sde.F * psi) and is_zero_matrix(psi.subs(t, s) - sp.eye(sde.n))
    yield Proof("Psi' = F Psi, Psi(s, s) = I", "SymPy", transported)
    lyapunov = sigma.diff(t) - sde.F * sigma - sigma * sde.F.T - sde.GG
    begun = is_zero_matrix(sigma.subs(t, start) - sde.initial)
    yield Proof("Sigma' = F Sigma + Sigma F^T + G G^T", "SymPy", is_zero_matrix(lyapunov) and begun)


def _on_balls(sde: LinearSDE) -> Iterator[Proof]:
    view, rng = sde.at(), random.Random(0)
    low, high = sde.time
    transported, lyapunov = True, True
    with flint.ctx.workprec(view.precision):
        psi, sigma, _ = view.flows
        for _ in range(3):
            time = arb(low + (high - low) * rng.uniform(0.05, 0.95))
            F, V = (term(view.jets(M, time, 1), 0) for M in (sde.F, sde.GG))
            transported &= _small(_slope(psi.value, time), mul(F, psi.value(time)))
            half = mul(F, sigma.value(time))
            lyapunov &= _small(_slope(sigma.value, time), add(add(half, transpose(half)), V))
    yield Proof("Psi' = F Psi, Psi(s, s) = I", "balls", transported)
    yield Proof("Sigma' = F Sigma + Sigma F^T + G G^T", "balls", lyapunov)


def _slope(value: Any, time: Any) -> Matrix:
    return scaled(sub(value(time + GAP), value(time - GAP)), 1 / (2 * GAP))


def _small(A: Matrix, B: Matrix) -> bool:
    gap, scale = size(sub(A, B)), size(B) or flint.arb(1)
    return gap is None or float((gap / scale).mid()) < SMALL


def _at_rest(sde: LinearSDE) -> Iterator[Proof]:
    try:
        law = sde.written_out(stationary_words(sde))
    except Unsupported:
        return
    yield Proof("F S + S F^T + G G^T = 0", "SymPy", is_zero_matrix(sde.F * law + law * sde.F.T + sde.GG))
