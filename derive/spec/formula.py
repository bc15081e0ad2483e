"""A sampler as lines of text: multistep, Runge-Kutta and predictor-corrector steps, read and checked before any diffusion.

    step = ["D = x0(z, t0)", "z = sigma(t1)/sigma(t0)*z - alpha(t1)*expm1(-h)*((1 + 1/(2*r))*D - 1/(2*r)*D[-1])"]

A line gives a name a linear combination of values, in the order written; ``z`` is the state, and its last value is the new
one.  A value is a name defined before, or

    x0(y, s), eps(y, s), score(y, s), v(y, s)    one network call at the value y and time s, converted to that quantity
    A(y, q, s), drift(y, q, s)                   a part of the split, or all of it, at y with the score q: linear y + score q
    D[-1], D[-2], D[-3]                          the value that the name D had at the end of that earlier step
    xi, xi1, xi2, ...                            a standard normal, the same wherever it stands within a step

A coefficient is an expression in t0, t1, t_m1, t_m2, t_m3 (the times of earlier steps), the lets, the sampler's parameters and

    alpha(s), sigma(s), lambda(s), rho(s)        of a diffusion of one block: log(alpha/sigma), sigma/alpha
    t(l)                                         the time at which lambda is l
    expm1(a), phi1(a), ..., phi4(a)              phi_k(a) = (phi_{k-1}(a) - 1/(k-1)!)/a, phi_0 = exp

``warmup`` holds the programs of the first rows of a grid, ``final`` those of the last; each row reads only steps that it has.
The program of row 0 may set what later rows read as the value of a step before the first: "D[-1] = x0(z, t0)".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sympy as sp

from ..maths.calculus import EARLIER

FAMILIES = ("multistep", "runge-kutta", "predictor-corrector")
NETWORK = ("x0", "eps", "score", "v")
SCALAR = ("alpha", "sigma", "lambda", "rho", "t", "phi1", "phi2", "phi3", "phi4")
ONE_BLOCK = ("x0", "eps", "v", "alpha", "sigma", "lambda", "rho", "t")  # words that only a diffusion of one block has
MAX_LINES = 32
MAX_WARMUP, MAX_FINAL = 3, 2
NOISE = re.compile(r"xi\d{0,2}")
EARLIER_VALUE = re.compile(r"([A-Za-z][A-Za-z0-9]{0,19})\[-([123])\]")
TIMES = ("t0", "t1", *(time.name for time in EARLIER[:3]))


@dataclass(frozen=True)
class Applied:
    """``word(values..., scalars...)``: what a symbol of a line stands for."""

    word: str
    values: tuple[str, ...] = ()
    scalars: tuple[sp.Expr, ...] = ()


@dataclass(frozen=True)
class Line:
    """``target`` = the sum of coefficient times value; a value is a name, an earlier one, a normal or an Applied."""

    text: str
    target: str
    terms: tuple[tuple[sp.Expr, str], ...]


@dataclass(frozen=True)
class Formula:
    """The lines of a sampler: of a step, of the first rows (in order) and of the last rows (the last one last).

    ``applied`` says what the symbols of coefficients and values stand for; ``history`` holds (name, depth) of what is
    carried.
    """

    step: tuple[Line, ...]
    warmup: tuple[tuple[Line, ...], ...]
    final: tuple[tuple[Line, ...], ...]
    let: Mapping[str, sp.Expr]
    applied: Mapping[str, Applied]
    history: tuple[tuple[str, int], ...]
    texts: Mapping[str, str] = field(default_factory=dict)  # of the lets, as written

    @property
    def words(self) -> set[str]:
        """The words that stand in the lines and lets."""
        return {applied.word for applied in self.applied.values()}

    @property
    def programs(self) -> tuple[tuple[Line, ...], ...]:
        return (self.step, *self.warmup, *self.final)

    def calls(self, lines: Iterable[Line]) -> int:
        """Network calls of a program."""
        used = {value for line in lines for _, value in line.terms if value in self.applied}
        return sum(self.applied[value].word in NETWORK for value in used)
